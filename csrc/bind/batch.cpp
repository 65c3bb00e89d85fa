#include "bind/batch.h"

#include <algorithm>

#include "core/check.h"

namespace onepass {

void Batch::add(PyObject* const* row, int lists, int64_t index, bool variant, PlanRow* known) {
  items_.emplace_back();
  kinds_.emplace_back().variant = variant;
  const bool recalled = known && known->holds(row);
  const TensorView param = recalled ? recall(*known, lists, index) : read_new(row, lists, index, known);

  const ArgumentName grad_name{function_, names_[kGrad], index};
  const TensorView grad = reader_.read(row[kGrad], grad_name);
  check_against_param(grad, param, kGrad, index);
  put(kGrad, grad, float_dtype(grad, grad_name), index);

  TensorItem& item = items_.back();
  Kind& kind = kinds_.back();
  kind.device = param.device;
  item.numel = param.numel;
  item.begin = numel_;
  numel_ += param.numel;
  uniform_ = uniform_ && kind == kinds_.front();
  const auto here = [&](dlpack::DLDevice d) {
    return d.device_type == kind.device.device_type && d.device_id == kind.device.device_id;
  };
  if (std::none_of(devices_.begin(), devices_.end(), here)) devices_.push_back(kind.device);
}

// Everything but the gradient, through DLPack, checked; returns the parameter.
TensorView Batch::read_new(PyObject* const* row, int lists, int64_t index, PlanRow* known) {
  if (known) known->clear();
  TensorView param;
  for (int k = 0; k < kRowSize; ++k) {
    if (k == kGrad || (k >= lists && k != kStepCount) || !row[k]) continue;
    const ArgumentName name{function_, k == kStepCount ? "state_steps" : names_[size_t(k)], index};
    const TensorView view = reader_.read(row[k], name);
    const DType dtype = float_dtype(view, name);
    OP_CHECK(!view.read_only, ShapeError, to_string(name), " must be writable, got a read-only array");
    if (k == kParam) {
      param = view;
      OP_CHECK(is_dense(view), ShapeError, to_string(name), " must fill one block of memory, got strides ",
               shape_name(view.strides, view.ndim), " for shape ", shape_name(view.shape, view.ndim));
    } else if (k != kStepCount) {
      check_against_param(view, param, k, index);
    }
    put(k, view, dtype, index);
    if (known) known->note(k, row[k], view, dtype);
  }
  check_dtypes(kinds_.back(), lists, index);
  if (known) known->complete();
  return param;
}

// The same from memory: it was checked when it was noted.
TensorView Batch::recall(const PlanRow& known, int lists, int64_t index) {
  for (int k = kFirstState; k < lists; ++k) put(k, known.view(k), known.dtype(k), index);
  if (known.has_step()) put(kStepCount, known.view(kStepCount), known.dtype(kStepCount), index);
  const TensorView param = known.view(kParam);
  put(kParam, param, known.dtype(kParam), index);
  return param;
}

void Batch::put(int list, const TensorView& view, DType dtype, int64_t index) {
  if (list == kStepCount) {
    step_ = view;
    overlap_.add(view, size_of(dtype), true, "state_steps", index);
    return;
  }
  items_.back().list[list] = view.data;
  kinds_.back().dtype[size_t(list)] = dtype;
  overlap_.add(view, view.numel * size_of(dtype), list != kGrad, names_[size_t(list)], index);
}

void Batch::check_against_param(const TensorView& view, const TensorView& param, int list,
                                int64_t index) const {
  const ArgumentName name{function_, names_[size_t(list)], index};
  OP_CHECK(
      view.device.device_type == param.device.device_type && view.device.device_id == param.device.device_id,
      ShapeError, to_string(name), " must be on ", device_name(param.device), " like its parameter, got ",
      device_name(view.device));
  OP_CHECK(same_shape(view, param), ShapeError, to_string(name), " must have shape ",
           shape_name(param.shape, param.ndim), " like its parameter, got ",
           shape_name(view.shape, view.ndim));
  OP_CHECK(same_strides(view, param), ShapeError, to_string(name),
           " must have the strides of its parameter, got ",
           view.strides ? shape_name(view.strides, view.ndim) : "contiguous ones");
}

void Batch::check_dtypes(const Kind& kind, int lists, int64_t index) const {
  const DType param = kind.dtype[kParam];
  const bool half = param == DType::kBFloat16 || param == DType::kFloat16;
  for (int k = kFirstState; k < lists; ++k) {
    const DType state = kind.dtype[size_t(k)];
    OP_CHECK(state == param || (half && state == DType::kFloat32), KindError,
             to_string({function_, names_[size_t(k)], index}), " must be ", name_of(param),
             " like its parameter", half ? " or torch.float32" : "", ", got ", name_of(state));
    OP_CHECK(state == kind.dtype[kFirstState], KindError, to_string({function_, names_[size_t(k)], index}),
             " must be ", name_of(kind.dtype[kFirstState]), " like ", names_[kFirstState], ", got ",
             name_of(state));
  }
}

}  // namespace onepass
