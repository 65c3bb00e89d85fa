#include "bind/batch.h"

#include "core/check.h"

namespace onepass {

void Batch::reserve(size_t tensors) {
  entries_.reserve(tensors);
  overlap_.reserve(tensors * (kMaxLists + 1));
}

void Batch::add(PyObject* const* row, int lists, int64_t index, bool variant, int64_t rule) {
  Entry entry{};
  entry.variant = variant;
  entry.item.rule = rule;
  TensorView param;
  for (int k = 0; k < lists; ++k) {
    const ArgumentName name{function_, names_[k], index};
    const TensorView view = reader_.read(row[k], name);
    if (k == kParam) {
      param = view;
      entry.device = view.device;
      entry.item.numel = view.numel;
    } else {
      check_against_param(view, param, k, index);
    }
    entry.dtype[k] = float_dtype(view, name);
    entry.item.list[k] = view.data;
    OP_CHECK(k == kGrad || !view.read_only, ShapeError, to_string(name), " must be writable, got a read-only array");
    overlap_.add(view, view.numel * size_of(entry.dtype[k]), k != kGrad, names_[k], index);
  }
  OP_CHECK(is_dense(param), ShapeError, to_string({function_, names_[kParam], index}),
           " must fill one block of memory, got strides ", shape_name(param.strides, param.ndim), " for shape ",
           shape_name(param.shape, param.ndim));
  check_dtypes(entry, lists, index);
  entries_.push_back(entry);
}

void Batch::check_against_param(const TensorView& view, const TensorView& param, int list, int64_t index) const {
  const ArgumentName name{function_, names_[list], index};
  OP_CHECK(view.device.device_type == param.device.device_type && view.device.device_id == param.device.device_id,
           ShapeError, to_string(name), " must be on ", device_name(param.device), " like its parameter, got ",
           device_name(view.device));
  OP_CHECK(same_shape(view, param), ShapeError, to_string(name), " must have shape ",
           shape_name(param.shape, param.ndim), " like its parameter, got ", shape_name(view.shape, view.ndim));
  OP_CHECK(same_strides(view, param), ShapeError, to_string(name), " must have the strides of its parameter, got ",
           view.strides ? shape_name(view.strides, view.ndim) : "contiguous ones");
}

void Batch::check_dtypes(const Entry& entry, int lists, int64_t index) const {
  const DType param = entry.dtype[kParam];
  const bool half = param == DType::kBFloat16 || param == DType::kFloat16;
  for (int k = kFirstState; k < lists; ++k) {
    const DType state = entry.dtype[k];
    OP_CHECK(state == param || (half && state == DType::kFloat32), KindError,
             to_string({function_, names_[k], index}), " must be ", name_of(param), " like its parameter",
             half ? " or torch.float32" : "", ", got ", name_of(state));
    OP_CHECK(state == entry.dtype[kFirstState], KindError, to_string({function_, names_[k], index}), " must be ",
             name_of(entry.dtype[kFirstState]), " like ", names_[kFirstState], ", got ", name_of(state));
  }
}

void Batch::add_scalar(const TensorView& view, const ArgumentName& name) {
  overlap_.add(view, view.stored.bits / 8, true, name.list, name.index);
}

}  // namespace onepass
