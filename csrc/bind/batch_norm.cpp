// batch_norm.cpp - the binding of batch normalisation: training forward, inference, backward.

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "bind/control.h"
#include "bind/optim.h"
#include "bind/overlap.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

using Seed = std::variant<uint64_t, py::object>;

// Reads and checks the tensors of one call. x comes first: the others are held against it.
class Call {
 public:
  Call(const char* function, py::handle x) : function_(function) {
    const ArgumentName where = name("x");
    x_ = reader_.read(x.ptr(), where);
    op_.dtype = float_dtype(x_, where);
    op_.shape = shape_of(where);
    OP_CHECK(x_.device.device_type == dlpack::kDLCPU || uses_cuda_kernels(x_.device), ShapeError,
             to_string(where), " must be on cpu or cuda, got ", device_name(x_.device));
    op_.x = x_.data;
    overlap_.add(x_, x_.numel * size_of(op_.dtype), false, where);
  }

  BatchNorm& op() { return op_; }
  bool cuda() const { return uses_cuda_kernels(x_.device); }
  DType statistics_dtype() const { return op_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }
  Launch launch(int threads) { return launch_on(x_.device, threads, reader_); }
  void check_overlap() { overlap_.run(); }

  // A tensor that has x's shape, dtype and strides; nullptr for None.
  void* like_x(const char* list, py::handle tensor, bool written) {
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    check_dtype(view, where, op_.dtype, "x");
    OP_CHECK(same_shape(view, x_), ShapeError, to_string(where), " must have x's shape ",
             shape_name(x_.shape, x_.ndim), ", got ", shape_name(view.shape, view.ndim));
    OP_CHECK(same_strides(view, x_), ShapeError, to_string(where), " must have x's strides, got other ones");
    overlap_.add(view, view.numel * size_of(op_.dtype), written, where);
    return view.data;
  }

  // One element each channel, of dtype `wanted`.
  void* per_channel(const char* list, py::handle tensor, DType wanted, bool written) {
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    check_dtype(view, where, wanted, "the statistics of x");
    return per_channel(view, where, wanted, written);
  }

  // The same with the dtype of the parameters, which the first of them sets: x's, or float32 for a half one.
  void* param(const char* list, py::handle tensor, bool written) {
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    const DType dtype = float_dtype(view, where);
    if (!has_params_) {
      const bool mixed = dtype == DType::kFloat32 && size_of(op_.dtype) == 2;
      OP_CHECK(dtype == op_.dtype || mixed, KindError, to_string(where), " must be ", name_of(op_.dtype),
               size_of(op_.dtype) == 2 ? " or torch.float32" : "", ", got ", name_of(dtype));
      op_.param_dtype = dtype;
      has_params_ = true;
    }
    check_dtype(view, where, op_.param_dtype, "the first parameter");
    return per_channel(view, where, dtype, written);
  }

  // `what`: torch's name of the type.
  TensorView plain(const char* list, py::handle tensor, const char* what, int64_t numel, bool written) {
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    OP_CHECK(dtype_name(view.stored) == what, KindError, to_string(where), " must be ", what, ", got ",
             dtype_name(view.stored));
    OP_CHECK(view.numel == numel && is_dense(view), ShapeError, to_string(where), " must be dense and have ",
             numel, numel == 1 ? " element" : " elements", ", got ", view.numel);
    return view;
  }

  void set_momentum(const std::optional<double>& momentum, py::handle batches) {
    OP_CHECK(momentum.has_value() != !batches.is_none(), ShapeError, function_,
             ": batches must be given if and only if momentum is None, got ", momentum ? "both" : "neither");
    if (momentum) op_.momentum = *momentum;
    if (batches.is_none()) return;
    op_.batches = reinterpret_cast<const int64_t*>(plain("batches", batches, "torch.int64", 1, false).data);
  }

  void set_activation(const std::optional<std::string>& activation, double dropout, const Seed& seed) {
    OP_CHECK(!activation || *activation == "relu", ShapeError, function_,
             ": activation must be None or \"relu\", got \"", activation.value_or(""), "\"");
    OP_CHECK(dropout >= 0 && dropout <= 1, ShapeError, function_, ": dropout must be from 0 to 1, got ",
             dropout);
    op_.relu = activation.has_value();
    op_.dropout = dropout;
    if (const uint64_t* value = std::get_if<uint64_t>(&seed)) {
      op_.seed = *value;
    } else {
      const TensorView view = plain("seed", std::get<py::object>(seed), "torch.int64", 1, false);
      op_.device_seed = reinterpret_cast<const int64_t*>(view.data);
    }
  }

