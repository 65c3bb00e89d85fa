#include "bind/optim/batch.h"

#include <algorithm>

#include "core/check.h"
#include "loops/tensors/leaves.h"
#include "math/codes.h"

namespace onepass {
namespace {

void check_writable(const TensorView& view, const ArgumentName& name) {
  OP_CHECK(!view.read_only, ValueError, to_string(name), " must be writable, got a read-only array");
}

}  // namespace

void Batch::add(PyObject* const* row, int lists, int64_t index, bool variant, Plan::Turn* turn) {
  items_.emplace_back();
  kinds_.emplace_back().variant = variant;
  kinds_.back().coded = precision_.coded && lists > kFirstState;
  PlanRow* const known = known_ = turn ? turn->next() : nullptr;
  const bool same_objects = known && known->is_of(row);
  // Objects that the row does not hold yet could go while Python code of a tensor class runs.
  if (known && !same_objects) turn->renew(*known, row);

  const ArgumentName param_name = name(kParam, index);
  const TensorView param = reader_.read(row[kParam], param_name);
  param_numel_ = param.numel;
  if (same_objects && known->has_param(param)) {
    put(kParam, param, known->dtype(kParam), index);
    recall_states(*known, lists, index, param);
  } else {
    const DType dtype = float_dtype(param, param_name);
    check_writable(param, param_name);
    OP_CHECK(is_dense(param), ValueError, to_string(param_name),
             " must fill one block of memory, got strides ", shape_name(param.strides, param.ndim),
             " for shape ", shape_name(param.shape, param.ndim));
    put(kParam, param, dtype, index);
    if (same_objects) turn->renew(*known, row);
    if (known) known->note(kParam, param, dtype);
    read_states(row, lists, index, param, known);
  }

  const ArgumentName grad_name = name(kGrad, index);
  const TensorView grad = reader_.read(row[kGrad], grad_name);
  if (known) known->note_places(row[kParam], row[kGrad], param, grad);
  check_against_param(grad, param, kGrad, index);
  if (writes_grads_) check_writable(grad, grad_name);
  put(kGrad, grad, float_dtype(grad, grad_name), index);

  TensorItem& item = items_.back();
  Kind& kind = kinds_.back();
  kind.device = param.device;
  item.number = uint32_t(precision_.first + index);
  item.numel = param.numel;
  item.begin = numel_;
  numel_ += param.numel;
  uniform_ = uniform_ && kind == kinds_.front();
  const auto here = [&](dlpack::DLDevice d) { return same_device(d, kind.device); };
  if (std::none_of(devices_.begin(), devices_.end(), here)) devices_.push_back(kind.device);
}

// States and step count through DLPack, checked.
void Batch::read_states(PyObject* const* row, int lists, int64_t index, const TensorView& param,
                        PlanRow* known) {
  const auto read = [&](int k, const ArgumentName& where) {
    const TensorView view = reader_.read(row[k], where);
    check_writable(view, where);
    if (k != kStepCount) check_against_param(view, param, k, index);
    return view;
  };
  const auto take = [&](int k, const TensorView& view, DType dtype) {
    put(k, view, dtype, index);
    if (known) known->note(k, view, dtype);
  };
  for (int k = kFirstState; k < kRowSize; ++k) {
    if ((k >= lists && k != kEma && k != kStepCount) || k == kLow || !row[k]) continue;
    const ArgumentName where = name(k, index);
    const TensorView view = read(k, where);
    take(k, view, is_coded(k) ? read_codes(view, where) : float_dtype(view, where));
  }
  Kind& kind = kinds_.back();
  if (kind.coded) {
    take(kScales, read_scales(row[kScales], lists, index, param), DType::kFloat32);
  }
  check_dtypes(kind, lists, index);
  set_storage(lists);
  check_has_low(row[kLow], index);
  if (has_low(kind.storage)) {
    const ArgumentName where = name(kLow, index);
    const TensorView view = read(kLow, where);
    check_low(view, kind.storage, kind.dtype[kParam], where);
    // A remainder is no number of its own: it goes by its parameter's dtype.
    take(kLow, view, kind.storage == Storage::kMaster ? DType::kFloat32 : kind.dtype[kParam]);
  }
  if (!row[kEma]) return;
  const DType wide = kind.dtype[kParam] == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const DType ema = kind.dtype[kEma];
  OP_CHECK(ema == wide, TypeError, to_string(name(kEma, index)), " must be ", name_of(wide), ", got ",
           name_of(ema));
}

// Takes states and step count from memory: they were checked when they were noted.
void Batch::recall_states(const PlanRow& known, int lists, int64_t index, const TensorView& param) {
  for (int k = kFirstState; k < lists; ++k) put(k, known.view(k, param), known.dtype(k), index);
  set_storage(lists);
  check_has_low(known.has(kLow), index);
  for (const int k : {kScales, kLow, kEma, kStepCount}) {
    if (known.has(k)) put(k, known.view(k, param), known.dtype(k), index);
  }
}

void Batch::set_storage(int lists) {
  Kind& kind = kinds_.back();
  kind.storage =
      storage_of(precision_.mode, kind.dtype[kParam], kind.dtype[kFirstState], lists - kFirstState);
}

// Options may have changed since the state was made, and the parameter's dtype.
void Batch::check_has_low(bool is_there, int64_t index) const {
  const bool wanted = has_low(kinds_.back().storage);
  OP_CHECK(is_there == wanted, ValueError, to_string(name(kParam, index)), " must have ",
           wanted ? concat("the state ", low_name(kinds_.back().storage)) : "no state of low precision",
           ", got ", is_there ? "one" : "none");
}

int64_t Batch::number_leaves() {
  int64_t count = 0;
  for (TensorItem& item : items_) {
    item.first_leaf = count;
    count += leaves_of(item.numel);
  }
  return count;
}

void Batch::put(int list, const TensorView& view, DType dtype, int64_t index) {
  if (list == kStepCount) {
    step_ = view;
    step_dtype_ = dtype;
    overlap_.add(view, view.numel * size_of(dtype), true, name(list, index));
    return;
  }
  items_.back().list[list] = view.data;
  kinds_.back().dtype[size_t(list)] = dtype;
  overlap_.add(view, bytes_of(list, view, dtype), list != kGrad || writes_grads_, name(list, index));
}

// Codes go by the dtype of what they stand for.
DType Batch::read_codes(const TensorView& view, const ArgumentName& where) const {
  OP_CHECK(view.stored.code == dlpack::kDLUInt && view.stored.bits == 8 && view.stored.lanes == 1, TypeError,
           to_string(where), " must be torch.uint8 with states in 8 bits, got ", dtype_name(view.stored));
  return DType::kFloat32;
}

TensorView Batch::read_scales(PyObject* scales, int lists, int64_t index, const TensorView& param) {
  const ArgumentName where = name(kScales, index);
  OP_CHECK(scales, ValueError, to_string(where), " must be there with states in 8 bits, got none");
  const TensorView view = reader_.read(scales, where);
  check_writable(view, where);
  OP_CHECK(same_device(view.device, param.device), ValueError, to_string(where),
           " must be where its parameter is, on ", device_name(param.device), ", got ",
           device_name(view.device));
  const DType dtype = float_dtype(view, where);
  OP_CHECK(dtype == DType::kFloat32, TypeError, to_string(where), " must hold float32 scales, got ",
           name_of(dtype));
  const int64_t wanted[] = {math::code_blocks(param.numel), lists - kFirstState};
  const int64_t strides[] = {wanted[1], 1};
  const TensorView like{nullptr, wanted[0] * wanted[1], 2, wanted, strides, {}, {}, false};
  OP_CHECK(same_shape(view, like) && same_strides(view, like), ValueError, to_string(where),
           " must be contiguous of shape ", shape_name(wanted, 2), ", got ",
           shape_name(view.shape, view.ndim));
  return view;
}

int64_t Batch::bytes_of(int list, const TensorView& view, DType dtype) const {
  if (is_coded(list)) return view.numel;
  // A remembered view of the scales has its parameter's size.
  const TensorItem& item = items_.back();
  if (list != kScales) return view.numel * size_of(dtype);
  int64_t states = 0;
  for (int k = kFirstState; k < kScales; ++k) states += item.list[k] ? 1 : 0;
  return math::code_blocks(param_numel_) * states * size_of(dtype);
}

void Batch::check_against_param(const TensorView& view, const TensorView& param, int list,
                                int64_t index) const {
  const ArgumentName where = name(list, index);
  OP_CHECK(same_device(view.device, param.device), ValueError, to_string(where), " must be on ",
           device_name(param.device), " like its parameter, got ", device_name(view.device));
  OP_CHECK(same_shape(view, param), ValueError, to_string(where), " must have shape ",
           shape_name(param.shape, param.ndim), " like its parameter, got ",
           shape_name(view.shape, view.ndim));
  OP_CHECK(same_strides(view, param), ValueError, to_string(where),
           " must have the strides of its parameter, got ",
           view.strides ? shape_name(view.strides, view.ndim) : "contiguous ones");
}

void Batch::check_dtypes(const Kind& kind, int lists, int64_t index) const {
  const DType param = kind.dtype[kParam];
  if (kind.coded) {
    OP_CHECK(param != DType::kFloat64, TypeError, to_string(name(kParam, index)),
             " must be torch.float32, torch.bfloat16 or torch.float16 with states in 8 bits, got ",
             name_of(param));
    return;
  }
  // Narrower or wider by choice; the GPU's kernels are made for these pairs.
  const bool half = size_of(param) == 2, single = param == DType::kFloat32;
  const DType other = half ? DType::kFloat32 : single ? DType::kBFloat16 : param;
  for (int k = kFirstState; k < lists; ++k) {
    const DType state = kind.dtype[size_t(k)];
    OP_CHECK(state == param || state == other, TypeError, to_string(name(k, index)), " must be ",
             name_of(param), " like its parameter", other != param ? concat(" or ", name_of(other)) : "",
             ", got ", name_of(state));
    OP_CHECK(state == kind.dtype[kFirstState], TypeError, to_string(name(k, index)), " must be ",
             name_of(kind.dtype[kFirstState]), " like ", names_[kFirstState], ", got ", name_of(state));
  }
}

}  // namespace onepass
