#include "bind/plan.h"

#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

// Gives the data pointer of a tensor object. Set once, at import (onepass/_native.py says where it comes
// from); without it nothing is remembered.
using DataPointer = void* (*)(PyObject*);
DataPointer pointer_function = nullptr;

// Takes the function only if it agrees with what DLPack says of `sample`.
bool use_data_pointer(uintptr_t address, py::handle sample) {
  const auto function = reinterpret_cast<DataPointer>(address);
  TensorReader reader;
  const TensorView view = reader.read(sample.ptr(), {"use_data_pointer", "sample"});
  if (!function || function(sample.ptr()) != view.data) return false;
  pointer_function = function;
  return true;
}

}  // namespace

bool PlanRow::pointer_is_known() { return pointer_function != nullptr; }

bool PlanRow::holds(PyObject* const* objects) const {
  if (!complete_) return false;
  for (int k = 0; k < kRowSize; ++k) {
    if (k == kGrad) continue;
    if (objects[k] != object_[size_t(k)].ptr()) return false;
    if (objects[k] && pointer_function(objects[k]) != data_[size_t(k)]) return false;
  }
  return true;
}

void PlanRow::clear() {
  object_ = {};
  complete_ = false;
}

void PlanRow::note(int place, PyObject* object, const TensorView& view, DType dtype) {
  const auto k = size_t(place);
  object_[k] = py::reinterpret_borrow<py::object>(object);
  data_[k] = view.data;
  dtype_[k] = dtype;
  device_[k] = view.device;
  stored_[k] = view.stored;
  if (place != kParam) return;
  ndim_ = view.ndim;
  numel_ = view.numel;
  for (int32_t d = 0; d < view.ndim && d < kDims; ++d) {
    shape_[size_t(d)] = view.shape[d];
    strides_[size_t(d)] = view.strides ? view.strides[d] : 0;
  }
}

TensorView PlanRow::view(int place) const {
  const auto k = size_t(place);
  TensorView view;
  view.data = data_[k];
  view.numel = place == kStepCount ? 1 : numel_;
  view.stored = stored_[k];
  view.device = device_[k];
  if (place == kParam) {
    view.ndim = ndim_;
    view.shape = shape_.data();
    view.strides = strides_.data();
  }
  return view;
}

void register_plan(py::module_& module) {
  py::class_<Plan>(module, "Plan", py::module_local()).def(py::init<>());
  module.def("use_data_pointer", &use_data_pointer, py::arg("address"), py::arg("sample"));
}

}  // namespace onepass
