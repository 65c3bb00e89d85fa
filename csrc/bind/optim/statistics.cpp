#include "bind/optim/statistics.h"

#include "bind/register.h"

namespace onepass {

int64_t StatisticsCall::prepare(Batch& batch, const char* function, dlpack::DLDevice device,
                                TensorReader& reader) {
  groups_ = struct_array_of<GroupStatistics>(tensor_, {function, "statistics"}, device, reader);
  row_count_ = batch.number_leaves();
  return row_count_ * StructArray<StatisticsRow>::kDoubles;
}

void StatisticsCall::gather(const StatisticsRow* rows, const Decision& decision, const Target& target) const {
  target.kernels->gather_statistics(rows, row_count_, groups_.data, groups_.count, decision.host_grad_scale,
                                    decision.grad_scale, target.launch);
}

void register_statistics(pybind11::module_& module) {
  module.attr("statistics_size") = StructArray<GroupStatistics>::kDoubles;
}

}  // namespace onepass
