// reduce.h - two sums over a tile of some channels that come first in memory, on the CPU. Channels last:
// reduce_last.h.
//
// Row r of a run goes to lane r % kRowLanes, in T; after kLaneSteps rows a lane is added to one of
// kWideLanes in double, and those are merged pairwise at the end of the tile. Both layouts add in this order,
// so both give the same bits: here a vector holds lanes, there it holds channels. Memory is read once, in its
// order.
#pragma once

#include "loops/channels/flags.h"
#include "loops/common/lanes.h"
#include "math/moments.h"

namespace onepass::ONEPASS_ISA {

constexpr int kRowLanes = 16;
constexpr int kLaneSteps = 16;
constexpr int kLaneBlock = kRowLanes * kLaneSteps;
constexpr int kWideLanes = 8;
constexpr int64_t kReduceWidth = 64;  // channels of a tile
constexpr int kMostParams = 5;
static_assert(kStrip % kLaneBlock == 0 && kRowLanes == 2 * kWideLanes);

// What is read. other: a second operand, whose elements may be masked and dropped.
struct ChannelInputs {
  ChannelShape shape;
  DType dtype;
  const void* x;
  const void* other;
  PassFlags passing;
  // How many elements ahead of the reading memory is asked for, where pieces of memory lie apart; 0: it is
  // not.
  int64_t ahead = 0;
};

// The formula of channel i, made of its parameters.
template <class F, class T>
ONEPASS_HD F formula_at(const T* const* p, int64_t i) {
  if constexpr (F::kParams == 1) return F{p[0][i]};
  if constexpr (F::kParams == 3) return F{p[0][i], p[1][i], p[2][i]};
  if constexpr (F::kParams == 5) return F{p[0][i], p[1][i], p[2][i], p[3][i], p[4][i]};
}

using WideLanes = double[2][kWideLanes];

// A formula that reads its second operand only where a condition on the first one holds compiles to a masked
// load, which waits for the condition: memory is asked for one line after the other, and the loop takes twice
// as long. So the lines are asked for ahead.
template <class F, class S>
ONEPASS_HD void fetch_chosen(const S* other, int64_t n) {
  if (F::kChooses) fetch_ahead(other, n * int64_t(sizeof(S)));
}

// Elements of a channel that follow each other, and how far ahead of them memory is asked for; 0: it is not.
template <class S>
struct Run {
  const S* data;
  int64_t ahead;
};

// Adds n elements of one channel: a run, or a strip of it.
template <class Sums, class S>
ONEPASS_WALK void add_run(const Sums sums, const Run<S> x_run, const Run<S> g_run, int64_t n,
                          WideLanes& wide) {
  const S* __restrict x = x_run.data, * __restrict g = g_run.data;
  using T = arithmetic<S>;
  for (int64_t begin = 0; begin < n; begin += kLaneBlock) {
    const int64_t end = begin + kLaneBlock < n ? begin + kLaneBlock : n;
    alignas(64) T s1[kRowLanes] = {}, s2[kRowLanes] = {};
    int64_t i = begin;
    for (; i + kRowLanes <= end; i += kRowLanes) {
      if (x_run.ahead > 0) fetch_lines(x + i + x_run.ahead, kRowLanes * int64_t(sizeof(S)));
      if (Sums::kGrad && g_run.ahead > 0) {
        fetch_lines(g + i + g_run.ahead, kRowLanes * int64_t(sizeof(S)));
      } else {
        fetch_chosen<Sums>(g + i, kRowLanes);
      }
      ONEPASS_LANES
      for (int l = 0; l < kRowLanes; ++l) {
        sums.add(widen(x[i + l]), Sums::kGrad ? widen(g[i + l]) : T(0), s1[l], s2[l]);
      }
    }
    if (i < end) {
      alignas(64) T last[2][kRowLanes];
      ONEPASS_LANES
      for (int l = 0; l < kRowLanes; ++l) {
        last[0][l] = i + l < end ? widen(x[i + l]) : sums.neutral();
        last[1][l] = Sums::kGrad && i + l < end ? widen(g[i + l]) : T(0);
      }
      ONEPASS_LANES
      for (int l = 0; l < kRowLanes; ++l) sums.add(last[0][l], last[1][l], s1[l], s2[l]);
    }
    ONEPASS_LANES
    for (int l = 0; l < kWideLanes; ++l) {
      wide[0][l] += double(s1[l]) + double(s1[l + kWideLanes]);
      wide[1][l] += double(s2[l]) + double(s2[l + kWideLanes]);
    }
  }
}

// n rows of a channel from `row` on, as S and in one piece. kOther: rows of the second operand.
template <bool kOther, class S>
inline Run<S> gather_run(const ChannelInputs& in, int64_t channel, int64_t row, int64_t n, S* buffer) {
  const ChannelShape& shape = in.shape;
  const void* stored = kOther ? in.other : in.x;
  const bool masked = kOther && in.passing.asks();
  for (int64_t done = 0; done < n;) {
    const int64_t left = shape.positions - (row + done) % shape.positions;
    const int64_t here = left < n - done ? left : n - done;
    const int64_t begin = shape.logical_index(row + done, channel);
    if (here == n && !masked && stored_as(in.dtype, S{})) {
      return {static_cast<const S*>(stored) + begin, in.ahead};
    }
    if (in.ahead > 0) fetch_elements(in.dtype, stored, begin + in.ahead, here);
    const S* piece = read_strip(in.dtype, stored, begin, here, buffer + done);
    if constexpr (sizeof(S) >= sizeof(float)) {
      if (masked) {
        uint8_t flags[kStrip];
        fill_flags(in.passing, begin, here, flags);
        drop_strip(piece, flags, S(in.passing.scale()), buffer + done, here);
        piece = buffer + done;
      }
    }
    if (piece != buffer + done) std::memcpy(buffer + done, piece, size_t(here) * sizeof(S));
    done += here;
  }
  return {buffer, 0};
}

// The shift: the mean of the first rows.
template <class Sums, class S>
inline arithmetic<S> shift_of(const S* x, int64_t stride, int64_t rows) {
  const int64_t some = rows < kShiftRows ? rows : kShiftRows;
  double sum = 0;
  for (int64_t k = 0; k < some; ++k) sum += double(widen(x[k * stride]));
  return Sums::around(sum, double(some)).shift;
}

// A tile of channels channel .. channel + width. params[k]: of channel `channel` on; parts[i * tiles]: of
// channel i of them.
template <class Sums, class S>
inline void reduce_tile(const ChannelInputs& in, int64_t tile, int64_t channel, int64_t width,
                        const arithmetic<S>* const* params, math::Pair* parts) {
  using T = arithmetic<S>;
  alignas(64) WideLanes wide[kReduceWidth] = {};
  alignas(64) S x_buffer[kStrip], g_buffer[kStrip];
  T shift[kReduceWidth];
  const T* formula[kMostParams] = {shift};
  if constexpr (!Sums::kShifted) {
    for (int k = 0; k < Sums::kParams; ++k) formula[k] = params[k];
  }
  const RowRange rows = in.shape.tile(tile);
  for (int64_t begin = rows.begin, end; begin < rows.end; begin = end) {
    end = in.shape.run_end(begin, rows);
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t row = begin; row < end; row += kStrip) {
        const int64_t n = end - row < kStrip ? end - row : kStrip;
        const Run<S> x = gather_run<false>(in, channel + i, row, n, x_buffer);
        Run<S> g{nullptr, 0};
        if constexpr (Sums::kGrad) g = gather_run<true>(in, channel + i, row, n, g_buffer);
        if constexpr (Sums::kShifted) {
          if (row == rows.begin) shift[i] = shift_of<Sums>(x.data, 1, n);
        }
        add_run(formula_at<Sums>(formula, i), x, g, n, wide[i]);
      }
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    parts[i * in.shape.tiles()] = formula_at<Sums>(formula, i)
                                      .part(double(rows.end - rows.begin), sum_lanes<kWideLanes>(wide[i][0]),
                                            sum_lanes<kWideLanes>(wide[i][1]));
  }
}

}  // namespace onepass::ONEPASS_ISA
