// merge_ranks.cpp - the binding of what batch normalisation does between the ranks: it puts together the
// numbers that they have sent each other, statistics in forward and sums in backward.

#include <optional>
#include <string>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace merge_ranks_binding {

// x: a row of numbers (RankNumbers) of each rank.
class Merge : public LayerCall {
 public:
  explicit Merge(NamedArguments& arguments) : LayerCall("SyncBatchNorm", arguments, true) {
    const ArgumentName where = name("input");
    OP_CHECK(dtype_ == DType::kFloat64 && input_.ndim == 2 && is_dense(input_), TypeError, to_string(where),
             " must be a dense torch.float64 matrix, got ", name_of(dtype_), " of shape ",
             shape_name(input_.shape, input_.ndim));
    op_.gathered = reinterpret_cast<const double*>(input_.data);
    op_.ranks = input_.shape[0];
    op_.stride = input_.shape[1];
  }

  BatchNorm& op() { return op_; }

  // The list that says how many channels there are, and what the dtype of the arithmetic is.
  void* first_statistic(const char* list, Access access) {
    const ArgumentName where = name(list);
    const TensorView view = read(arguments_[list], where, access);
    op_.dtype = float_dtype(view, where);
    op_.shape.channels = view.numel;
    const int64_t needed = RankNumbers{view.numel}.size();
    OP_CHECK(op_.stride >= needed, ValueError, to_string(name("input")), " must have ", needed,
             " numbers of each rank, got ", op_.stride);
    return part(view, where, view.numel, access);
  }

  // Of the same dtype, `each` elements for each channel.
  void* statistic(const char* list, int64_t each, Access access) {
    const ArgumentName where = name(list);
    const TensorView view = read(arguments_[list], where, access);
    expect(view, where, op_.dtype, "the statistics");
    return part(view, where, each * op_.shape.channels, access);
  }

  void* running(const char* list) {
    const py::handle tensor = arguments_[list];
    if (tensor.is_none()) return nullptr;
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, Access::kWrite);
    op_.param_dtype = float_dtype(view, where);
    return part(view, where, op_.shape.channels, Access::kWrite);
  }

  void set_momentum() {
    const std::optional<double> momentum = arguments_.optional_number("momentum");
    op_.batches = static_cast<const int64_t*>(LayerCall::part("batches", kInt64, 1, Access::kRead));
    if (momentum) op_.momentum = *momentum;
  }

  double* total(Access access) { return static_cast<double*>(LayerCall::part("total", kFloat64, 1, access)); }

  // Throws unless all ranks sent the statistics of one layer, and more than one value a channel. On a GPU the
  // kernel looks.
  void check_ranks(const char* layer, int64_t rank) const {
    if (target_.on_gpu) return;
    double total = 0;
    for (int64_t r = 0; r < op_.ranks; ++r) {
      const double* sent = op_.gathered + r * op_.stride;
      const double channels = sent[RankNumbers::kChannels], tag = sent[RankNumbers::kTag];
      OP_CHECK(channels == double(op_.shape.channels), ValueError, layer, " on rank ", rank, ": rank ", r,
               " must have ", op_.shape.channels, " channels there, too, got ", int64_t(channels));
      OP_CHECK(tag == op_.tag || tag == 0 || op_.tag == 0, RuntimeError, layer, " on rank ", rank, ": rank ",
               r, " must be in the same layer, got another layer of ", op_.shape.channels, " channels");
      total += sent[RankNumbers::kCount];
    }
    OP_CHECK(total != 1, ValueError, layer, " on rank ", rank,
             ": all ranks together must have more than 1 value per channel in training, got ", total);
  }

 private:
  BatchNorm op_;
};

py::object merge_moments(NamedArguments& arguments) {
  Merge call(arguments);
  BatchNorm& op = call.op();
  op.mean = call.first_statistic("mean", Access::kWrite);
  op.invstd = call.statistic("invstd", 1, Access::kWrite);
  op.total = call.total(Access::kWrite);
  op.running_mean = call.running("running_mean");
  op.running_var = call.running("running_var");
  call.set_momentum();
  op.eps = arguments.number("eps");
  op.tag = arguments.number("tag");
  const char* layer = arguments.text("layer");
  const int64_t rank = arguments.integer("rank");
  call.check_end();
  call.check_ranks(layer, rank);
  call.run(&KernelTable::batch_norm_merge_moments, op);
  return py::none();
}

py::object merge_gradients(NamedArguments& arguments) {
  Merge call(arguments);
  BatchNorm& op = call.op();
  op.invstd = call.first_statistic("invstd", Access::kRead);
  op.total = call.total(Access::kRead);
  op.terms = call.statistic("terms", 2, Access::kWrite);
  call.check_end();
  call.run(&KernelTable::batch_norm_merge_gradients, op);
  return py::none();
}

}  // namespace merge_ranks_binding

void register_merge_ranks(py::module_& module) {
  using namespace merge_ranks_binding;
  NamedFunction<&merge_moments>::define(module, "batch_norm_merge_moments", "SyncBatchNorm");
  NamedFunction<&merge_gradients>::define(module, "batch_norm_merge_gradients", "SyncBatchNorm");
}

}  // namespace onepass
