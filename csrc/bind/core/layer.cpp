#include "bind/core/layer.h"

#include "bind/core/struct_array.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {

LayerCall::LayerCall(const char* function, py::handle input, int threads) : function_(function) {
  const ArgumentName where = name("input");
  input_ = reader_.read(input.ptr(), where);
  dtype_ = float_dtype(input_, where);
  check_has_kernels(input_.device, where);
  target_ = target_of(input_.device, threads, reader_);
}

void LayerCall::check_overlap() {
  overlap_.add(input_, input_.numel * size_of(dtype_), in_place_, name("input"));
  overlap_.run();
}

void* LayerCall::like_input(const char* list, py::handle tensor, DType dtype, bool written, bool in_place) {
  if (tensor.is_none()) return nullptr;
  const ArgumentName where = name(list);
  const TensorView view = read(tensor, where, written);
  expect(view, where, dtype, "input");
  OP_CHECK(same_shape(view, input_), ValueError, to_string(where), " must have input's shape ",
           shape_name(input_.shape, input_.ndim), ", got ", shape_name(view.shape, view.ndim));
  OP_CHECK(same_strides(view, input_), ValueError, to_string(where), " must have input's strides, got ",
           view.strides ? shape_name(view.strides, view.ndim) : "contiguous ones");
  if (in_place && view.data == input_.data) {
    in_place_ = true;
  } else {
    overlap_.add(view, view.numel * size_of(dtype), written, where);
  }
  return view.data;
}

void* LayerCall::part(const char* list, py::handle tensor, const char* dtype, int64_t numel, bool written) {
  if (tensor.is_none()) return nullptr;
  const ArgumentName where = name(list);
  const TensorView view = read(tensor, where, written);
  const std::string got = dtype_name(view.stored);
  OP_CHECK(got == dtype, TypeError, to_string(where), " must be ", dtype, ", got ", got);
  return part(view, where, numel, written);
}

void* LayerCall::part(const TensorView& view, const ArgumentName& where, int64_t numel, bool written) {
  OP_CHECK(view.numel == numel, ValueError, to_string(where), " must have ", numel,
           numel == 1 ? " element" : " elements", ", got ", view.numel);
  OP_CHECK(is_dense(view), ValueError, to_string(where), " must be dense, got strides ",
           shape_name(view.strides, view.ndim), " for shape ", shape_name(view.shape, view.ndim));
  overlap_.add(view, numel * (view.stored.bits / 8), written, where);
  return view.data;
}

double* LayerCall::workspace(py::handle tensor, int64_t needed) {
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

TensorView LayerCall::read(py::handle tensor, const ArgumentName& where, bool written) {
  const TensorView view = reader_.read(tensor.ptr(), where);
  OP_CHECK(same_device(view.device, input_.device), ValueError, to_string(where), " must be on ",
           device_name(input_.device), " like input, got ", device_name(view.device));
  OP_CHECK(!written || !view.read_only, ValueError, to_string(where),
           " must be writable, got a read-only array");
  return view;
}

void LayerCall::expect(const TensorView& view, const ArgumentName& where, DType wanted,
                       const char* like) const {
  const DType dtype = float_dtype(view, where);
  OP_CHECK(dtype == wanted, TypeError, to_string(where), " must be ", name_of(wanted), " like ", like,
           ", got ", name_of(dtype));
}

}  // namespace onepass
