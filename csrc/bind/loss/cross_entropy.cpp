// cross_entropy.cpp - the binding of the cross-entropy loss: forward, backward, and its exponential for
// tests.

#include <pybind11/stl.h>

#include <string>
#include <variant>
#include <vector>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace cross_entropy_binding {

using Lam = std::variant<double, py::object>;

class Call : public LayerCall {
 public:
  Call(const char* function, py::handle x, int threads) : LayerCall(function, x, threads) {
    op_.dtype = dtype_;
    op_.shape = shape_of(name("input"));
    op_.x = input_.data;
  }

  CrossEntropy& op() { return op_; }
  int64_t workspace_size(bool statistics) const {
    return target().kernels->cross_entropy_workspace(op_.shape, statistics, target().launch.threads);
  }
  int64_t rows() const { return op_.shape.rows(); }
  const char* arithmetic() const { return op_.dtype == DType::kFloat64 ? "torch.float64" : "torch.float32"; }

  // A tensor of x's dtype, or float32 beside a half one; `dtype` becomes which.
  TensorView wide(const char* list, py::handle tensor, DType& dtype) {
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, false);
    dtype = float_dtype(view, where);
    const bool mixed = dtype == DType::kFloat32 && size_of(op_.dtype) == 2;
    OP_CHECK(dtype == op_.dtype || mixed, TypeError, to_string(where), " must be ", name_of(op_.dtype),
             size_of(op_.dtype) == 2 ? " or torch.float32" : "", " like input, got ", name_of(dtype));
    return view;
  }

  void set_target(py::handle target, py::handle second, const Lam& lam, py::handle probabilities) {
    OP_CHECK(target.is_none() != probabilities.is_none(), ValueError, function_,
             ": one of target and probabilities must be given, got ", target.is_none() ? "neither" : "both");
    const auto labels = [&](const char* list, py::handle tensor) {
      return static_cast<const int64_t*>(part(list, tensor, "torch.int64", rows(), false));
    };
    op_.target = labels("target", target);
    op_.second = labels("target2", second);
    if (const double* number = std::get_if<double>(&lam)) {
      op_.lam = *number;
    } else {
      op_.lams = part("lam", std::get<py::object>(lam), arithmetic(), lams(), false);
    }
    if (probabilities.is_none()) return;
    wide("probabilities", probabilities, op_.probabilities_dtype);
    op_.probabilities = like_input("probabilities", probabilities, op_.probabilities_dtype, false);
  }

  void set_options(py::handle weight, int64_t ignore_index, double label_smoothing, double z_loss,
                   const std::string& reduction) {
    if (!weight.is_none()) {
      op_.weight = part(wide("weight", weight, op_.weight_dtype), name("weight"), op_.shape.classes, false);
    }
    op_.ignore_index = ignore_index;
    op_.options = {label_smoothing, z_loss};
    OP_CHECK(reduction == "none" || reduction == "mean" || reduction == "sum", ValueError, function_,
             ": reduction must be \"none\", \"mean\" or \"sum\", got \"", reduction, "\"");
    op_.reduction = reduction == "none"   ? Reduction::kNone
                    : reduction == "mean" ? Reduction::kMean
                                          : Reduction::kSum;
  }

  // Rows of what forward keeps for backward: maximum, rest and, of probabilities, their sum.
  void set_saved(py::handle saved, py::handle totals, bool written) {
    const int64_t lists = op_.probabilities ? 3 : 2, size = op_.dtype == DType::kFloat64 ? 8 : 4;
    char* memory = static_cast<char*>(part("saved", saved, arithmetic(), lists * rows(), written));
    op_.max = memory;
    op_.rest = memory + rows() * size;
    op_.total = op_.probabilities ? memory + 2 * rows() * size : nullptr;
    op_.totals = static_cast<double*>(part("totals", totals, "torch.float64", kTotals, written));
  }

  int64_t per_row() const { return op_.reduction == Reduction::kNone ? rows() : 1; }

 private:
  int64_t lams() const { return input_.ndim < 2 ? 1 : input_.shape[0]; }

  ClassShape shape_of(const ArgumentName& where) {
    OP_CHECK(input_.ndim >= 1 && input_.numel > 0, ValueError, to_string(where),
             " must have elements, got shape ", shape_name(input_.shape, input_.ndim));
    if (input_.ndim == 1) return {1, input_.shape[0], 1};
    std::vector<int32_t> first, last{0};
    for (int32_t d = 0; d < input_.ndim; ++d) first.push_back(d);
    for (int32_t d = 2; d < input_.ndim; ++d) last.push_back(d);
    last.push_back(1);
    const int64_t classes = input_.shape[1], rows = input_.numel / classes;
    op_.lam_rows = rows / input_.shape[0];
    if (lies_in_order(input_, last)) return {rows, classes, 1};
    OP_CHECK(lies_in_order(input_, first), ValueError, to_string(where),
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

void forward(const py::object& x, const py::object& target, const py::object& target2, const Lam& lam,
             const py::object& probabilities, const py::object& weight, int64_t ignore_index,
             double label_smoothing, double z_loss, const std::string& reduction, bool statistics,
             const py::object& loss, const py::object& saved, const py::object& totals,
             const py::object& workspace, int threads) {
  Call call("cross_entropy", x, threads);
  CrossEntropy& op = call.op();
  op.statistics = statistics;
  call.set_target(target, target2, lam, probabilities);
  call.set_options(weight, ignore_index, label_smoothing, z_loss, reduction);
  op.loss = call.part("loss", loss, call.arithmetic(), call.per_row(), true);
  call.set_saved(saved, totals, true);
  op.workspace = call.workspace(workspace, call.workspace_size(statistics));
  call.check_overlap();
  int64_t bad_row = -1;
  {
    py::gil_scoped_release release;
    // A GPU's kernel cannot tell: it has not run when this returns.
    if (!call.target().on_gpu) op.bad_row = &bad_row;
    call.target().kernels->cross_entropy_forward(op, call.target().launch);
  }
  if (bad_row >= 0) refuse_label(op, bad_row);
}

void backward(const py::object& grad, const py::object& x, const py::object& dx, const py::object& target,
              const py::object& target2, const Lam& lam, const py::object& probabilities,
              const py::object& weight, int64_t ignore_index, double label_smoothing, double z_loss,
              const std::string& reduction, const py::object& saved, const py::object& totals,
              const py::object& workspace, int threads) {
  Call call("cross_entropy_backward", x, threads);
  CrossEntropy& op = call.op();
  call.set_target(target, target2, lam, probabilities);
  call.set_options(weight, ignore_index, label_smoothing, z_loss, reduction);
  op.grad = call.part("grad", grad, call.arithmetic(), call.per_row(), false);
  op.dx = call.like_input("dx", dx, op.dtype, true, true);
  call.set_saved(saved, totals, false);
  op.workspace = call.workspace(workspace, call.workspace_size(false));
  call.check_overlap();
  py::gil_scoped_release release;
  call.target().kernels->cross_entropy_backward(op, call.target().launch);
}

int64_t workspace(const py::object& x, bool statistics, int threads) {
  Call call("cross_entropy", x, threads);
  return call.workspace_size(statistics);
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
  using py::arg;
  module.attr("cross_entropy_totals") = kTotals;
  module.def("cross_entropy_forward", &forward, arg("x"), arg("target"), arg("target2"), arg("lam"),
             arg("probabilities"), arg("weight"), arg("ignore_index"), arg("label_smoothing"), arg("z_loss"),
             arg("reduction"), arg("statistics"), arg("loss"), arg("saved"), arg("totals"), arg("workspace"),
             arg("threads"));
  module.def("cross_entropy_backward", &backward, arg("grad"), arg("x"), arg("dx"), arg("target"),
             arg("target2"), arg("lam"), arg("probabilities"), arg("weight"), arg("ignore_index"),
             arg("label_smoothing"), arg("z_loss"), arg("reduction"), arg("saved"), arg("totals"),
             arg("workspace"), arg("threads"));
  module.def("cross_entropy_workspace", &workspace, arg("x"), arg("statistics"), arg("threads"));
  module.def("exponential", &exponential, arg("x"), arg("y"), arg("threads"));
}

}  // namespace onepass
