// record.h - a record from Python, whose entries are read by name: a dict, or an object with fields (a
// NamedTuple, a dataclass).
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <string>

#include "bind/core/shared.h"
#include "core/check.h"

namespace onepass {

// The name of an entry, interned at the first use. Made where it is used, as a static: it lives as long as
// the process. The compiler initialises it: threads that waited for each other's initialisation would keep
// Python's garbage collector, which stops all threads, waiting as well. Threads that come at once intern the
// same object.
class Field {
 public:
  constexpr explicit Field(const char* name) : name_(name) {}
  const char* name() const { return name_; }
  PyObject* key() const {
    PyObject* key = key_.load(std::memory_order_acquire);
    return key ? key : intern();
  }

 private:
  PyObject* intern() const {
    PyObject* key = PyUnicode_InternFromString(name_);
    if (!key) throw pybind11::error_already_set();
    key_.store(key, std::memory_order_release);
    return key;
  }

  const char* name_;
  mutable std::atomic<PyObject*> key_{nullptr};
};

// A record that somebody else keeps alive. Errors call it `what`, for instance "adam: options.eps must ...".
class Record {
 public:
  Record(pybind11::handle object, const char* function, const char* what)
      : object_(object.ptr()), is_dict_(PyDict_Check(object.ptr())), function_(function), what_(what) {}

  pybind11::object get(const Field& field) const;
  // Whether the entry is something else than None.
  bool has(const Field& field) const { return !get(field).is_none(); }
  double number(const Field& field) const;
  bool flag(const Field& field) const;

  // Throws unless each entry of the dict was read, each once: one that nobody reads would be ignored.
  void check_read() const;

 private:
  std::string place(const Field& field) const { return concat(function_, ": ", what_, ".", field.name()); }

  PyObject* object_;
  bool is_dict_;
  const char* function_;
  const char* what_;
  mutable int read_ = 0;
};

inline pybind11::object Record::get(const Field& field) const {
  ++read_;
  if (is_dict_) {
    const Entry value = dict_entry(object_, field.key());
    if (value) return pybind11::reinterpret_borrow<pybind11::object>(value);
    throw ValueError(concat(function_, ": ", what_, " must hold ", field.name(), ", got none"));
  }
  PyObject* value = PyObject_GetAttr(object_, field.key());
  if (!value) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(value);
}

inline double Record::number(const Field& field) const {
  const pybind11::object value = get(field);
  if (PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw TypeError(concat(place(field), " must be a number, got ", Py_TYPE(value.ptr())->tp_name));
  }
  return number;
}

inline bool Record::flag(const Field& field) const {
  const pybind11::object value = get(field);
  OP_CHECK(PyBool_Check(value.ptr()), TypeError, place(field), " must be True or False, got ",
           Py_TYPE(value.ptr())->tp_name);
  return value.ptr() == Py_True;
}

inline void Record::check_read() const {
  if (!is_dict_ || PyDict_Size(object_) == read_) return;
  const auto names = pybind11::reinterpret_steal<pybind11::object>(PyDict_Keys(object_));
  throw ValueError(concat(function_, ": ", what_, " must hold ", read_, " known entries, got ",
                          std::string(pybind11::str(names))));
}

}  // namespace onepass
