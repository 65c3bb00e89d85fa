// statistics.cpp - the statistics of param groups from those of leaves: math/statistics.h. CUDA:
// statistics.cu.

#include "kernels/kernels.h"

namespace onepass::ONEPASS_ISA {

void gather_statistics(const StatisticsRow* rows, int64_t count, GroupStatistics* groups, int64_t group_count,
                       double host_grad_scale, DeviceScalar, const Launch&) {
  for (int64_t group = 0; group < group_count; ++group) groups[group] = {};
  // Rows of one group mostly follow each other.
  for (int64_t i = 0; i < count;) {
    const double group = rows[i].group;
    math::Statistics sum{};
    for (; i < count && rows[i].group == group; ++i) sum = math::merge(sum, rows[i].sum);
    GroupStatistics& so_far = groups[int64_t(group)];
    // Until the end the sums stand in the place of the norms.
    so_far = {so_far.grad_norm + sum.grad_square, so_far.param_norm + sum.param_square,
              so_far.update_norm + sum.update_square, so_far.nonfinite + sum.nonfinite,
              so_far.lost + sum.lost};
  }
  for (int64_t group = 0; group < group_count; ++group) {
    const GroupStatistics& sum = groups[group];
    groups[group] = math::conclude({sum.grad_norm, sum.param_norm, sum.update_norm, sum.nonfinite, sum.lost},
                                   host_grad_scale);
  }
}

}  // namespace onepass::ONEPASS_ISA
