#include "bind/core/named.h"

#include <cstring>

#include "core/check.h"

namespace py = pybind11;

namespace onepass {

py::handle NamedArguments::operator[](const char* name) {
  const py::handle value = find(name);
  if (value) return value;
  throw TypeError(concat(function_, ": ", name, " must be given, got no argument of that name"));
}

py::handle NamedArguments::find(const char* name) {
  for (Py_ssize_t tried = 0; tried < count_; ++tried, ++next_) {
    if (next_ == count_) next_ = 0;
    const char* given = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names_, next_));
    if (!given) throw py::error_already_set();
    if (std::strcmp(given, name) == 0) {
      taken_ |= uint64_t{1} << next_;
      return values_[next_++];
    }
  }
  return {};
}

double NamedArguments::number(const char* name) { return as_number(name, (*this)[name]); }

std::optional<double> NamedArguments::optional_number(const char* name) {
  const py::handle value = (*this)[name];
  if (value.is_none()) return std::nullopt;
  return as_number(name, value);
}

double NamedArguments::as_number(const char* name, py::handle value) const {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1 && PyErr_Occurred()) refuse(name, "a number", value);
  return number;
}

int64_t NamedArguments::integer(const char* name) {
  const py::handle value = (*this)[name];
  const long long number = PyLong_AsLongLong(value.ptr());
  if (number == -1 && PyErr_Occurred()) refuse(name, "an int64", value);
  return number;
}

bool NamedArguments::flag(const char* name) {
  const py::handle value = (*this)[name];
  const int flag = PyObject_IsTrue(value.ptr());
  if (flag < 0) refuse(name, "a bool", value);
  return flag != 0;
}

const char* NamedArguments::text(const char* name) {
  const py::handle value = (*this)[name];
  if (value.is_none()) return nullptr;
  const char* text = PyUnicode_Check(value.ptr()) ? PyUnicode_AsUTF8(value.ptr()) : nullptr;
  if (!text) refuse(name, "a str", value);
  return text;
}

void NamedArguments::check_end() const {
  for (Py_ssize_t i = 0; i < count_; ++i) {
    if (taken_ >> i & 1) continue;
    throw TypeError(concat(function_, ": ", PyUnicode_AsUTF8(PyTuple_GET_ITEM(names_, i)),
                           " must not be given, got one, and this function has no such argument"));
  }
}

void NamedArguments::refuse(const char* name, const char* wanted, py::handle got) const {
  PyErr_Clear();
  constexpr size_t kMost = 200;  // an array's or a dict's text has no end
  std::string shown = py::repr(got).cast<std::string>();
  if (shown.size() > kMost) shown = py::str(py::type::handle_of(got).attr("__name__")).cast<std::string>();
  throw TypeError(concat(function_, ": ", name, " must be ", wanted, ", got ", shown));
}

void set_python_error() {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (...) {
    // The translators of module.cpp, then pybind11's own.
    py::detail::try_translate_exceptions();
  }
}

}  // namespace onepass
