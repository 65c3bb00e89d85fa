#include "bind/core/layer.h"

#include "bind/core/struct_array.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {

LayerCall::LayerCall(const char* function, NamedArguments& arguments, bool runs)
    : function_(function), arguments_(arguments) {
  const ArgumentName where = name("input");
  input_ = reader_.read(arguments_["x"].ptr(), where);
  dtype_ = float_dtype(input_, where);
  check_has_kernels(input_.device, where);
  target_ = target_of(input_.device, runs ? int(arguments_.integer("threads")) : 1, reader_);
}

void LayerCall::check_end() {
  arguments_.check_end();
  overlap_.add(input_, input_.numel * size_of(dtype_), in_place_, name("input"));
  overlap_.run();
}

void* LayerCall::like_input(const char* list, py::handle tensor, DType dtype, Access access, bool in_place) {
  if (tensor.is_none()) return nullptr;
  const ArgumentName where = name(list);
  const TensorView view = read(tensor, where, access);
  expect(view, where, dtype, "input");
  OP_CHECK(same_shape(view, input_), ValueError, to_string(where), " must have input's shape ",
           shape_name(input_.shape, input_.ndim), ", got ", shape_name(view.shape, view.ndim));
  OP_CHECK(same_strides(view, input_), ValueError, to_string(where), " must have input's strides, got ",
           view.strides ? shape_name(view.strides, view.ndim) : "contiguous ones");
  if (in_place && view.data == input_.data) {
    in_place_ = true;
  } else {
    overlap_.add(view, view.numel * size_of(dtype), access == Access::kWrite, where);
  }
  return view.data;
}

void* LayerCall::part(const char* list, py::handle tensor, dlpack::DLDataType dtype, int64_t numel,
                      Access access) {
  if (tensor.is_none()) return nullptr;
  const ArgumentName where = name(list);
  const TensorView view = read(tensor, where, access);
  OP_CHECK(view.stored.code == dtype.code && view.stored.bits == dtype.bits, TypeError, to_string(where),
           " must be ", dtype_name(dtype), ", got ", dtype_name(view.stored));
  return part(view, where, numel, access);
}

void* LayerCall::part(const TensorView& view, const ArgumentName& where, int64_t numel, Access access) {
  OP_CHECK(view.numel == numel, ValueError, to_string(where), " must have ", numel,
           numel == 1 ? " element" : " elements", ", got ", view.numel);
  OP_CHECK(is_dense(view), ValueError, to_string(where), " must be dense, got strides ",
           shape_name(view.strides, view.ndim), " for shape ", shape_name(view.shape, view.ndim));
  overlap_.add(view, numel * (view.stored.bits / 8), access == Access::kWrite, where);
  return view.data;
}

double* LayerCall::workspace(int64_t needed) {
  const py::handle tensor = arguments_["workspace"];
  if (tensor.is_none() && input_.device.device_type == dlpack::kDLCPU) {
    // For a small tensor an allocation would be a tenth of the call. One a thread: kernels run without the
    // GIL.
    constexpr int64_t kSmall = 4096;
    thread_local double small[kSmall];
    if (needed <= kSmall) return small;
    own_workspace_.reset(new double[size_t(needed)]);
    return own_workspace_.get();
  }
  const ArgumentName where = name("workspace");
  const auto rows = struct_array_of<double>(tensor, where, input_.device, reader_);
  OP_CHECK(rows.count >= needed, ValueError, to_string(where), " must have ", needed, " elements, got ",
           rows.count);
  return rows.data;
}

TensorView LayerCall::read(py::handle tensor, const ArgumentName& where, Access access) {
  const TensorView view = reader_.read(tensor.ptr(), where);
  OP_CHECK(same_device(view.device, input_.device), ValueError, to_string(where), " must be on ",
           device_name(input_.device), " like input, got ", device_name(view.device));
  OP_CHECK(access == Access::kRead || !view.read_only, ValueError, to_string(where),
           " must be writable, got a read-only array");
  return view;
}

void LayerCall::expect(const TensorView& view, const ArgumentName& where, DType wanted,
                       const char* like) const {
  const DType dtype = float_dtype(view, where);
  OP_CHECK(dtype == wanted, TypeError, to_string(where), " must be ", name_of(wanted), " like ", like,
           ", got ", name_of(dtype));
}

bool LayerCall::goes_with_input(DType dtype) const {
  return dtype == dtype_ || (size_of(dtype_) == 2 && dtype == DType::kFloat32);
}

std::string LayerCall::dtypes_with_input() const {
  return std::string(name_of(dtype_)) + (size_of(dtype_) == 2 ? " or torch.float32" : "");
}

bool LayerCall::lies_in_order(bool last) const {
  return last && input_.ndim > 1 ? lies_as(input_, 1, 2) : lies_as(input_, input_.ndim, input_.ndim);
}

bool lies_as(const TensorView& view, int32_t a, int32_t b) {
  int64_t expected = 1;
  const auto follows = [&](int32_t first, int32_t last) {
    for (int32_t d = last - 1; d >= first; --d) {
      if (view.shape[d] == 1) continue;
      if (view.strides && view.strides[d] != expected) return false;
      expected *= view.shape[d];
    }
    return true;
  };
  return follows(a, b) && follows(b, view.ndim) && follows(0, a);
}

}  // namespace onepass
