// batch_norm.cpp - the binding of batch normalisation: training forward, inference, backward.

#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "bind/core/layer.h"
#include "bind/core/struct_array.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace batch_norm_binding {

class Call : public LayerCall {
 public:
  Call(const char* function, NamedArguments& arguments, bool runs = true)
      : LayerCall(function, arguments, runs) {
    op_.dtype = dtype_;
    op_.shape = shape_of(name("input"));
    op_.x = input_.data;
  }

  BatchNorm& op() { return op_; }

  void* like_x(const char* list, Access access) { return like_input(list, op_.dtype, access); }

  // One element each channel, of the dtype of the arithmetic.
  void* statistic(const char* list, Access access) {
    const py::handle tensor = arguments_[list];
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, access);
    const DType wide = op_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    expect(view, where, wide, "the statistics of input");
    return part(view, where, op_.shape.channels, access);
  }

  // The same with the dtype of the parameters, which the first of them sets: x's, or float32 for a half one.
  void* param(const char* list, Access access) {
    const py::handle tensor = arguments_[list];
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, access);
    if (!has_params_) {
      op_.param_dtype = float_dtype(view, where);
      OP_CHECK(goes_with_input(op_.param_dtype), TypeError, to_string(where), " must be ",
               dtypes_with_input(), ", got ", name_of(op_.param_dtype));
      has_params_ = true;
    }
    expect(view, where, op_.param_dtype, "the first parameter");
    return part(view, where, op_.shape.channels, access);
  }

  void set_params() {
    op_.weight = param("weight", Access::kRead);
    op_.bias = param("bias", Access::kRead);
  }

  void set_momentum() {
    const std::optional<double> momentum = arguments_.optional_number("momentum");
    op_.batches = static_cast<const int64_t*>(part("batches", kInt64, 1, Access::kRead));
    OP_CHECK(momentum.has_value() != (op_.batches != nullptr), ValueError, function_,
             ": batches must be given if and only if momentum is None, got ",
             op_.batches ? "both" : "neither");
    if (momentum) op_.momentum = *momentum;
  }

  void set_activation() {
    const char* activation = arguments_.text("activation");
    OP_CHECK(!activation || std::strcmp(activation, "relu") == 0, ValueError, function_,
             ": activation must be None or \"relu\", got \"", activation, "\"");
    op_.relu = activation != nullptr;
    op_.dropout = arguments_.number("dropout");
    OP_CHECK(op_.dropout >= 0 && op_.dropout <= 1, ValueError, function_,
             ": dropout must be from 0 to 1, got ", op_.dropout);
  }

  void set_mask(Access access) {
    op_.mask = static_cast<uint8_t*>(part("mask", kUint8, (input_.numel + 7) / 8, access));
  }

  // Throw unless what forward and backward need is there.
  void check_output() const {
    OP_CHECK(op_.y && op_.mean && op_.invstd, TypeError,
             "batch_norm: y, mean and invstd must be tensors, got None");
  }
  void check_gradient() const {
    OP_CHECK(op_.dy && op_.mean && op_.invstd, TypeError,
             "batch_norm_backward: dy, mean and invstd must be tensors, got None");
  }

  // What this rank sends: memory for it, which may be longer.
  void set_own() {
    const ArgumentName where = name("own");
    const auto numbers = struct_array_of<double>(arguments_["own"], where, input_.device, reader_);
    const int64_t needed = RankNumbers{op_.shape.channels}.size();
    OP_CHECK(numbers.count >= needed, ValueError, to_string(where), " must have ", needed, " elements, got ",
             numbers.count);
    op_.own = numbers.data;
  }

  // Two of the statistics' dtype for each channel.
  void set_terms() {
    const ArgumentName where = name("terms");
    const TensorView view = read(arguments_["terms"], where, Access::kRead);
    expect(view, where, op_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
           "the statistics of input");
    op_.terms = part(view, where, 2 * op_.shape.channels, Access::kRead);
  }

  // The mask that forward writes.
  void set_new_mask() {
    set_mask(Access::kWrite);
    OP_CHECK((op_.relu && op_.residual) == (op_.mask != nullptr), ValueError, function_,
             ": mask must be given if and only if activation is \"relu\" and there is a residual, got ",
             op_.mask ? "one" : "None");
  }

 private:
  ChannelShape shape_of(const ArgumentName& where) const {
    OP_CHECK(input_.ndim >= 2, ValueError, to_string(where), " must have at least 2 dimensions, got ",
             input_.ndim);
    OP_CHECK(input_.numel > 0, ValueError, to_string(where), " must have elements, got shape ",
             shape_name(input_.shape, input_.ndim));
    ChannelShape shape;
    shape.batch = input_.shape[0];
    shape.channels = input_.shape[1];
    shape.positions = input_.numel / (shape.batch * shape.channels);
    const bool in_order = lies_in_order(false);
    OP_CHECK(in_order || lies_in_order(true), ValueError, to_string(where),
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

// The lock of running statistics, which threads may share: their calls move them one after the other. A few
// layers may have the same lock; they wait for each other without need, and for a kernel at most.
std::mutex* turn_of(const void* running_mean) {
  constexpr size_t kTurns = 64, kLine = 64;
  static std::mutex turns[kTurns];
  return running_mean ? &turns[reinterpret_cast<uintptr_t>(running_mean) / kLine % kTurns] : nullptr;
}

// What writes y: x's dtype and order of memory, the parameters.
void set_output(Call& call) {
  call.op().y = call.like_x("y", Access::kWrite);
  call.op().residual = call.like_x("residual", Access::kRead);
  call.set_params();
}

// Runs the kernel that writes y; returns the seed that its dropout drew, or None. turn: as in LayerCall::run.
template <class Kernel>
py::object run_output(Call& call, NamedArguments& arguments, Kernel kernel, std::mutex* turn = nullptr) {
  call.set_activation();
  call.set_new_mask();
  const py::handle seed = arguments["seed"];
  call.check_end();
  py::object drawn = call.set_seed(call.op(), seed);
  call.run(kernel, call.op(), turn);
  return drawn;
}

py::object forward(NamedArguments& arguments) {
  Call call("batch_norm", arguments);
  BatchNorm& op = call.op();
  set_output(call);
  op.running_mean = call.param("running_mean", Access::kWrite);
  op.running_var = call.param("running_var", Access::kWrite);
  op.mean = call.statistic("mean", Access::kWrite);
  op.invstd = call.statistic("invstd", Access::kWrite);
  call.check_output();
  call.set_momentum();
  op.eps = arguments.number("eps");
  op.workspace = call.workspace(call.target().kernels->batch_norm_workspace(op.shape));
  return run_output(call, arguments, &KernelTable::batch_norm_forward, turn_of(op.running_mean));
}

// Writes y with statistics that are there.
py::object write_output(Call& call, NamedArguments& arguments) {
  std::vector<double> workspace(call.target().on_gpu ? 0 : size_t(call.op().shape.channels * kChannelParams));
  call.op().workspace = workspace.data();
  return run_output(call, arguments, &KernelTable::batch_norm_inference);
}

py::object inference(NamedArguments& arguments) {
  Call call("batch_norm", arguments);
  BatchNorm& op = call.op();
  set_output(call);
  op.running_mean = call.param("running_mean", Access::kRead);
  op.running_var = call.param("running_var", Access::kRead);
  OP_CHECK(op.y && op.running_mean && op.running_var, TypeError,
           "batch_norm: y, running_mean and running_var must be tensors, got None");
  op.eps = arguments.number("eps");
  return write_output(call, arguments);
}

// sums: writes dweight and dbias of this rank. elements: writes dx and dresidual. Only one of them: a part of
// the work of several ranks.
py::object backward_of(NamedArguments& arguments, bool sums, bool elements) {
  Call call("batch_norm_backward", arguments);
  BatchNorm& op = call.op();
  op.dy = call.like_x("dy", Access::kRead);
  if (elements) {
    op.dx = call.like_x("dx", Access::kWrite);
    op.dresidual = call.like_x("dresidual", Access::kWrite);
  }
  call.set_params();
  if (sums) {
    op.dweight = call.param("dweight", Access::kWrite);
    op.dbias = call.param("dbias", Access::kWrite);
  }
  op.mean = call.statistic("mean", Access::kRead);
  op.invstd = call.statistic("invstd", Access::kRead);
  call.check_gradient();
  if (sums && elements) op.training = arguments.flag("training");
  if (!elements) call.set_own();
  if (!sums) call.set_terms();
  call.set_activation();
  call.set_mask(Access::kRead);
  OP_CHECK(op.relu || !op.mask, ValueError,
           "batch_norm_backward: mask must be None unless activation is \"relu\", got one");
  op.workspace = call.workspace(call.target().kernels->batch_norm_workspace(op.shape));
  const py::handle seed = arguments["seed"];
  call.check_end();
  const py::object drawn = call.set_seed(op, seed);
  call.run(&KernelTable::batch_norm_backward, op);
  return py::none();
}

py::object backward(NamedArguments& arguments) { return backward_of(arguments, true, true); }

// The parts of training over several ranks. Between moments and apply, and between the two of backward, the
// ranks exchange what is in own (merge_ranks.cpp).

py::object moments(NamedArguments& arguments) {
  Call call("batch_norm", arguments);
  BatchNorm& op = call.op();
  call.set_own();
  op.tag = arguments.number("tag");
  op.workspace = call.workspace(call.target().kernels->batch_norm_workspace(op.shape));
  call.check_end();
  call.run(&KernelTable::batch_norm_moments, op);
  return py::none();
}

py::object apply(NamedArguments& arguments) {
  Call call("batch_norm", arguments);
  set_output(call);
  call.op().mean = call.statistic("mean", Access::kRead);
  call.op().invstd = call.statistic("invstd", Access::kRead);
  call.check_output();
  return write_output(call, arguments);
}

py::object backward_sums(NamedArguments& arguments) { return backward_of(arguments, true, false); }

py::object backward_elements(NamedArguments& arguments) { return backward_of(arguments, false, true); }

py::object workspace(NamedArguments& arguments) {
  Call call("batch_norm", arguments, false);
  call.check_end();
  return py::int_(call.target().kernels->batch_norm_workspace(call.op().shape));
}

}  // namespace batch_norm_binding

void register_batch_norm(py::module_& module) {
  using namespace batch_norm_binding;
  NamedFunction<&forward>::define(module, "batch_norm_forward", "batch_norm");
  NamedFunction<&inference>::define(module, "batch_norm_inference", "batch_norm");
  NamedFunction<&backward>::define(module, "batch_norm_backward");
  NamedFunction<&moments>::define(module, "batch_norm_moments", "batch_norm");
  NamedFunction<&apply>::define(module, "batch_norm_apply", "batch_norm");
  NamedFunction<&backward_sums>::define(module, "batch_norm_backward_sums", "batch_norm_backward");
  NamedFunction<&backward_elements>::define(module, "batch_norm_backward_elements", "batch_norm_backward");
  NamedFunction<&workspace>::define(module, "batch_norm_workspace");
}

}  // namespace onepass
