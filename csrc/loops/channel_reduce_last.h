// channel_reduce_last.h - the sums of channel_reduce.h where the channels come last in memory, on the CPU: a
// tile of up to kReduceWidth channels side by side. The same additions in the same order.
#pragma once

#include "loops/channel_reduce.h"

namespace onepass::ONEPASS_ISA {

// How many rows of `width` channels are walked as one long row, for which parameters are repeated: short rows
// would leave vectors empty. A power of two, so that it divides a group. Only whole rows follow each other.
inline int64_t rows_at_once(const ChannelShape& shape, int64_t width) {
  int64_t rows = 1;
  if (width == shape.channels) {
    while (rows < kRowLanes && 2 * rows * width <= kParamWidth) rows *= 2;
  }
  return rows;
}

// Parameters of channels side by side, repeated for several rows.
template <class T>
struct RepeatedParams {
  const T* at[kMostParams];
  alignas(64) T memory[kMostParams][kParamWidth];

  void fill(int params, const T* const* from, int64_t width, int64_t times) {
    for (int k = 0; k < params; ++k) {
      at[k] = from[k];
      if (times == 1) continue;
      at[k] = memory[k];
      for (int64_t i = 0; i < times * width; ++i) memory[k][i] = from[k][i % width];
    }
  }
};

// Rows of elements `stride` apart, as T.
template <class T>
struct RowGroup {
  const T* data;
  int64_t stride;
};

// `rows` rows of channels channel .. channel + width from `row` on. kOther: of the second operand.
template <bool kOther, class T>
inline RowGroup<T> gather_group(const ChannelInputs& in, int64_t row, int64_t rows, int64_t channel,
                                int64_t width, T* buffer) {
  const int64_t channels = in.shape.channels;
  const void* stored = kOther ? in.other : in.x;
  const bool masked = kOther && in.passing.asks();
  const int64_t begin = row * channels + channel;
  if (!masked && stored_as<T>(in.dtype)) return {static_cast<const T*>(stored) + begin, channels};
  if (width == channels) {
    load_row(in.dtype, stored, begin, buffer, rows * width);
  } else {
    for (int64_t k = 0; k < rows; ++k) {
      load_row(in.dtype, stored, begin + k * channels, buffer + k * width, width);
    }
  }
  if (masked) {
    uint8_t flags[kRowLanes * kReduceWidth];
    fill_flags_last(in.passing, in.shape, row, rows, channel, width, flags);
    drop_row(buffer, flags, T(in.passing.scale()), buffer, rows * width);
  }
  return {buffer, width};
}

// Adds `rows` rows of n elements to lanes that follow each other in s1 and s2.
template <class Sums, class T>
ONEPASS_WALK void add_rows(const T* const* params, RowGroup<T> x, RowGroup<T> g, int64_t rows, int64_t n,
                           T* __restrict s1, T* __restrict s2) {
  const T* p[Sums::kParams];
  for (int k = 0; k < Sums::kParams; ++k) p[k] = params[k];
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict xr = x.data + r * x.stride;
    const T* __restrict gr = Sums::kGrad ? g.data + r * g.stride : xr;
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) formula_at<Sums>(p, i).add(xr[i], gr[i], s1[i], s2[i]);
    s1 += n;
    s2 += n;
  }
}

// Adds the lanes of `width` channels to the wide ones and empties them.
template <class T>
ONEPASS_WALK void widen_lanes(T* __restrict s, double* __restrict wide, int64_t width) {
  const int64_t n = kWideLanes * width;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    wide[i] += (double(s[i]) + double(s[i + n])) + (double(s[i + 2 * n]) + double(s[i + 3 * n]));
  }
  std::memset(s, 0, size_t(4 * n) * sizeof(T));
}

template <class T>
struct LastSums {
  alignas(64) T s1[kRowLanes * kReduceWidth], s2[kRowLanes * kReduceWidth];
  alignas(64) double wide[2][kWideLanes * kReduceWidth];

  void widen(int64_t width) {
    widen_lanes(s1, wide[0], width);
    widen_lanes(s2, wide[1], width);
  }
  double merged(int which, int64_t i, int64_t width) const {
    double lane[kWideLanes];
    for (int l = 0; l < kWideLanes; ++l) lane[l] = wide[which][l * width + i];
    return merge_lanes(lane);
  }
};

template <class Sums, class T>
inline void find_shifts(const RowGroup<T>& x, int64_t rows, int64_t width, T* shift) {
  const int64_t some = rows < kShiftRows ? rows : kShiftRows;
  for (int64_t i = 0; i < width; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < some; ++k) sum += double(x.data[k * x.stride + i]);
    shift[i] = Sums::around(sum, double(some)).shift;
  }
}

// Channels last: tile `tile` of channels channel .. channel + width. params[k]: of channel `channel` on.
// parts[i * tiles]: of channel i of them.
template <class Sums, class T>
inline void reduce_tile_last(const ChannelInputs& in, int64_t tile, int64_t channel, int64_t width,
                             const T* const* params, math::Pair* parts) {
  LastSums<T> sums = {};
  alignas(64) T x_buffer[kRowLanes * kReduceWidth], g_buffer[kRowLanes * kReduceWidth], shift[kReduceWidth];
  RepeatedParams<T> repeated;
  const int64_t begin = tile * kTile, all = in.shape.rows(), at_once = rows_at_once(in.shape, width);
  const int64_t end = begin + kTile < all ? begin + kTile : all;
  const T* formula[kMostParams] = {shift};
  if constexpr (!Sums::kShifted) {
    for (int k = 0; k < Sums::kParams; ++k) formula[k] = params[k];
    repeated.fill(Sums::kParams, formula, width, at_once);
  }
  for (int64_t row = begin; row < end; row += kRowLanes) {
    const int64_t rows = end - row < kRowLanes ? end - row : kRowLanes;
    const RowGroup<T> x = gather_group<false>(in, row, rows, channel, width, x_buffer);
    RowGroup<T> g = x;
    if constexpr (Sums::kGrad) g = gather_group<true>(in, row, rows, channel, width, g_buffer);
    if constexpr (Sums::kShifted) {
      if (row == begin) {
        find_shifts<Sums>(x, rows, width, shift);
        repeated.fill(Sums::kParams, formula, width, at_once);
      }
    }
    const int64_t whole = rows / at_once, rest = rows % at_once;
    const RowGroup<T> x_long{x.data, x.stride * at_once}, g_long{g.data, g.stride * at_once};
    const int64_t n = at_once * width;
    add_rows<Sums>(repeated.at, x_long, g_long, whole, n, sums.s1, sums.s2);
    if (rest > 0) {
      const RowGroup<T> x_rest{x.data + whole * x_long.stride, 0}, g_rest{g.data + whole * g_long.stride, 0};
      add_rows<Sums>(repeated.at, x_rest, g_rest, 1, rest * width, sums.s1 + whole * n, sums.s2 + whole * n);
    }
    if ((row + kRowLanes - begin) % kLaneBlock == 0) sums.widen(width);
  }
  sums.widen(width);
  for (int64_t i = 0; i < width; ++i) {
    parts[i * in.shape.tiles()] =
        formula_at<Sums>(formula, i)
            .part(double(end - begin), sums.merged(0, i, width), sums.merged(1, i, width));
  }
}

}  // namespace onepass::ONEPASS_ISA
