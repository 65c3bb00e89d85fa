// optim.h - what the bindings of the optimizers share: how a step's tensors and scalars reach them.
//
// A step comes in two ways. The `*_step` functions take the optimizer's own state dict and gather from it
// what each parameter needs; they accept only the regular case (every state there, every layout that of its
// parameter) and answer False to anything else, having changed nothing. The list functions take explicit
// lists, as torch's functional API, and say what is wrong. Both check every tensor before any is written.
#pragma once

#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <vector>

#include "bind/core/record.h"
#include "bind/core/scratch.h"
#include "bind/core/shared.h"
#include "bind/core/target.h"
#include "bind/optim/batch.h"
#include "kernels/kernels.h"

namespace onepass {

// Gradients of the parameters, kept alive until the kernel has read them: another thread may drop p.grad. On
// a free-threaded build also the states, which another thread may take out of their dicts before the plan
// holds them.
class Held {
 public:
  // The gradient, borrowed; nullptr if the parameter has none.
  PyObject* grad_of(PyObject* param) {
    static const Field kGrad("grad");
    PyObject* grad = PyObject_GetAttr(param, kGrad.key());
    if (!grad) throw pybind11::error_already_set();
    if (grad == Py_None) {
      Py_DECREF(grad);
      return nullptr;
    }
    held_.push_back(pybind11::reinterpret_steal<pybind11::object>(grad));
    return grad;
  }
  // The entry, borrowed; nullptr for none.
  PyObject* keep(pybind11::handle entry) { return entry.ptr(); }
  PyObject* keep(pybind11::object&& entry) {
    return entry ? held_.emplace_back(std::move(entry)).ptr() : nullptr;
  }

 private:
  Scratch<pybind11::object, Held> held_;
};

// Looks parameters up in an optimizer's state dict. Parameters mostly come in the dict's own order; then the
// next entry is the one, and no hash is computed (Tensor.__hash__ is a Python function).
class StateCursor {
 public:
  explicit StateCursor(PyObject* state) : state_(state) {}
  // The parameter's own dict, if it has one.
  Entry find(PyObject* param);

 private:
  PyObject* state_;
  Py_ssize_t position_ = 0;
};

// The values of `names` in one parameter's state dict, in the order of names; false if one is missing. Dicts
// mostly list them in this very order under interned keys; then nothing is hashed.
bool find_states(PyObject* own, PyObject* const* names, int count, PyObject** values, Held& held);

// A hyper-parameter that is a Python number, or a one-element tensor whose value the kernel reads.
struct Scalar {
  double value = 0;
  DeviceScalar device;
  dlpack::DLDevice where{};  // of the tensor

  // Throws unless a kernel for tensors of this device can read it.
  void check_reaches(dlpack::DLDevice device, const char* function, const char* name) const;
};
Scalar scalar_of(pybind11::handle object, const char* function, const char* name, TensorReader& reader);

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Throws ValueError unless low <= value < high (high excluded: infinity means finite).
void check_range(const char* function, const char* name, double value, double low, double high);

}  // namespace onepass
