#include "bind/core/draw_places.h"

#include "core/check.h"

namespace py = pybind11;

namespace onepass {

DrawPlaces draw_places_of(py::handle part, const char* function, const char* option) {
  OP_CHECK(PyTuple_CheckExact(part.ptr()), TypeError, function, ": ", option,
           " must be None or a tuple of numbers, got ", Py_TYPE(part.ptr())->tp_name);
  const auto given = py::reinterpret_borrow<py::tuple>(part);
  DrawPlaces places;
  places.count = int(given.size() / 2);
  OP_CHECK(given.size() % 2 == 1 && places.count <= DrawPlaces::kMost, ValueError, function, ": ", option,
           " must have a first draw, then sizes and strides of at most ", DrawPlaces::kMost,
           " dimensions, got ", given.size(), " numbers");
  const auto number = [&](int i) { return py::cast<int64_t>(given[size_t(i)]); };
  places.first = number(0);
  bool fits = places.first >= 0;
  for (int k = 0; k < places.count; ++k) {
    places.sizes[k] = number(1 + k);
    places.strides[k] = number(1 + places.count + k);
    fits = fits && places.sizes[k] > 0 && places.strides[k] > 0;
  }
  fits = fits && (places.count == 0 || places.strides[places.count - 1] == 1);
  OP_CHECK(fits, ValueError, function, ": ", option,
           " must have a first draw from 0 on, sizes and strides from 1 on, and 1 as the last stride, got ",
           py::cast<std::string>(py::repr(part)));
  return places;
}

}  // namespace onepass
