// reduce_last.h - the sums of reduce.h where the channels come last in memory, on the CPU: the same additions
// in the same order.
//
// The lanes of all channels lie in the L1 cache. Rows r, r + kRowLanes, ... go to the same lane, so several
// of them are added between one load and one store of it.
#pragma once

#include "loops/channels/reduce.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kParamWidth = 128;   // elements of a parameter that is repeated for several rows
constexpr int64_t kDirectWidth = 512;  // channels of a tile that is read as it is stored
constexpr int kStepsAtOnce = 4;
constexpr int64_t kGroup = kRowLanes * kStepsAtOnce;
static_assert(kLaneSteps % kStepsAtOnce == 0);

// How many rows of `width` channels are walked as one long row, for which parameters are repeated: short rows
// would leave vectors empty. A power of two, so that it divides the lanes. Only whole rows follow each other.
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
      at[k] = times == 1 ? from[k] : memory[k];
      for (int64_t t = 0; t < times && times > 1; ++t) {
        std::memcpy(memory[k] + t * width, from[k], size_t(width) * sizeof(T));
      }
    }
  }
};

// Rows whose elements lie `stride` apart. Must fit two registers: a larger struct is passed in memory, and
// its loads wait for all stores before them.
template <class S>
struct RowGroup {
  const S* data;
  int64_t stride;
  RowGroup from(int64_t row) const { return {data + row * stride, stride}; }
};

// `rows` rows of channels channel .. channel + width from `row` on. kOther: rows of the second operand.
template <bool kOther, class S>
inline RowGroup<S> gather_group(const ChannelInputs& in, int64_t row, int64_t rows, int64_t channel,
                                int64_t width, S* buffer) {
  const int64_t channels = in.shape.channels;
  const void* stored = kOther ? in.other : in.x;
  const int64_t begin = row * channels + channel;
  const bool masked = kOther && in.passing.asks();
  if (!masked && stored_as(in.dtype, S{})) return {static_cast<const S*>(stored) + begin, channels};
  if constexpr (sizeof(S) >= sizeof(float)) {
    uint8_t flags[kGroup * kReduceWidth];
    if (masked) fill_flags_last(in.passing, in.shape, row, rows, channel, width, flags);
    // All channels: the rows are one piece.
    const bool whole = width == channels;
    const int64_t pieces = whole ? 1 : rows, n = whole ? rows * width : width;
    for (int64_t k = 0; k < pieces; ++k) {
      S* to = buffer + k * width;
      const S* from = read_strip(in.dtype, stored, begin + k * channels, n, to);
      if (masked) drop_strip(from, flags + k * width, S(in.passing.scale()), to, n);
    }
  }
  return {buffer, width};
}

// Elements begin .. end of kSteps rows, `step` elements apart, added to one lane each.
template <class Sums, int kSteps, class S, class T>
ONEPASS_HD void add_elements(const T* const* params, const S* x, int64_t x_step, const S* g, int64_t g_step,
                             int64_t begin, int64_t end, T* __restrict s1, T* __restrict s2) {
  ONEPASS_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    const Sums sums = formula_at<Sums>(params, i);
    T a = s1[i], b = s2[i];
    for (int j = 0; j < kSteps; ++j) {
      sums.add(widen(x[i + j * x_step]), Sums::kGrad ? widen(g[i + j * g_step]) : T(0), a, b);
    }
    s1[i] = a;
    s2[i] = b;
  }
}

// Rows between an element that is added and one that is asked for.
constexpr int64_t kRowsAhead = 4;

// Adds kSteps times `rows` rows of n elements to `rows` lanes that follow each other in s1 and s2; `step`
// elements lie between the rows of one lane. kAsks: memory is asked for, since the
// processor's prefetcher does not recognise pieces that are so short and lie so far apart.
template <class Sums, int kSteps, bool kAsks, class S, class T>
ONEPASS_WALK void add_rows(const T* const* params, RowGroup<S> x, int64_t x_step, RowGroup<S> g,
                           int64_t g_step, int64_t rows, int64_t n, T* __restrict s1, T* __restrict s2) {
  const int64_t part = kAsks ? 64 : n;
  const T* p[Sums::kParams];
  for (int k = 0; k < Sums::kParams; ++k) p[k] = params[k];
  for (int64_t r = 0; r < rows; ++r) {
    const S* xr = x.data + r * x.stride;
    const S* gr = Sums::kGrad ? g.data + r * g.stride : nullptr;
    const int64_t later = kAsks ? (r + kRowsAhead) % rows : 0, groups = kAsks ? (r + kRowsAhead) / rows : 0;
    for (int64_t i = 0, end; i < n; i = end) {
      end = i + part < n ? i + part : n;
      for (int j = 0; j < kSteps; ++j) {
        const int64_t step = groups * kSteps + j, bytes = (end - i) * int64_t(sizeof(S));
        if (kAsks) fetch_lines(x.data + later * x.stride + step * x_step + i, bytes);
        if (kAsks && Sums::kGrad) fetch_lines(g.data + later * g.stride + step * g_step + i, bytes);
        if (!kAsks) fetch_chosen<Sums>(gr + j * g_step, n);
      }
      add_elements<Sums, kSteps>(p, xr, x_step, gr, g_step, i, end, s1, s2);
    }
    s1 += n;
    s2 += n;
  }
}

// Adds the lanes to the wide ones and empties them.
template <class T>
ONEPASS_WALK void widen_lanes(T* __restrict s, double* __restrict wide, int64_t width) {
  const int64_t n = kWideLanes * width;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) wide[i] += double(s[i]) + double(s[i + n]);
  std::memset(s, 0, size_t(2 * n) * sizeof(T));
}

