// statistics.h - sums, extremes and histograms of an image that comes strip by strip, on the CPU.
//
// A sum has kRowLanes lanes of doubles for each row, pixel x in lane x % kRowLanes; the lanes of a row are
// merged pairwise and added to those of the rows before. So it depends on no strip and no instruction set.
#pragma once

#include <cstdint>

#include "loops/common/lanes.h"
#include "loops/images/view.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kRowLanes = 16;

struct RowSum {
  alignas(64) double lane[kRowLanes] = {};
  double total = 0;

  void end_row() {
    total += sum_lanes<kRowLanes>(lane);
    for (int64_t l = 0; l < kRowLanes; ++l) lane[l] = 0;
  }
};

// A strip that begins at a multiple of kRowLanes.
ONEPASS_WALK inline void add_to_row(const float* v, int64_t n, RowSum& sum) {
  alignas(64) double lane[kRowLanes];
  for (int64_t l = 0; l < kRowLanes; ++l) lane[l] = sum.lane[l];
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    ONEPASS_LANES
    for (int64_t l = 0; l < kRowLanes; ++l) lane[l] += double(v[i + l]);
  }
  for (int64_t i = whole; i < n; ++i) lane[i - whole] += double(v[i]);
  for (int64_t l = 0; l < kRowLanes; ++l) sum.lane[l] = lane[l];
}

struct Extremes {
  float least, most;
};

ONEPASS_WALK inline void widen_extremes(const float* v, int64_t n, Extremes& extremes) {
  float least = extremes.least, most = extremes.most;
  for (int64_t i = 0; i < n; ++i) {
    least = v[i] < least ? v[i] : least;
    most = v[i] > most ? v[i] : most;
  }
  extremes = {least, most};
}

// counts[bin(v)] += 1.
template <class Bin>
ONEPASS_WALK void count_bins(const Bin bin, const float* v, int64_t n, int32_t* counts) {
  for (int64_t i = 0; i < n; ++i) ++counts[bin(v[i])];
}

template <class Bin>
ONEPASS_WALK void look_up(const Bin bin, const float* table, float* v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) v[i] = table[bin(v[i])];
}

}  // namespace onepass::ONEPASS_ISA
