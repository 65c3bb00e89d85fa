// channels.h - statistics of each channel, then a formula made of them for each element, on the CPU. CUDA:
// channels.cuh.
//
// Two orders of work. Where a channel's elements fit the cache of a core, a thread takes a channel at a time,
// and the second walk finds the elements in the cache: memory is read once (channels first only). Else all
// tiles of all channels are reduced, then all elements are walked, the last ones first: they are in the cache
// still. The results have the same bits in either order and for any number of threads.
#pragma once

#include "core/parallel.h"
#include "loops/channel_reduce_last.h"

namespace onepass::ONEPASS_ISA {

// Half of the second-level cache of a common core; what is written takes the other half.
constexpr int64_t kChannelBytes = 512 * 1024;
constexpr int64_t kMinElementsPerThread = 16 * 1024;
// Elements of a ticket of the second walk.
constexpr int64_t kTicketElements = 16 * 1024;

// One channel's parameters (step 0) or those of channels side by side (step 1).
template <class T>
struct ParamView {
  const T* at[kMostParams];
  int step;
};

template <class F, class T>
ONEPASS_WALK void walk_channel(const F formula, const T* __restrict a, const T* __restrict b,
                               T* __restrict out, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) out[i] = formula(F::kReadsX ? a[i] : T(0), F::kReadsOther ? b[i] : T(0));
}

template <class F, class T>
ONEPASS_WALK void walk_channels(const T* const* params, const T* __restrict a, const T* __restrict b,
                                T* __restrict out, int64_t n) {
  const T* p[F::kParams];
  for (int k = 0; k < F::kParams; ++k) p[k] = params[k];
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    out[i] = formula_at<F>(p, i)(F::kReadsX ? a[i] : T(0), F::kReadsOther ? b[i] : T(0));
  }
}

// out[i] = formula(a[i], b[i]) of a row.
template <class F, class T>
inline void walk_row(const ParamView<T>& params, const T* a, const T* b, T* out, int64_t n) {
  if (params.step == 0) return walk_channel(formula_at<F>(params.at, 0), a, b, out, n);
  walk_channels<F>(params.at, a, b, out, n);
}

// Channels first: calls piece(params, begin, n, flags) for rows row .. end of a channel, n <= kChannelRow
// elements that follow each other in memory from `begin` on. flags: which of them pass; not filled if nobody
// asks.
template <class T, class Piece>
inline void walk_tile(const ChannelShape& shape, const Passing& passing, const T* const* params,
                      int64_t channel, int64_t row, int64_t end, const Piece& piece) {
  uint8_t flags[kChannelRow];
  ParamView<T> view{{}, 0};
  for (int k = 0; k < kMostParams; ++k) view.at[k] = params[k] + channel;
  while (row < end) {
    const int64_t left = shape.positions - row % shape.positions;
    int64_t n = left < end - row ? left : end - row;
    n = n < kChannelRow ? n : kChannelRow;
    const int64_t begin = shape.logical_index(row, channel);
    if (passing.asks()) fill_flags(passing, begin, begin, n, flags);
    piece(view, begin, n, flags);
    row += n;
  }
}

// Channels last: the same for rows row .. end of all channels.
template <class T, class Piece>
inline void walk_rows(const ChannelShape& shape, const Passing& passing, const T* const* params, int64_t row,
                      int64_t end, const Piece& piece) {
  constexpr int64_t kGroupRows = 32;  // draws of a dropout come by 8 rows
  constexpr int64_t kWidth = kParamWidth;
  uint8_t flags[kGroupRows * kWidth];
  for (int64_t channel = 0; channel < shape.channels; channel += kWidth) {
    const int64_t rest = shape.channels - channel, width = rest < kWidth ? rest : kWidth;
    const T* from[kMostParams];
    for (int k = 0; k < kMostParams; ++k) from[k] = params[k] + channel;
    RepeatedParams<T> repeated;
    const int64_t at_once = rows_at_once(shape, width);
    repeated.fill(kMostParams, from, width, at_once);
    ParamView<T> view{{}, 1};
    for (int k = 0; k < kMostParams; ++k) view.at[k] = repeated.at[k];
    for (int64_t group = row; group < end; group += kGroupRows) {
      const int64_t rows = end - group < kGroupRows ? end - group : kGroupRows;
      if (passing.asks()) fill_flags_last(passing, shape, group, rows, channel, width, flags);
      for (int64_t k = 0; k < rows; k += at_once) {
        const int64_t n = (rows - k < at_once ? rows - k : at_once) * width;
        piece(view, (group + k) * shape.channels + channel, n, flags + k * width);
      }
    }
  }
}

