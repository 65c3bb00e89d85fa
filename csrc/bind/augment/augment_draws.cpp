// augment_draws.cpp - the binding of what transforms draw (kernels/augment/batch_draws.h). A call of numpy
// costs more than the numbers of a batch, most of all where the caches hold the rest of a training step.

#include "bind/augment/arrays.h"
#include "bind/augment/numbers.h"
#include "bind/register.h"
#include "kernels/augment/batch_draws.h"
#include "math/uniform.h"

namespace py = pybind11;

namespace onepass {
namespace draws_binding {

using Array = py::array_t<double>;
using Words = py::array_t<uint64_t>;
using DenseWords = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

template <class Integer>
void widen(const ArrayView& view, uint64_t* ids) {
  const auto* data = reinterpret_cast<const Integer*>(view.data);
  for (int64_t i = 0; i < view.shape[0]; ++i) {
    const Integer id = data[i * view.strides[0]];
    OP_CHECK(id >= Integer(0), ValueError, "Compose: ids must be at least 0, got ", int64_t(id));
    ids[i] = uint64_t(id);
  }
}

// Numbers of samples, of any integer dtype on the host, as words of 64 bits; None if they have not one
// dimension.
py::object ids_of(py::handle ids) {
  ArrayReader reader("Compose");
  const ArrayView view = reader.read(ids, {"Compose", "ids"});
  const int64_t bits = view.stored.bits;
  const bool is_signed = view.stored.code == dlpack::kDLInt;
  OP_CHECK((is_signed || view.stored.code == dlpack::kDLUInt) && bits > 0, TypeError,
           "Compose: ids must be integers, got ", dtype_name(view.stored));
  if (view.ndim != 1) return py::none();
  Words made(view.shape[0]);
  uint64_t* to = made.mutable_data();
  if (bits == 64) is_signed ? widen<int64_t>(view, to) : widen<uint64_t>(view, to);
  if (bits == 32) is_signed ? widen<int32_t>(view, to) : widen<uint32_t>(view, to);
  if (bits == 16) is_signed ? widen<int16_t>(view, to) : widen<uint16_t>(view, to);
  if (bits == 8) is_signed ? widen<int8_t>(view, to) : widen<uint8_t>(view, to);
  return made;
}

Array draw(uint64_t seed, const DenseWords& ids, uint32_t epoch, const DenseWords& blocks) {
  Array drawn({ids.size(), 4 * blocks.size()});
  draw_uniform(seed, ids.data(), ids.size(), epoch, blocks.data(), blocks.size(), drawn.mutable_data());
  return drawn;
}

Array between(const Array& u, double low, double high) {
  NumberReader reader("augment_between", u.size());
  Array drawn(u.size());
  draw_between(reader.each(u, "u"), u.size(), low, high, drawn.mutable_data());
  return drawn;
}

Array places(const Array& u, py::handle size, double part) {
  NumberReader reader("augment_places", u.size());
  Array drawn(u.size());
  draw_places(reader.each(u, "u"), u.size(), reader.each(size, "size"), part, drawn.mutable_data());
  return drawn;
}

Array applied(const Array& u, double p) {
  NumberReader reader("augment_applied", u.size());
  Array drawn(u.size());
  draw_applied(reader.each(u, "u"), u.size(), p, drawn.mutable_data());
  return drawn;
}

// Samples that have a number other than 0, of those that are chosen.
py::array_t<bool> chosen(const Array& applied, py::handle on) {
  NumberReader reader("augment_chosen", applied.size());
  const Each each = reader.each(applied, "applied");
  const Chosen rows = reader.chosen(on);
  py::array_t<bool> made(applied.size());
  for (int64_t i = 0; i < applied.size(); ++i) made.mutable_data()[i] = rows[i] && each[i] != 0;
  return made;
}

// Angles as turns with the clock within -360 .. 0, and which of the samples only move pixels, which sample;
// None for the first if none does, and for both as `on` says it of all.
py::tuple turns(const Array& angle, py::handle height, py::handle width, bool resized, py::handle on) {
  const int64_t count = angle.size();
  NumberReader reader("augment_turns", count);
  const Each degrees = reader.each(angle, "angle"), high = reader.each(height, "height"),
             wide = reader.each(width, "width");
  const Chosen rows = reader.chosen(on);
  Array clockwise(count);
  py::array_t<bool> exact(count), others(count);
  bool any = false;
  for (int64_t i = 0; i < count; ++i) {
    const double own = math::wound(degrees[i]);
    const bool turns = rows[i] && math::is_turn(own, resized || high[i] == wide[i]);
    clockwise.mutable_data()[i] = -own;
    exact.mutable_data()[i] = turns;
    others.mutable_data()[i] = rows[i] && !turns;
    any |= turns;
  }
  if (!any) return py::make_tuple(clockwise, py::none(), on);
  return py::make_tuple(clockwise, exact, others);
}

Array inverse_affine(const Array& angle, py::handle cos, py::handle sin, py::handle tan_x, py::handle tan_y,
                     py::handle scale, py::handle x, py::handle y, py::handle move_x, py::handle move_y) {
  NumberReader reader("augment_inverse_affine", angle.size());
  Array maps({angle.size(), Py_ssize_t(3), Py_ssize_t(3)});
  inverse_affines({reader.each(angle, "angle"), reader.each(cos, "cos"), reader.each(sin, "sin"),
                   reader.each(tan_x, "tan_x"), reader.each(tan_y, "tan_y"), reader.each(scale, "scale"),
                   reader.each(x, "x"), reader.each(y, "y"), reader.each(move_x, "move_x"),
                   reader.each(move_y, "move_y")},
                  angle.size(), maps.mutable_data());
  return maps;
}

void from_middles(py::handle matrix, py::handle height, py::handle width, py::handle new_height,
                  py::handle new_width) {
  const Py_ssize_t count = PyObject_Length(matrix.ptr());
  if (count < 0) throw py::error_already_set();
  NumberReader reader("augment_from_middles", count);
  auto* maps = const_cast<double*>(reader.maps(matrix, true));
  onepass::from_middles(maps, count, reader.each(height, "height"), reader.each(width, "width"),
                        reader.each(new_height, "new_height"), reader.each(new_width, "new_width"));
}

}  // namespace draws_binding

void register_augment_draws(py::module_& module) {
  using namespace draws_binding;
  using py::arg;
  module.def("augment_ids", &ids_of, arg("ids"));
  module.def("augment_draw", &draw, arg("seed"), arg("ids"), arg("epoch"), arg("blocks"));
  module.def("augment_between", &between, arg("u"), arg("low"), arg("high"));
  module.def("augment_places", &places, arg("u"), arg("size"), arg("part"));
  module.def("augment_applied", &applied, arg("u"), arg("p"));
  module.def("augment_chosen", &chosen, arg("applied"), arg("on"));
  module.def("augment_turns", &turns, arg("angle"), arg("height"), arg("width"), arg("resized"), arg("on"));
  module.def("augment_inverse_affine", &inverse_affine, arg("angle"), arg("cos"), arg("sin"), arg("tan_x"),
             arg("tan_y"), arg("scale"), arg("x"), arg("y"), arg("move_x"), arg("move_y"));
  module.def("augment_from_middles", &draws_binding::from_middles, arg("matrix"), arg("height"), arg("width"),
             arg("new_height"), arg("new_width"));
}

}  // namespace onepass