// The lanes of `width` channels: lane l of channel i is at l * width + i.
template <class T>
struct LastLanes {
  alignas(64) T s1[kRowLanes * kDirectWidth];
  alignas(64) T s2[kRowLanes * kDirectWidth];
  alignas(64) double wide[2][kWideLanes * kDirectWidth];
  const int64_t width;

  explicit LastLanes(int64_t channels) : width(channels) {
    std::memset(s1, 0, size_t(kRowLanes * width) * sizeof(T));
    std::memset(s2, 0, size_t(kRowLanes * width) * sizeof(T));
    for (auto& sums : wide) std::memset(sums, 0, size_t(kWideLanes * width) * sizeof(double));
  }
  void widen() {
    widen_lanes(s1, wide[0], width);
    widen_lanes(s2, wide[1], width);
  }
  double merged(int which, int64_t i) const {
    double lane[kWideLanes];
    for (int l = 0; l < kWideLanes; ++l) lane[l] = wide[which][l * width + i];
    return sum_lanes<kWideLanes>(lane);
  }
};

// Bytes asked for at a time at most: beyond that the processor's own prefetching is faster.
constexpr int64_t kMostAsked = 4096;

// Adds `rows` <= kGroup rows, the first of which goes to lane 0. stored: they lie in memory, with others
// behind.
template <class Sums, class S, class T>
inline void add_group(const T* const* params, const RowGroup<S>& x, const RowGroup<S>& g, bool stored,
                      int64_t rows, int64_t at_once, LastLanes<T>& lanes) {
  const int64_t width = lanes.width, n = at_once * width, x_step = kRowLanes * x.stride,
                g_step = kRowLanes * g.stride;
  const auto longer = [&](const RowGroup<S>& group) {
    return RowGroup<S>{group.data, group.stride * at_once};
  };
  if (rows == kGroup) {
    const int64_t asked = kStepsAtOnce * n * int64_t(sizeof(S)) * (Sums::kGrad ? 2 : 1);
    const bool asks = stored && asked <= kMostAsked;
    const auto add =
        asks ? &add_rows<Sums, kStepsAtOnce, true, S, T> : &add_rows<Sums, kStepsAtOnce, false, S, T>;
    return add(params, longer(x), x_step, longer(g), g_step, kRowLanes / at_once, n, lanes.s1, lanes.s2);
  }
  for (int64_t row = 0; row < rows; row += kRowLanes) {
    const int64_t here = rows - row < kRowLanes ? rows - row : kRowLanes, whole = here / at_once;
    add_rows<Sums, 1, false>(params, longer(x.from(row)), 0, longer(g.from(row)), 0, whole, n, lanes.s1,
                             lanes.s2);
    const int64_t done = whole * at_once, offset = done * width;
    if (done < here) {
      add_rows<Sums, 1, false>(params, x.from(row + done), 0, g.from(row + done), 0, 1, (here - done) * width,
                               lanes.s1 + offset, lanes.s2 + offset);
    }
  }
}

// How many channels are reduced together. More channels make longer pieces of memory, as long as all threads
// have work. Rows that are worked on before the sums pass through a buffer of kReduceWidth channels.
template <class S>
inline int64_t width_of_tiles(const ChannelInputs& in, int threads) {
  if (!in.shape.channels_last || in.passing.asks() || !stored_as(in.dtype, S{})) return kReduceWidth;
  int64_t width = kDirectWidth;
  const auto units = [&] { return (in.shape.channels + width - 1) / width * in.shape.tiles(); };
  while (width > kReduceWidth && units() < 2 * threads) width /= 2;
  return width;
}

// A tile of channels channel .. channel + width. params and parts as in reduce_tile.
template <class Sums, class S>
inline void reduce_tile_last(const ChannelInputs& in, int64_t tile, int64_t channel, int64_t width,
                             const arithmetic<S>* const* params, math::Pair* parts) {
  using T = arithmetic<S>;
  LastLanes<T> lanes(width);
  alignas(64) S x_buffer[kGroup * kReduceWidth], g_buffer[kGroup * kReduceWidth];
  T shift[kDirectWidth];
  RepeatedParams<T> repeated;
  const int64_t at_once = rows_at_once(in.shape, width);
  const T* formula[kMostParams] = {shift};
  if constexpr (!Sums::kShifted) {
    for (int k = 0; k < Sums::kParams; ++k) formula[k] = params[k];
    repeated.fill(Sums::kParams, formula, width, at_once);
  }
  const bool stored = stored_as(in.dtype, S{}) && !(Sums::kGrad && in.passing.asks());
  const RowRange all = in.shape.tile(tile);
  for (int64_t begin = all.begin, end; begin < all.end; begin = end) {
    end = in.shape.run_end(begin, all);
    for (int64_t row = begin; row < end; row += kGroup) {
      const int64_t rows = end - row < kGroup ? end - row : kGroup;
      const RowGroup<S> x = gather_group<false>(in, row, rows, channel, width, x_buffer);
      RowGroup<S> g = x;
      if constexpr (Sums::kGrad) g = gather_group<true>(in, row, rows, channel, width, g_buffer);
      if constexpr (Sums::kShifted) {
        if (row == all.begin) {
          for (int64_t i = 0; i < width; ++i) shift[i] = shift_of<Sums>(x.data + i, x.stride, rows);
          repeated.fill(Sums::kParams, formula, width, at_once);
        }
      }
      add_group<Sums>(repeated.at, x, g, stored, rows, at_once, lanes);
      if ((row + kGroup - begin) % kLaneBlock == 0 || row + kGroup >= end) lanes.widen();
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    parts[i * in.shape.tiles()] =
        formula_at<Sums>(formula, i)
            .part(double(all.end - all.begin), lanes.merged(0, i), lanes.merged(1, i));
  }
}

}  // namespace onepass::ONEPASS_ISA