  void set_mask(py::handle mask, bool needed, bool written) {
    OP_CHECK(needed != mask.is_none(), ShapeError, function_,
             ": mask must be given if and only if activation is \"relu\" and there is a residual");
    if (mask.is_none()) return;
    const TensorView view = plain("mask", mask, "torch.uint8", (x_.numel + 7) / 8, written);
    overlap_.add(view, view.numel, written, name("mask"));
    op_.mask = reinterpret_cast<uint8_t*>(view.data);
  }

  void set_workspace(py::handle workspace, int64_t needed) {
    const auto rows = rows_of<double>(workspace, name("workspace"), x_.device, reader_);
    OP_CHECK(rows.count >= needed, ShapeError, function_, ": workspace must have ", needed, " elements, got ",
             rows.count);
    op_.workspace = rows.data;
  }

 private:
  ArgumentName name(const char* list) const { return {function_, list}; }

  ChannelShape shape_of(const ArgumentName& where) const {
    OP_CHECK(x_.ndim >= 2, ShapeError, to_string(where), " must have at least 2 dimensions, got ", x_.ndim);
    OP_CHECK(x_.numel > 0, ShapeError, to_string(where), " must have elements, got shape ",
             shape_name(x_.shape, x_.ndim));
    std::vector<int32_t> first, last{0};
    for (int32_t d = 0; d < x_.ndim; ++d) first.push_back(d);
    for (int32_t d = 2; d < x_.ndim; ++d) last.push_back(d);
    last.push_back(1);
    ChannelShape shape;
    shape.batch = x_.shape[0];
    shape.channels = x_.shape[1];
    shape.positions = x_.numel / (shape.batch * shape.channels);
    const bool in_order = lies_in_order(x_, first);
    OP_CHECK(in_order || lies_in_order(x_, last), ShapeError, to_string(where),
             " must be contiguous or channels last, got strides ", shape_name(x_.strides, x_.ndim),
             " for shape ", shape_name(x_.shape, x_.ndim));
    // Where both hold the wider rows are walked.
    shape.channels_last = !in_order || (shape.positions == 1 && shape.channels > 1);
    if (shape.channels == 1) {
      shape.positions *= shape.batch;
      shape.batch = 1;
      shape.channels_last = false;
    }
    return shape;
  }

  TensorView read(py::handle tensor, const ArgumentName& where, bool written) {
    const TensorView view = reader_.read(tensor.ptr(), where);
    OP_CHECK(view.device.device_type == x_.device.device_type && view.device.device_id == x_.device.device_id,
             ShapeError, to_string(where), " must be on ", device_name(x_.device), " like x, got ",
             device_name(view.device));
    OP_CHECK(!written || !view.read_only, ShapeError, to_string(where),
             " must be writable, got a read-only array");
    return view;
  }

  void check_dtype(const TensorView& view, const ArgumentName& where, DType wanted, const char* like) const {
    const DType dtype = float_dtype(view, where);
    OP_CHECK(dtype == wanted, KindError, to_string(where), " must be ", name_of(wanted), " like ", like,
             ", got ", name_of(dtype));
  }

  void* per_channel(const TensorView& view, const ArgumentName& where, DType dtype, bool written) {
    OP_CHECK(view.numel == x_.shape[1] && is_dense(view), ShapeError, to_string(where),
             " must be dense and have one element for each of ", x_.shape[1], " channels, got ", view.numel);
    overlap_.add(view, view.numel * size_of(dtype), written, where);
    return view.data;
  }

  const char* function_;
  TensorReader reader_;
  OverlapCheck overlap_;
  TensorView x_;
  BatchNorm op_;
  bool has_params_ = false;
};

int64_t workspace_of(const Call& call, const ChannelShape& shape) {
  return call.cuda() ? cuda::batch_norm_workspace(shape) : cpu_workspace(shape);
}

void forward(const py::object& x, const py::object& y, const py::object& weight, const py::object& bias,
             const py::object& residual, const py::object& mean, const py::object& invstd,
             const py::object& running_mean, const py::object& running_var, std::optional<double> momentum,
             const py::object& batches, double eps, const std::optional<std::string>& activation,
             double dropout, const Seed& seed, const py::object& mask, const py::object& workspace,
             int threads) {
  Call call("batch_norm", x);
  BatchNorm& op = call.op();
  op.eps = eps;
  op.y = call.like_x("y", y, true);
  op.residual = call.like_x("residual", residual, false);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.running_mean = call.param("running_mean", running_mean, true);
  op.running_var = call.param("running_var", running_var, true);
  op.mean = call.per_channel("mean", mean, call.statistics_dtype(), true);
  op.invstd = call.per_channel("invstd", invstd, call.statistics_dtype(), true);
  OP_CHECK(op.y && op.mean && op.invstd, KindError,
           "batch_norm: y, mean and invstd must be tensors, got None");
  call.set_momentum(momentum, batches);
  call.set_activation(activation, dropout, seed);
  call.set_mask(mask, op.relu && op.residual, true);
  call.set_workspace(workspace, workspace_of(call, op.shape));
  call.check_overlap();
  const Launch launch = call.launch(threads);
  py::gil_scoped_release release;
  (call.cuda() ? cuda::batch_norm_forward : cpu::batch_norm_forward)(op, launch);
}

