// merge_ranks.h - what the ranks of a batch norm send each other, and how it is put together.
//
//   forward   of each channel: the mean and m2 of a rank's batch, merged as parts of one batch (moments.h):
//             n = sum n_r,   mean = sum n_r mean_r / n,   m2 = sum (m2_r + n_r (mean_r - mean)^2)
//   backward  sum g and sum g (x - mean) of a rank's batch, which add up; dx follows from the sums and n
//             (batch_norm.h)
//
// All is double, and merged in the order of the ranks. Source: as moments.h.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass::math {

// Where a rank's doubles are. The first three say whose they are; one is not used.
struct RankNumbers {
  static constexpr int64_t kChannels = 0, kTag = 1, kCount = 2, kFirst = 4;
  int64_t channels;
  ONEPASS_HD int64_t first(int64_t c) const { return kFirst + c; }
  ONEPASS_HD int64_t second(int64_t c) const { return kFirst + channels + c; }
  ONEPASS_HD int64_t size() const { return kFirst + 2 * channels; }
};

}  // namespace onepass::math
