// param_groups.cpp - writes a number for each param group of an optimizer: what a learning rate scheduler
// does at each step, and what takes 40 ns a group in Python.
//
//   value = start + (end - start) f, or end f where there are no starts

#include <stdexcept>
#include <string>

#include "bind/register.h"

namespace onepass {
namespace {

namespace py = pybind11;

double number(const py::list& list, Py_ssize_t i) {
  const double value = PyFloat_AsDouble(PyList_GET_ITEM(list.ptr(), i));
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// Rounded after each operation, as Python does: a compiler for ARM would fuse the two.
double scaled(double start, double end, double factor) {
  const volatile double product = (end - start) * factor;
  return start + product;
}

void write_scaled(const py::list& groups, const py::str& field, const py::list& ends, double factor,
                  const py::object& starts) {
  const Py_ssize_t count = PyList_GET_SIZE(groups.ptr());
  const bool has_starts = !starts.is_none();
  const py::list first = has_starts ? starts.cast<py::list>() : ends;
  if (PyList_GET_SIZE(ends.ptr()) != count || PyList_GET_SIZE(first.ptr()) != count) {
    throw std::invalid_argument("write_scaled: ends and starts must have " + std::to_string(count) +
                                " entries like groups, got " + std::to_string(PyList_GET_SIZE(ends.ptr())) +
                                " and " + std::to_string(PyList_GET_SIZE(first.ptr())));
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* group = PyList_GET_ITEM(groups.ptr(), i);
    if (!PyDict_Check(group))
      throw py::type_error("write_scaled: groups must be a list of dicts, got others");
    const double end = number(ends, i);
    const double value = has_starts ? scaled(number(first, i), end, factor) : end * factor;
    const auto stored = py::reinterpret_steal<py::object>(PyFloat_FromDouble(value));
    if (!stored || PyDict_SetItem(group, field.ptr(), stored.ptr()) != 0) throw py::error_already_set();
  }
}

}  // namespace

void register_param_groups(py::module_& module) {
  module.def("write_scaled", &write_scaled, py::arg("groups"), py::arg("field"), py::arg("ends"),
             py::arg("factor"), py::arg("starts"));
}

}  // namespace onepass
