// param_groups.cpp - writes a number for each param group of an optimizer: what a learning rate scheduler
// does at each step, and what takes 40 ns a group in Python.
//
//   value = start + (end - start) f, or end f where there are no starts
//
// Schedulers chain: what another has changed must not be overwritten. So the values that were written last
// may be given; they are compared before anything is written, and replaced by the new ones.

#include <stdexcept>
#include <string>
#include <vector>

#include "bind/core/shared.h"
#include "bind/register.h"

namespace onepass {
namespace {

namespace py = pybind11;

double number(const py::list& list, Py_ssize_t i) {
  const Entry entry = list_entry(list.ptr(), i);
  if (PyFloat_CheckExact(entry.ptr())) return PyFloat_AS_DOUBLE(entry.ptr());
  const double value = PyFloat_AsDouble(entry.ptr());
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// Rounded after each operation, as Python does: a compiler for ARM would fuse the two.
double scaled(double start, double end, double factor) {
  const volatile double product = (end - start) * factor;
  return start + product;
}

void put(PyObject* group, const py::str& field, PyObject* value) {
  if (PyDict_SetItem(group, field.ptr(), value) != 0) throw py::error_already_set();
}

py::object number(double value) {
  auto object = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
  if (!object) throw py::error_already_set();
  return object;
}

// Whether a group holds what was last written into it.
bool holds(PyObject* group, const py::str& field, PyObject* last) {
  const Entry now = dict_entry(group, field.ptr());
  if (!now || !PyFloat_CheckExact(now.ptr()) || !PyFloat_CheckExact(last)) return false;
  return now.ptr() == last || PyFloat_AS_DOUBLE(now.ptr()) == PyFloat_AS_DOUBLE(last);
}

void check(const py::list& groups, const py::list& ends, const py::list& starts, const py::list& lasts) {
  const Py_ssize_t count = PyList_GET_SIZE(groups.ptr());
  for (const py::list& list : {ends, starts, lasts}) {
    if (PyList_GET_SIZE(list.ptr()) != count) {
      throw std::invalid_argument("write_scaled: ends, starts and lasts must have " + std::to_string(count) +
                                  " entries like groups, got " + std::to_string(PyList_GET_SIZE(list.ptr())));
    }
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!PyDict_Check(list_entry(groups.ptr(), i).ptr()))
      throw py::type_error("write_scaled: groups must be a list of dicts, got others");
  }
}

// Returns false, and has changed nothing, if lasts are given and a group holds something else. Groups lie far
// apart in memory, so each is visited once, and put back if a later one is found to hold something else; what
// was there is freed at once, so that the next number takes its place.
bool write_scaled(const py::list& groups, const py::str& field, const py::list& ends, double factor,
                  const py::object& starts, const py::object& lasts) {
  const bool has_starts = !starts.is_none(), has_lasts = !lasts.is_none();
  const py::list first = has_starts ? starts.cast<py::list>() : ends;
  const py::list last = has_lasts ? lasts.cast<py::list>() : ends;
  check(groups, ends, first, last);
  const Py_ssize_t count = PyList_GET_SIZE(groups.ptr());
  std::vector<double> before(has_lasts ? count : 0);
  const auto write = [&](Py_ssize_t i, const py::object& value) {
    put(list_entry(groups.ptr(), i).ptr(), field, value.ptr());
    if (has_lasts && PyList_SetItem(last.ptr(), i, py::object(value).release().ptr()) != 0) {
      throw py::error_already_set();
    }
  };
  py::object value;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (has_lasts) {
      const Entry written = list_entry(last.ptr(), i);
      if (!holds(list_entry(groups.ptr(), i).ptr(), field, written.ptr())) {
        for (Py_ssize_t j = 0; j < i; ++j) write(j, number(before[j]));
        return false;
      }
      before[i] = PyFloat_AS_DOUBLE(written.ptr());
    }
    const double end = number(ends, i);
    const double scaled_end = has_starts ? scaled(number(first, i), end, factor) : end * factor;
    if (has_lasts && scaled_end == before[i]) continue;  // most steps of a decay in stairs
    // Groups in a row that get the same rate share one object, as they would in Python.
    if (!value || scaled_end != PyFloat_AS_DOUBLE(value.ptr())) value = number(scaled_end);
    write(i, value);
  }
  return true;
}

}  // namespace

void register_param_groups(py::module_& module) {
  module.def("write_scaled", &write_scaled, py::arg("groups"), py::arg("field"), py::arg("ends"),
             py::arg("factor"), py::arg("starts"), py::arg("lasts") = py::none());
}

}  // namespace onepass
