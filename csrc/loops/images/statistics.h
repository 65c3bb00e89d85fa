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

// In lanes, as compilers keep the order of comparisons that may have a nan.
ONEPASS_WALK inline void widen_extremes(const float* v, int64_t n, Extremes& extremes) {
  alignas(64) float least[kRowLanes], most[kRowLanes];
  for (int64_t l = 0; l < kRowLanes; ++l) least[l] = extremes.least, most[l] = extremes.most;
  const int64_t whole = n / kRowLanes * kRowLanes;
  for (int64_t i = 0; i < whole; i += kRowLanes) {
    ONEPASS_LANES
    for (int64_t l = 0; l < kRowLanes; ++l) {
      least[l] = v[i + l] < least[l] ? v[i + l] : least[l];
      most[l] = v[i + l] > most[l] ? v[i + l] : most[l];
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    least[0] = v[i] < least[0] ? v[i] : least[0];
    most[0] = v[i] > most[0] ? v[i] : most[0];
  }
  extremes.least = merge_lanes<kRowLanes>(least, [](float a, float b) { return b < a ? b : a; });
  extremes.most = merge_lanes<kRowLanes>(most, [](float a, float b) { return b > a ? b : a; });
}

// Bins that are found together, by a vector loop, before each is used for itself.
constexpr int64_t kBinsTogether = 64;

// use(i, bin(v[i])).
template <class Bin, class Use>
ONEPASS_HD void each_bin(const Bin& bin, const float* v, int64_t n, const Use& use) {
  alignas(64) int32_t found[kBinsTogether];
  for (int64_t begin = 0; begin < n; begin += kBinsTogether) {
    const int64_t some = n - begin < kBinsTogether ? n - begin : kBinsTogether;
    for (int64_t i = 0; i < some; ++i) found[i] = bin(v[begin + i]);
    for (int64_t i = 0; i < some; ++i) use(begin + i, found[i]);
  }
}

// counts[bin(v)] += 1.
template <class Bin>
ONEPASS_WALK void count_bins(const Bin bin, const float* v, int64_t n, int32_t* counts) {
  each_bin(bin, v, n, [counts](int64_t, int32_t which) ONEPASS_INLINED { ++counts[which]; });
}

template <class Bin>
ONEPASS_WALK void look_up(const Bin bin, const float* table, float* v, int64_t n) {
  each_bin(bin, v, n, [table, v](int64_t i, int32_t which) ONEPASS_INLINED { v[i] = table[which]; });
}

}  // namespace onepass::ONEPASS_ISA
