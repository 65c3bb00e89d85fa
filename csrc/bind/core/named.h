// named.h - functions of the module that take their arguments by name alone, at the price of places: a call's
// names are compared with the wanted ones in the order in which both stand. pybind11 makes a Python string of
// each wanted name in each call, 95 ns, where a whole call on a small tensor takes 4 us.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

namespace onepass {

// The arguments of one call. Each is asked for once; the order is free, and that of the call is fastest.
class NamedArguments {
 public:
  // names: a tuple of str, one for each value, or nullptr for no arguments.
  NamedArguments(const char* function, PyObject* const* values, PyObject* names)
      : function_(function), values_(values), names_(names), count_(names ? PyTuple_GET_SIZE(names) : 0) {}

  // The value, borrowed from the call. Throws TypeError if it is missing.
  pybind11::handle operator[](const char* name);
  // The same, or an empty handle if it is missing.
  pybind11::handle find(const char* name);
  // The same as a number, an integer, a truth value. Throws TypeError if it is none.
  double number(const char* name);
  std::optional<double> optional_number(const char* name);  // None gives no value
  int64_t integer(const char* name);
  bool flag(const char* name);
  // The same as text, which the call keeps alive; nullptr for None.
  const char* text(const char* name);

  // Throws TypeError if an argument was given that nobody asked for.
  void check_end() const;

 private:
  double as_number(const char* name, pybind11::handle value) const;
  [[noreturn]] void refuse(const char* name, const char* wanted, pybind11::handle got) const;

  const char* const function_;
  PyObject* const* const values_;
  PyObject* const names_;
  const Py_ssize_t count_;
  Py_ssize_t next_ = 0;
  uint64_t taken_ = 0;  // a bit each value: no function has more than 64
};

// Sets the Python error of the exception that is being handled.
void set_python_error();

// A function of the module whose body takes NamedArguments and returns an object.
template <pybind11::object (*body)(NamedArguments&)>
class NamedFunction {
 public:
  // told: what errors call it, for a function that users know by another name.
  static void define(pybind11::module_& module, const char* name, const char* told = nullptr) {
    definition_.ml_name = name;
    told_ = told ? told : name;
    const pybind11::object where = module.attr("__name__");
    PyObject* made = PyCFunction_NewEx(&definition_, nullptr, where.ptr());
    if (!made) throw pybind11::error_already_set();
    module.attr(name) = pybind11::reinterpret_steal<pybind11::object>(made);
  }

 private:
  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t positions, PyObject* names) {
    if (positions) {
      return PyErr_Format(PyExc_TypeError, "%s: arguments must come by name, got %zd without", told_,
                          positions);
    }
    try {
      NamedArguments arguments(told_, values, names);
      return body(arguments).release().ptr();
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  }

  static inline const char* told_ = nullptr;
  static inline PyMethodDef definition_{nullptr,
                                        reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)),
                                        METH_FASTCALL | METH_KEYWORDS, nullptr};
};

}  // namespace onepass
