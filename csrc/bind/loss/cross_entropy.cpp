// cross_entropy.cpp - the binding of the cross-entropy loss: forward, backward, and its exponential for
// tests.

#include <string_view>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace cross_entropy_binding {

class Call : public LayerCall {
 public:
  Call(const char* function, NamedArguments& arguments) : LayerCall(function, arguments, true) {
    op_.dtype = dtype_;
    op_.shape = shape_of(name("input"));
    op_.x = input_.data;
  }

  CrossEntropy& op() { return op_; }
  int64_t workspace_size(bool statistics) const {
    return target().kernels->cross_entropy_workspace(op_.shape, statistics, target().launch.threads);
  }

  void set_targets() {
    const auto labels = [&](const char* list) {
      return static_cast<const int64_t*>(part(list, kInt64, rows(), Access::kRead));
    };
    op_.target = labels("target");
    op_.second = labels("target2");
    const py::handle lam = arguments_["lam"];
    if (PyFloat_Check(lam.ptr())) {
      op_.lam = PyFloat_AS_DOUBLE(lam.ptr());
    } else {
      op_.lams = part("lam", lam, arithmetic(), lams(), Access::kRead);
    }
    const py::handle probabilities = arguments_["probabilities"];
    OP_CHECK((op_.target == nullptr) != probabilities.is_none(), ValueError, function_,
             ": one of target and probabilities must be given, got ", op_.target ? "both" : "neither");
    if (probabilities.is_none()) return;
    const TensorView view = read(probabilities, name("probabilities"), Access::kRead);
    op_.probabilities_dtype = dtype_of(view, name("probabilities"));
    op_.probabilities =
        like_input("probabilities", probabilities, op_.probabilities_dtype, Access::kRead, false);
  }

  void set_weight() {
    const py::handle weight = arguments_["weight"];
    if (weight.is_none()) return;
    const TensorView view = read(weight, name("weight"), Access::kRead);
    op_.weight_dtype = dtype_of(view, name("weight"));
    op_.weight = part(view, name("weight"), op_.shape.classes, Access::kRead);
  }

  void set_options() {
    op_.ignore_index = arguments_.integer("ignore_index");
    const double label_smoothing = arguments_.number("label_smoothing");
    op_.options = {label_smoothing, arguments_.number("z_loss")};
    op_.reduction = reduction_of(arguments_.text("reduction"));
  }

  // Rows of what forward keeps for backward: maximum, rest and, of probabilities, their sum.
  void set_saved(Access access) {
    const int64_t lists = op_.probabilities ? 3 : 2, size = op_.dtype == DType::kFloat64 ? 8 : 4;
    char* memory = static_cast<char*>(part("saved", arithmetic(), lists * rows(), access));
    op_.max = memory;
    op_.rest = memory + rows() * size;
    op_.total = op_.probabilities ? memory + 2 * rows() * size : nullptr;
    op_.totals = static_cast<double*>(part("totals", kFloat64, kTotals, access));
  }

  // A number each row, or one.
  void* per_row(const char* list, Access access) {
    return part(list, arithmetic(), op_.reduction == Reduction::kNone ? rows() : 1, access);
  }

 private:
  int64_t rows() const { return op_.shape.rows(); }
  dlpack::DLDataType arithmetic() const { return op_.dtype == DType::kFloat64 ? kFloat64 : kFloat32; }

  DType dtype_of(const TensorView& view, const ArgumentName& where) const {
    const DType dtype = float_dtype(view, where);
    OP_CHECK(goes_with_input(dtype), TypeError, to_string(where), " must be ", dtypes_with_input(),
             " like input, got ", name_of(dtype));
    return dtype;
  }

  Reduction reduction_of(const char* name) const {
    const std::string_view text = name ? name : "None";
    if (text == "none") return Reduction::kNone;
    if (text == "mean") return Reduction::kMean;
    OP_CHECK(text == "sum", ValueError, function_,
             ": reduction must be \"none\", \"mean\" or \"sum\", got \"", text, "\"");
    return Reduction::kSum;
  }

  int64_t lams() const { return input_.ndim < 2 ? 1 : input_.shape[0]; }

