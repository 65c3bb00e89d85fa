// row_norm.cpp - the binding of layer and RMS normalisation: forward, backward.

#include <cstring>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace row_norm_binding {

class Call : public LayerCall {
 public:
  Call(const char* function, NamedArguments& arguments, bool centred) : LayerCall(function, arguments, true) {
    op_.dtype = dtype_;
    op_.centred = centred;
    op_.x = input_.data;
    set_shape(name("input"), arguments.integer("width"));
  }

  RowNorm& op() { return op_; }

  void* like_x(const char* list, Access access) { return like_input(list, op_.dtype, access); }

  // One element each row, of the dtype of the arithmetic.
  void* statistic(const char* list, Access access) {
    const py::handle tensor = arguments_[list];
    OP_CHECK(!tensor.is_none(), TypeError, to_string(name(list)), " must be a tensor, got None");
    const TensorView view = read(tensor, name(list), access);
    const DType wide = op_.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    expect(view, name(list), wide, "the statistics of input");
    return part(view, name(list), op_.shape.rows, access);
  }

  // One element each column, of the dtype of the parameters, which the first of them sets: x's, or float32
  // for a half one.
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
    return part(view, where, op_.shape.width, access);
  }

  void set_dropout() {
    op_.dropout = arguments_.number("dropout");
    OP_CHECK(op_.dropout >= 0 && op_.dropout <= 1, ValueError, function_,
             ": dropout must be from 0 to 1, got ", op_.dropout);
  }

  void set_workspace(bool columns) {
    op_.workspace = workspace(target_.kernels->row_norm_workspace(op_.shape, op_.dtype, columns));
  }

 private:
  void set_shape(const ArgumentName& where, int64_t width) {
    OP_CHECK(input_.numel > 0, ValueError, to_string(where), " must have elements, got shape ",
             shape_name(input_.shape, input_.ndim));
    OP_CHECK(width > 0 && input_.numel % width == 0, ValueError, to_string(where),
             " must have rows of width ", width, ", got ", input_.numel, " elements");
    OP_CHECK(lies_in_order(false), ValueError, to_string(where), " must be contiguous, got strides ",
             shape_name(input_.strides, input_.ndim), " for shape ", shape_name(input_.shape, input_.ndim));
    op_.shape = {input_.numel / width, width};
  }

  RowNorm op_;
  bool has_params_ = false;
};

// Returns the seed that the dropout drew, or None.
py::object forward(NamedArguments& arguments, const char* function, bool centred) {
  Call call(function, arguments, centred);
  RowNorm& op = call.op();
  op.y = call.like_x("y", Access::kWrite);
  OP_CHECK(op.y, TypeError, function, ": y must be a tensor, got None");
  op.residual = call.like_x("residual", Access::kRead);
  op.h = call.like_x("h", Access::kWrite);
  OP_CHECK(!op.residual == !op.h, ValueError, function,
           ": h must be given if and only if there is a residual, got ", op.h ? "one" : "None");
  op.weight = call.param("weight", Access::kRead);
  if (centred) op.bias = call.param("bias", Access::kRead);
  if (centred) op.mean = call.statistic("mean", Access::kWrite);
  op.invstd = call.statistic("invstd", Access::kWrite);
  op.eps = arguments.number("eps");
  call.set_dropout();
  OP_CHECK(op.residual || op.dropout == 0, ValueError, function,
           ": dropout must be 0 without a residual, got ", op.dropout);
  call.set_workspace(false);
  const py::handle seed = arguments["seed"];
  call.check_end();
  py::object drawn = call.set_seed(op, seed);
  call.run(&KernelTable::row_norm_forward, op);
  return drawn;
}

py::object backward(NamedArguments& arguments, const char* function, bool centred) {
  Call call(function, arguments, centred);
  RowNorm& op = call.op();
  op.dy = call.like_x("dy", Access::kRead);
  OP_CHECK(op.dy, TypeError, function, ": dy must be a tensor, got None");
  op.dh = call.like_x("dh", Access::kRead);
  op.dx = call.like_x("dx", Access::kWrite);
  op.dresidual = call.like_x("dresidual", Access::kWrite);
  op.weight = call.param("weight", Access::kRead);
  op.dweight = call.param("dweight", Access::kWrite);
  if (centred) op.dbias = call.param("dbias", Access::kWrite);
  if (centred) op.mean = call.statistic("mean", Access::kRead);
  op.invstd = call.statistic("invstd", Access::kRead);
  call.set_dropout();
  OP_CHECK(op.dropout > 0 || !op.dresidual, ValueError, function,
           ": dresidual must be None without dropout, where it is dx, got one");
  call.set_workspace(op.dweight || op.dbias);
  const py::handle seed = arguments["seed"];
  call.check_end();
  const py::object drawn = call.set_seed(op, seed);
  call.run(&KernelTable::row_norm_backward, op);
  return py::none();
}

py::object layer_forward(NamedArguments& arguments) { return forward(arguments, "layer_norm", true); }
py::object rms_forward(NamedArguments& arguments) { return forward(arguments, "rms_norm", false); }
py::object layer_backward(NamedArguments& arguments) {
  return backward(arguments, "layer_norm_backward", true);
}
py::object rms_backward(NamedArguments& arguments) { return backward(arguments, "rms_norm_backward", false); }

// columns: for backward with dweight or dbias.
py::object workspace(NamedArguments& arguments) {
  Call call("row_norm_workspace", arguments, true);
  const bool columns = arguments.flag("columns");
  call.check_end();
  return py::int_(call.target().kernels->row_norm_workspace(call.op().shape, call.op().dtype, columns));
}

}  // namespace row_norm_binding

void register_row_norm(py::module_& module) {
  using namespace row_norm_binding;
  NamedFunction<&layer_forward>::define(module, "layer_norm_forward", "layer_norm");
  NamedFunction<&rms_forward>::define(module, "rms_norm_forward", "rms_norm");
  NamedFunction<&layer_backward>::define(module, "layer_norm_backward");
  NamedFunction<&rms_backward>::define(module, "rms_norm_backward");
  NamedFunction<&workspace>::define(module, "row_norm_workspace");
}

}  // namespace onepass