void inference(const py::object& x, const py::object& y, const py::object& weight, const py::object& bias,
               const py::object& residual, const py::object& mean, const py::object& var, double eps,
               const std::optional<std::string>& activation, double dropout, const Seed& seed,
               const py::object& mask, int threads) {
  Call call("batch_norm", x);
  BatchNorm& op = call.op();
  op.eps = eps;
  op.y = call.like_x("y", y, true);
  op.residual = call.like_x("residual", residual, false);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.running_mean = call.param("mean", mean, false);
  op.running_var = call.param("var", var, false);
  OP_CHECK(op.y && op.running_mean && op.running_var, KindError,
           "batch_norm: y, mean and var must be tensors, got None");
  call.set_activation(activation, dropout, seed);
  call.set_mask(mask, op.relu && op.residual, true);
  call.check_overlap();
  const Launch launch = call.launch(threads);
  if (call.cuda()) {
    py::gil_scoped_release release;
    return cuda::batch_norm_inference(op, launch);
  }
  std::vector<double> workspace(size_t(op.shape.channels * kChannelParams));
  op.workspace = workspace.data();
  py::gil_scoped_release release;
  cpu::batch_norm_inference(op, launch);
}

void backward(const py::object& dy, const py::object& x, const py::object& dx, const py::object& dweight,
              const py::object& dbias, const py::object& dresidual, const py::object& weight,
              const py::object& bias, const py::object& mean, const py::object& invstd,
              const std::optional<std::string>& activation, double dropout, const Seed& seed,
              const py::object& mask, bool training, const py::object& workspace, int threads) {
  Call call("batch_norm_backward", x);
  BatchNorm& op = call.op();
  op.training = training;
  op.dy = call.like_x("dy", dy, false);
  op.dx = call.like_x("dx", dx, true);
  op.dresidual = call.like_x("dresidual", dresidual, true);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.dweight = call.param("dweight", dweight, true);
  op.dbias = call.param("dbias", dbias, true);
  op.mean = call.per_channel("mean", mean, call.statistics_dtype(), false);
  op.invstd = call.per_channel("invstd", invstd, call.statistics_dtype(), false);
  OP_CHECK(op.dy && op.mean && op.invstd, KindError,
           "batch_norm_backward: dy, mean and invstd must be tensors, got None");
  call.set_activation(activation, dropout, seed);
  if (!mask.is_none()) call.set_mask(mask, op.relu, false);
  call.set_workspace(workspace, workspace_of(call, op.shape));
  call.check_overlap();
  const Launch launch = call.launch(threads);
  py::gil_scoped_release release;
  (call.cuda() ? cuda::batch_norm_backward : cpu::batch_norm_backward)(op, launch);
}

int64_t workspace(const py::object& x, int) {
  Call call("batch_norm", x);
  return workspace_of(call, call.op().shape);
}

}  // namespace

void register_batch_norm(py::module_& module) {
  using py::arg;
  module.def("batch_norm_forward", &forward, arg("x"), arg("y"), arg("weight"), arg("bias"), arg("residual"),
             arg("mean"), arg("invstd"), arg("running_mean"), arg("running_var"), arg("momentum"),
             arg("batches"), arg("eps"), arg("activation"), arg("dropout"), arg("seed"), arg("mask"),
             arg("workspace"), arg("threads"));
  module.def("batch_norm_inference", &inference, arg("x"), arg("y"), arg("weight"), arg("bias"),
             arg("residual"), arg("mean"), arg("var"), arg("eps"), arg("activation"), arg("dropout"),
             arg("seed"), arg("mask"), arg("threads"));
  module.def("batch_norm_backward", &backward, arg("dy"), arg("x"), arg("dx"), arg("dweight"), arg("dbias"),
             arg("dresidual"), arg("weight"), arg("bias"), arg("mean"), arg("invstd"), arg("activation"),
             arg("dropout"), arg("seed"), arg("mask"), arg("training"), arg("workspace"), arg("threads"));
  module.def("batch_norm_workspace", &workspace, arg("x"), arg("threads"));
}

}  // namespace onepass