  ClassShape shape_of(const ArgumentName& where) {
    OP_CHECK(input_.ndim >= 1 && input_.numel > 0, ValueError, to_string(where),
             " must have elements, got shape ", shape_name(input_.shape, input_.ndim));
    if (input_.ndim == 1) return {1, input_.shape[0], 1};
    const int64_t classes = input_.shape[1], rows = input_.numel / classes;
    op_.lam_rows = rows / input_.shape[0];
    if (lies_in_order(true)) return {rows, classes, 1};
    OP_CHECK(lies_in_order(false), ValueError, to_string(where),
             " must be contiguous or classes last, got strides ", shape_name(input_.strides, input_.ndim),
             " for shape ", shape_name(input_.shape, input_.ndim));
    return {input_.shape[0], classes, rows / input_.shape[0]};
  }

  CrossEntropy op_;
};

[[noreturn]] void refuse_label(const CrossEntropy& op, int64_t row) {
  const auto wrong = [&](const int64_t* labels) {
    return labels[row] != op.ignore_index && (labels[row] < 0 || labels[row] >= op.shape.classes);
  };
  const bool first = wrong(op.target);
  throw py::index_error(concat("cross_entropy: ", first ? "target" : "target2", " must be 0 to ",
                               op.shape.classes - 1, " or ignore_index (", op.ignore_index, "), got ",
                               first ? op.target[row] : op.second[row], " in row ", row));
}

py::object forward(NamedArguments& arguments) {
  Call call("cross_entropy", arguments);
  CrossEntropy& op = call.op();
  call.set_targets();
  call.set_weight();
  call.set_options();
  op.statistics = arguments.flag("statistics");
  op.loss = call.per_row("loss", Access::kWrite);
  call.set_saved(Access::kWrite);
  op.workspace = call.workspace(call.workspace_size(op.statistics));
  call.check_end();
  int64_t bad_row = -1;
  // A GPU's kernel cannot tell: it has not run when this returns.
  if (!call.target().on_gpu) op.bad_row = &bad_row;
  call.run(&KernelTable::cross_entropy_forward, op);
  if (bad_row >= 0) refuse_label(op, bad_row);
  return py::none();
}

py::object backward(NamedArguments& arguments) {
  Call call("cross_entropy_backward", arguments);
  CrossEntropy& op = call.op();
  op.dx = call.like_input("dx", op.dtype, Access::kWrite, true);
  call.set_targets();
  call.set_weight();
  call.set_options();
  op.grad = call.per_row("grad", Access::kRead);
  call.set_saved(Access::kRead);
  op.workspace = call.workspace(call.workspace_size(false));
  call.check_end();
  call.run(&KernelTable::cross_entropy_backward, op);
  return py::none();
}

py::object workspace(NamedArguments& arguments) {
  Call call("cross_entropy", arguments);
  const bool statistics = arguments.flag("statistics");
  call.check_end();
  return py::int_(call.workspace_size(statistics));
}

void exponential(const py::object& x, const py::object& y, int threads) {
  TensorReader reader;
  const ArgumentName x_name{"exponential", "x"}, y_name{"exponential", "y"};
  const TensorView from = reader.read(x.ptr(), x_name), to = reader.read(y.ptr(), y_name);
  const DType dtype = float_dtype(from, x_name);
  OP_CHECK(float_dtype(to, y_name) == dtype && size_of(dtype) >= 4, TypeError,
           "exponential: x and y must be torch.float32 or torch.float64, got ", name_of(dtype));
  OP_CHECK(from.numel == to.numel && is_dense(from) && is_dense(to), ValueError,
           "exponential: x and y must be dense and of one size, got ", from.numel, " and ", to.numel);
  check_has_kernels(from.device, x_name);
  const Target target = target_of(from.device, threads, reader);
  py::gil_scoped_release release;
  target.kernels->exponential(dtype, from.data, to.data, from.numel, target.launch);
}

}  // namespace cross_entropy_binding

void register_cross_entropy(py::module_& module) {
  using namespace cross_entropy_binding;
  module.attr("cross_entropy_totals") = kTotals;
  py::dict places;
  places["rows"] = kCounted;
  places["correct"] = kCorrect;
  places["entropy"] = kEntropy;
  places["largest_logit"] = kLargest;
  places["bins"] = kBins;
  module.attr("cross_entropy_places") = places;
  NamedFunction<&forward>::define(module, "cross_entropy_forward", "cross_entropy");
  NamedFunction<&backward>::define(module, "cross_entropy_backward");
  NamedFunction<&workspace>::define(module, "cross_entropy_workspace");
  module.def("exponential", &exponential, py::arg("x"), py::arg("y"), py::arg("threads"));
}

}  // namespace onepass
