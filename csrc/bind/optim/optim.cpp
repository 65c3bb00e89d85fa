#include "bind/optim/optim.h"

#include <cmath>

#include "core/check.h"

namespace py = pybind11;

namespace onepass {

Entry StateCursor::find(PyObject* param) {
  {
    const DictGuard guard(state_);
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t next = position_;
    if (PyDict_Next(state_, &next, &key, &value) && key == param) {
      position_ = next;
      return borrowed(value);
    }
  }
  return dict_entry(state_, param);
}

bool find_states(PyObject* own, PyObject* const* names, int count, PyObject** values, Held& held) {
  const DictGuard guard(own);
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  for (int k = 0; k < count; ++k) {
    const bool is_next = PyDict_Next(own, &position, &key, &value) && key == names[k];
    values[k] = held.keep(is_next ? borrowed(value) : dict_entry(own, names[k]));
    if (!values[k]) return false;
  }
  return true;
}

Scalar scalar_of(py::handle object, const char* function, const char* name, TensorReader& reader) {
  Scalar scalar;
  if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) {
    scalar.value = py::cast<double>(object);
    return scalar;
  }
  const ArgumentName where{function, name};
  const TensorView view = reader.read(object.ptr(), where);
  const DType dtype = float_dtype(view, where);
  OP_CHECK(view.numel == 1, ValueError, to_string(where), " must have one element, got ", view.numel);
  OP_CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64, TypeError, to_string(where),
           " must be torch.float32 or torch.float64, got ", name_of(dtype));
  scalar.device = {view.data, dtype};
  scalar.where = view.device;
  return scalar;
}

void Scalar::check_reaches(dlpack::DLDevice device_of_params, const char* function, const char* name) const {
  if (!device.data) return;
  OP_CHECK(same_device(where, device_of_params) && uses_cuda_kernels(where), ValueError, function, ": ", name,
           " must be a number",
           uses_cuda_kernels(device_of_params) ? " or a tensor on " + device_name(device_of_params)
                                               : std::string(),
           " for parameters on ", device_name(device_of_params), ", got a tensor on ", device_name(where));
}

void check_range(const char* function, const char* name, double value, double low, double high) {
  const bool finite_only = std::isinf(high);
  OP_CHECK(value >= low && value < high, ValueError, function, ": ", name, " must be ",
           finite_only ? "finite and at least " : "at least ", low,
           finite_only ? std::string() : concat(" and below ", high), ", got ", value);
}

}  // namespace onepass
