// channel_reduce.h - two sums over a tile of one channel, or of several that lie side by side, on the CPU.
//
// Row r of a tile goes to lane r % kRowLanes, in T; after kLaneSteps rows a lane is added to one of
// kWideLanes in double, and those are merged pairwise at the end of the tile. Both layouts add in this order,
// so both give the same bits: with the channels first a vector holds lanes, with the channels last it holds
// channels and a group of kRowLanes rows is all lanes. Reads each element once.
#pragma once

#include "loops/channel_flags.h"
#include "math/moments.h"

namespace onepass::ONEPASS_ISA {

constexpr int kRowLanes = 32;
constexpr int kLaneSteps = 16;
constexpr int kLaneBlock = kRowLanes * kLaneSteps;
constexpr int kWideLanes = 8;
constexpr int64_t kShiftRows = 8;     // rows of a tile whose mean is the shift
constexpr int64_t kReduceWidth = 64;  // channels side by side
constexpr int64_t kParamWidth = 256;  // elements of a parameter that is repeated for several rows
constexpr int kMostParams = 5;
static_assert(kTile % kLaneBlock == 0);

// What is read. other: a second operand, whose elements may be masked and dropped.
struct ChannelInputs {
  ChannelShape shape;
  DType dtype;
  const void* x;
  const void* other;
  Passing passing;
};

// The formula of channel i, made of its parameters.
template <class F, class T>
ONEPASS_HD F formula_at(const T* const* p, int64_t i) {
  if constexpr (F::kParams == 1) return F{p[0][i]};
  if constexpr (F::kParams == 3) return F{p[0][i], p[1][i], p[2][i]};
  if constexpr (F::kParams == 5) return F{p[0][i], p[1][i], p[2][i], p[3][i], p[4][i]};
}

inline double merge_lanes(double* lane) {
  for (int width = kWideLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

// Adds n <= kLaneBlock elements of one channel.
template <class T, class Sums>
ONEPASS_WALK void add_block(const Sums sums, const T* __restrict x, const T* __restrict g, int64_t n,
                            double (*__restrict wide)[kWideLanes]) {
  alignas(64) T s1[kRowLanes] = {}, s2[kRowLanes] = {};
  int64_t i = 0;
  for (; i + kRowLanes <= n; i += kRowLanes) {
    ONEPASS_INDEPENDENT
    for (int l = 0; l < kRowLanes; ++l) sums.add(x[i + l], Sums::kGrad ? g[i + l] : T(0), s1[l], s2[l]);
  }
  if (i < n) {
    alignas(64) T last[2][kRowLanes];
    for (int l = 0; l < kRowLanes; ++l) {
      last[0][l] = i + l < n ? x[i + l] : sums.neutral();
      last[1][l] = Sums::kGrad && i + l < n ? g[i + l] : T(0);
    }
    ONEPASS_INDEPENDENT
    for (int l = 0; l < kRowLanes; ++l) sums.add(last[0][l], last[1][l], s1[l], s2[l]);
  }
  constexpr int k1 = kWideLanes, k2 = 2 * kWideLanes, k3 = 3 * kWideLanes;
  static_assert(kRowLanes == 4 * kWideLanes);
  for (int l = 0; l < kWideLanes; ++l) {
    wide[0][l] += (double(s1[l]) + double(s1[l + k1])) + (double(s1[l + k2]) + double(s1[l + k3]));
    wide[1][l] += (double(s2[l]) + double(s2[l + k1])) + (double(s2[l + k2]) + double(s2[l + k3]));
  }
}

// n rows from `row` on of a channel, as T and in one piece. kOther: of the second operand.
template <bool kOther, class T>
inline const T* gather_block(const ChannelInputs& in, int64_t channel, int64_t row, int64_t n, T* buffer) {
  const ChannelShape& shape = in.shape;
  const void* stored = kOther ? in.other : in.x;
  const bool masked = kOther && in.passing.asks();
  for (int64_t done = 0; done < n;) {
    const int64_t left = shape.positions - (row + done) % shape.positions;
    const int64_t here = left < n - done ? left : n - done;
    const int64_t begin = shape.logical_index(row + done, channel);
    if (here == n && !masked) return read_row(in.dtype, stored, begin, n, buffer);
    load_row(in.dtype, stored, begin, buffer + done, here);
    if (masked) {
      uint8_t flags[kLaneBlock];
      fill_flags(in.passing, begin, begin, here, flags);
      drop_row(buffer + done, flags, T(in.passing.scale()), buffer + done, here);
    }
    done += here;
  }
  return buffer;
}

// Channels first: a tile of one channel. sums: its formula, unless that is found from the tile itself.
template <class T, class Sums>
inline math::Pair reduce_tile(const ChannelInputs& in, int64_t channel, int64_t tile, Sums sums) {
  alignas(64) double wide[2][kWideLanes] = {};
  alignas(64) T x_buffer[kLaneBlock], g_buffer[kLaneBlock];
  const int64_t begin = tile * kTile, rows = in.shape.rows();
  const int64_t end = begin + kTile < rows ? begin + kTile : rows;
  for (int64_t row = begin; row < end; row += kLaneBlock) {
    const int64_t n = end - row < kLaneBlock ? end - row : kLaneBlock;
    const T* x = gather_block<false>(in, channel, row, n, x_buffer);
    const T* g = nullptr;
    if constexpr (Sums::kGrad) g = gather_block<true>(in, channel, row, n, g_buffer);
    if constexpr (Sums::kShifted) {
      if (row == begin) {
        double sum = 0;
        const int64_t some = n < kShiftRows ? n : kShiftRows;
        for (int64_t i = 0; i < some; ++i) sum += double(x[i]);
        sums = Sums::around(sum, double(some));
      }
    }
    add_block(sums, x, g, n, wide);
  }
  return sums.part(double(end - begin), merge_lanes(wide[0]), merge_lanes(wide[1]));
}

}  // namespace onepass::ONEPASS_ISA
