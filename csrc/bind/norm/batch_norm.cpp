// batch_norm.cpp - the binding of batch normalisation: training forward, inference, backward.

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace batch_norm_binding {

class Call : public LayerCall {
 public:
  Call(const char* function, py::handle x, int threads) : LayerCall(function, x, threads) {
    op_.dtype = dtype_;
    op_.shape = shape_of(name("input"));
    op_.x = input_.data;
  }

  BatchNorm& op() { return op_; }

  void* like_x(const char* list, py::handle tensor, bool written) {
    return like_input(list, tensor, op_.dtype, written);
  }

  // One element each channel, of the dtype of the arithmetic.
  void* statistic(const char* list, py::handle tensor, bool written) {
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    const DType wide = op_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    expect(view, where, wide, "the statistics of input");
    return part(view, where, op_.shape.channels, written);
  }

  // The same with the dtype of the parameters, which the first of them sets: x's, or float32 for a half one.
  void* param(const char* list, py::handle tensor, bool written) {
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    const DType dtype = float_dtype(view, where);
    if (!has_params_) {
      const bool mixed = dtype == DType::kFloat32 && size_of(op_.dtype) == 2;
      OP_CHECK(dtype == op_.dtype || mixed, TypeError, to_string(where), " must be ", name_of(op_.dtype),
               size_of(op_.dtype) == 2 ? " or torch.float32" : "", ", got ", name_of(dtype));
      op_.param_dtype = dtype;
      has_params_ = true;
    }
    expect(view, where, op_.param_dtype, "the first parameter");
    return part(view, where, op_.shape.channels, written);
  }

  void set_momentum(const std::optional<double>& momentum, py::handle batches) {
    OP_CHECK(momentum.has_value() != !batches.is_none(), ValueError, function_,
             ": batches must be given if and only if momentum is None, got ", momentum ? "both" : "neither");
    if (momentum) op_.momentum = *momentum;
    op_.batches = static_cast<const int64_t*>(part("batches", batches, "torch.int64", 1, false));
  }

  void set_activation(const std::optional<std::string>& activation, double dropout) {
    OP_CHECK(!activation || *activation == "relu", ValueError, function_,
             ": activation must be None or \"relu\", got \"", activation.value_or(""), "\"");
    OP_CHECK(dropout >= 0 && dropout <= 1, ValueError, function_, ": dropout must be from 0 to 1, got ",
             dropout);
    op_.relu = activation.has_value();
    op_.dropout = dropout;
  }

  void set_mask(py::handle mask, bool needed, bool written) {
    OP_CHECK(needed != mask.is_none(), ValueError, function_,
             ": mask must be given if and only if activation is \"relu\" and there is a residual, got ",
             mask.is_none() ? "None" : "one");
    op_.mask = static_cast<uint8_t*>(part("mask", mask, "torch.uint8", (input_.numel + 7) / 8, written));
  }

 private:
  ChannelShape shape_of(const ArgumentName& where) const {
    OP_CHECK(input_.ndim >= 2, ValueError, to_string(where), " must have at least 2 dimensions, got ",
             input_.ndim);
    OP_CHECK(input_.numel > 0, ValueError, to_string(where), " must have elements, got shape ",
             shape_name(input_.shape, input_.ndim));
    std::vector<int32_t> first, last{0};
    for (int32_t d = 0; d < input_.ndim; ++d) first.push_back(d);
    for (int32_t d = 2; d < input_.ndim; ++d) last.push_back(d);
    last.push_back(1);
    ChannelShape shape;
    shape.batch = input_.shape[0];
    shape.channels = input_.shape[1];
    shape.positions = input_.numel / (shape.batch * shape.channels);
    const bool in_order = lies_in_order(input_, first);
    OP_CHECK(in_order || lies_in_order(input_, last), ValueError, to_string(where),
             " must be contiguous or channels last, got strides ", shape_name(input_.strides, input_.ndim),
             " for shape ", shape_name(input_.shape, input_.ndim));
    // Where both hold the wider rows are walked.
    shape.channels_last = !in_order || (shape.positions == 1 && shape.channels > 1);
    if (shape.channels == 1) {
      shape.positions *= shape.batch;
      shape.batch = 1;
      shape.channels_last = false;
    }
    return shape;
  }

  BatchNorm op_;
  bool has_params_ = false;
};

py::object forward(const py::object& x, const py::object& y, const py::object& weight, const py::object& bias,
                   const py::object& residual, const py::object& mean, const py::object& invstd,
                   const py::object& running_mean, const py::object& running_var,
                   std::optional<double> momentum, const py::object& batches, double eps,
                   const std::optional<std::string>& activation, double dropout, const Seed& seed,
                   const py::object& mask, const py::object& workspace, int threads) {
  Call call("batch_norm", x, threads);
  BatchNorm& op = call.op();
  op.eps = eps;
  op.y = call.like_x("y", y, true);
  op.residual = call.like_x("residual", residual, false);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.running_mean = call.param("running_mean", running_mean, true);
  op.running_var = call.param("running_var", running_var, true);
  op.mean = call.statistic("mean", mean, true);
  op.invstd = call.statistic("invstd", invstd, true);
  OP_CHECK(op.y && op.mean && op.invstd, TypeError,
           "batch_norm: y, mean and invstd must be tensors, got None");
  call.set_momentum(momentum, batches);
  call.set_activation(activation, dropout);
  call.set_mask(mask, op.relu && op.residual, true);
  op.workspace = call.workspace(workspace, call.target().kernels->batch_norm_workspace(op.shape));
  call.check_overlap();
  py::object drawn = call.set_seed(op, seed);
  py::gil_scoped_release release;
  call.target().kernels->batch_norm_forward(op, call.target().launch);
  return drawn;
}

py::object inference(const py::object& x, const py::object& y, const py::object& weight,
                     const py::object& bias, const py::object& residual, const py::object& mean,
                     const py::object& var, double eps, const std::optional<std::string>& activation,
                     double dropout, const Seed& seed, const py::object& mask, int threads) {
  Call call("batch_norm", x, threads);
  BatchNorm& op = call.op();
  op.eps = eps;
  op.y = call.like_x("y", y, true);
  op.residual = call.like_x("residual", residual, false);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.running_mean = call.param("running_mean", mean, false);
  op.running_var = call.param("running_var", var, false);
  OP_CHECK(op.y && op.running_mean && op.running_var, TypeError,
           "batch_norm: y, mean and var must be tensors, got None");
  call.set_activation(activation, dropout);
  call.set_mask(mask, op.relu && op.residual, true);
  call.check_overlap();
  py::object drawn = call.set_seed(op, seed);
  std::vector<double> workspace(call.target().on_gpu ? 0 : size_t(op.shape.channels * kChannelParams));
  op.workspace = workspace.data();
  py::gil_scoped_release release;
  call.target().kernels->batch_norm_inference(op, call.target().launch);
  return drawn;
}

void backward(const py::object& dy, const py::object& x, const py::object& dx, const py::object& dweight,
              const py::object& dbias, const py::object& dresidual, const py::object& weight,
              const py::object& bias, const py::object& mean, const py::object& invstd,
              const std::optional<std::string>& activation, double dropout, const Seed& seed,
              const py::object& mask, bool training, const py::object& workspace, int threads) {
  Call call("batch_norm_backward", x, threads);
  BatchNorm& op = call.op();
  op.training = training;
  op.dy = call.like_x("dy", dy, false);
  op.dx = call.like_x("dx", dx, true);
  op.dresidual = call.like_x("dresidual", dresidual, true);
  op.weight = call.param("weight", weight, false);
  op.bias = call.param("bias", bias, false);
  op.dweight = call.param("dweight", dweight, true);
  op.dbias = call.param("dbias", dbias, true);
  op.mean = call.statistic("mean", mean, false);
  op.invstd = call.statistic("invstd", invstd, false);
  OP_CHECK(op.dy && op.mean && op.invstd, TypeError,
           "batch_norm_backward: dy, mean and invstd must be tensors, got None");
  call.set_activation(activation, dropout);
  if (!mask.is_none()) call.set_mask(mask, op.relu, false);
  op.workspace = call.workspace(workspace, call.target().kernels->batch_norm_workspace(op.shape));
  call.check_overlap();
  py::object drawn = call.set_seed(op, seed);
  py::gil_scoped_release release;
  call.target().kernels->batch_norm_backward(op, call.target().launch);
}

int64_t workspace(const py::object& x) {
  Call call("batch_norm", x, 1);
  return call.target().kernels->batch_norm_workspace(call.op().shape);
}

}  // namespace batch_norm_binding

void register_batch_norm(py::module_& module) {
  using namespace batch_norm_binding;
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
  module.def("batch_norm_workspace", &workspace, arg("x"));
}

}  // namespace onepass