template <class Unit>
struct UnitWork {
  const Unit& unit;
  int64_t count;
  int64_t next;

  static void run(void* self) {
    UnitWork& work = *static_cast<UnitWork*>(self);
    while (true) {
      const int64_t i = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
      if (i >= work.count) return;
      work.unit(i);
    }
  }
};

// unit(0) .. unit(count - 1), in no order.
template <class Unit>
inline void for_each_unit(int threads, int64_t count, const Unit& unit) {
  UnitWork<Unit> work{unit, count, 0};
  parallel_run(threads < count ? threads : int(count), work.run, &work);
}

inline int threads_for(const ChannelShape& shape, int threads) {
  const int64_t most = shape.numel() / kMinElementsPerThread + 1;
  return threads < most ? threads : int(most);
}

// The first walk of all channels: parts[c * tiles + tile]. Sums: the formula; its parameters are
// params[k][c].
template <class Sums, class T>
inline void reduce_channels(const ChannelInputs& in, const T* const* params, math::Pair* parts, int threads) {
  const int64_t tiles = in.shape.tiles(), channels = in.shape.channels;
  if (!in.shape.channels_last) {
    return for_each_unit(threads, channels * tiles, [&](int64_t i) {
      parts[i] = reduce_tile<T>(in, i / tiles, i % tiles, formula_at<Sums>(params, i / tiles));
    });
  }
  const int64_t blocks = (channels + kReduceWidth - 1) / kReduceWidth;
  for_each_unit(threads, blocks * tiles, [&](int64_t i) {
    const int64_t tile = i / blocks, channel = i % blocks * kReduceWidth, rest = channels - channel;
    const T* from[kMostParams];
    for (int k = 0; k < Sums::kParams; ++k) from[k] = params[k] + channel;
    reduce_tile_last<Sums>(in, tile, channel, rest < kReduceWidth ? rest : kReduceWidth, from,
                           parts + channel * tiles + tile);
  });
}

// The second walk of all elements, the last ones first.
template <class T, class Piece>
inline void walk_channels_all(const ChannelShape& shape, const Passing& passing, const T* const* params,
                              int threads, const Piece& piece) {
  // Whole tiles, or rows by 32: a byte of a mask belongs to one ticket wherever it can.
  const int64_t rows = shape.rows();
  if (shape.channels_last) {
    const int64_t groups = kTicketElements / (32 * shape.channels);
    const int64_t step = 32 * (groups < 1 ? 1 : groups), count = (rows + step - 1) / step;
    return for_each_unit(threads, count, [&](int64_t i) {
      const int64_t row = (count - 1 - i) * step;
      walk_rows(shape, passing, params, row, row + step < rows ? row + step : rows, piece);
    });
  }
  const int64_t step = kTicketElements, per_channel = (rows + step - 1) / step;
  const int64_t count = per_channel * shape.channels;
  for_each_unit(threads, count, [&](int64_t i) {
    const int64_t unit = count - 1 - i, row = unit % per_channel * step;
    walk_tile(shape, passing, params, unit / per_channel, row, row + step < rows ? row + step : rows, piece);
  });
}

// Both walks. bytes: of memory that the walks read for one element. finish(c, parts of channel c): makes the
// parameters of the second walk.
template <class Sums, class T, class Finish, class Piece>
inline void channels(const ChannelInputs& in, const Passing& outputs, const T* const* params,
                     math::Pair* parts, int64_t bytes, int threads, const Finish& finish,
                     const Piece& piece) {
  const ChannelShape& shape = in.shape;
  const int64_t tiles = shape.tiles();
  const bool fits = shape.rows() * bytes <= kChannelBytes;
  if (!shape.channels_last && fits && (threads == 1 || shape.channels >= 2 * threads)) {
    return for_each_unit(threads, shape.channels, [&](int64_t c) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        parts[c * tiles + tile] = reduce_tile<T>(in, c, tile, formula_at<Sums>(params, c));
      }
      finish(c, parts + c * tiles);
      walk_tile(shape, outputs, params, c, 0, shape.rows(), piece);
    });
  }
  reduce_channels<Sums>(in, params, parts, threads);
  for (int64_t c = 0; c < shape.channels; ++c) finish(c, parts + c * tiles);
  walk_channels_all(shape, outputs, params, threads, piece);
}

}  // namespace onepass::ONEPASS_ISA
