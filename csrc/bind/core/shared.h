// shared.h - what calls of several threads have in common: the module's own memory, and Python's lists and
// dicts.
//
// With the GIL one thread at a time is in the bindings, and nobody changes anything until this thread calls
// Python: guards are empty, entries are borrowed, and all of this costs nothing. On a free-threaded build
// (Py_GIL_DISABLED) guards are locks, and an entry is a reference of its own, because another thread may take
// it out of its list or dict at any time.
#pragma once

#include <pybind11/pybind11.h>

namespace onepass {

#if defined(Py_GIL_DISABLED)

// To be held for a few instructions, and never while Python code may run. A thread that waits for it does not
// keep the garbage collector waiting.
class Guard {
 public:
  void lock() { PyMutex_Lock(&mutex_); }
  void unlock() { PyMutex_Unlock(&mutex_); }

 private:
  PyMutex mutex_{};
};

// While it lives nobody else changes the dict.
class DictGuard {
 public:
  explicit DictGuard(PyObject* dict) { PyCriticalSection_Begin(&section_, dict); }
  ~DictGuard() { PyCriticalSection_End(&section_); }
  DictGuard(const DictGuard&) = delete;
  DictGuard& operator=(const DictGuard&) = delete;

 private:
  PyCriticalSection section_;
};

using Entry = pybind11::object;

#else

class Guard {
 public:
  void lock() {}
  void unlock() {}
};

class DictGuard {
 public:
  explicit DictGuard(PyObject*) {}
};

using Entry = pybind11::handle;

#endif

// An entry that was just found, while nobody else changes where it was.
inline Entry borrowed(PyObject* value) {
#if defined(Py_GIL_DISABLED)
  return pybind11::reinterpret_borrow<pybind11::object>(value);
#else
  return value;
#endif
}

// The value of a key; none, and false, if the dict lacks it.
inline Entry dict_entry(PyObject* dict, PyObject* key) {
#if defined(Py_GIL_DISABLED)
  PyObject* value = nullptr;
  if (PyDict_GetItemRef(dict, key, &value) < 0) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(value);
#else
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (!value && PyErr_Occurred()) throw pybind11::error_already_set();
  return value;
#endif
}

// An entry of a list that has, or a moment ago had, more than i.
inline Entry list_entry(PyObject* list, Py_ssize_t i) {
#if defined(Py_GIL_DISABLED)
  PyObject* value = PyList_GetItemRef(list, i);
  if (!value) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(value);
#else
  return PyList_GET_ITEM(list, i);
#endif
}

}  // namespace onepass
