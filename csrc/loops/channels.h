// channels.h - statistics of each channel, then a formula made of them for each element, on the CPU. CUDA:
// channels.cuh.
//
// Both walks go through memory in its order, whatever the layout: the first one by tiles (channel_shape.h),
// the second one by spans. A thread takes some of them at a time; results have the same bits for any number
// of threads.
//
// To take a channel at a time instead, so that the second walk finds it in the core's cache, reads memory
// once, but in pieces of a plane that lie far apart: for (32,64,56,56) floats on one core of a Zen 4 that
// took 1.2 times as long, and for 256 channels as long.
#pragma once

#include "loops/channel_reduce_last.h"
#include "loops/units.h"
#include "math/batch_norm.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kMinElementsPerThread = 16 * 1024;
constexpr int64_t kTicketElements = 32 * 1024;  // of the second walk
static_assert(kTicketElements % kChannelRow == 0 && kChannelRow % 8 == 0);

template <class F, class S, class T>
ONEPASS_WALK void walk_channel(const F formula, const S* __restrict a, const S* __restrict b,
                               S* __restrict out, uint8_t* __restrict flags, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const T value = formula(F::kReadsX ? widen(a[i]) : T(0), F::kReadsOther ? widen(b[i]) : T(0));
    narrow(formula.result(value), out[i]);
    if constexpr (F::kFlags) flags[i] = math::passes(value) ? 1 : 0;
  }
}

template <class F, class S, class T>
ONEPASS_WALK void walk_channels(const T* const* params, const S* __restrict a, const S* __restrict b,
                                S* __restrict out, uint8_t* __restrict flags, int64_t n) {
  const T* p[F::kParams];
  for (int k = 0; k < F::kParams; ++k) p[k] = params[k];
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const F formula = formula_at<F>(p, i);
    const T value = formula(F::kReadsX ? widen(a[i]) : T(0), F::kReadsOther ? widen(b[i]) : T(0));
    narrow(formula.result(value), out[i]);
    if constexpr (F::kFlags) flags[i] = math::passes(value) ? 1 : 0;
  }
}

// At most kChannelRow elements that follow each other in memory, and which of them pass (not filled if nobody
// asks).
template <class T>
struct Span {
  const ChannelShape& shape;
  const T* const* params;  // of channel i at [k][i]
  const RepeatedParams<T>& repeated;
  int64_t period;  // elements for which they are repeated
  int64_t begin, n;
  uint8_t flags[kChannelRow];

  // out = formula(a, b) of all elements; with F::kFlags also new flags.
  template <class F, class S>
  void walk(const S* a, const S* b, S* out, uint8_t* passed) const {
    const int64_t run = shape.channels_last ? period : shape.positions;
    for (int64_t i = 0, at = begin % run; i < n;) {
      const int64_t here = run - at < n - i ? run - at : n - i;
      const auto part = [i](auto* row) { return row ? row + i : row; };
      if (shape.channels_last) {
        const T* from[kMostParams];
        for (int k = 0; k < F::kParams; ++k) from[k] = repeated.at[k] + at;
        walk_channels<F>(from, part(a), part(b), out + i, part(passed), here);
      } else {
        const int64_t channel = (begin + i) / run % shape.channels;
        walk_channel<F, S, T>(formula_at<F>(params, channel), part(a), part(b), out + i, part(passed), here);
      }
      i += here;
      at = 0;
    }
  }
};

inline int threads_for(const ChannelShape& shape, int threads) {
  const int64_t most = shape.numel() / kMinElementsPerThread + 1;
  return threads < most ? threads : int(most);
}

// The first walk: parts[c * tiles + tile]. Sums: the formula; its parameters are params[k][c].
template <class Sums, class S>
inline void reduce_channels(const ChannelInputs& in, const arithmetic<S>* const* params, math::Pair* parts,
                            int threads) {
  using T = arithmetic<S>;
  const int64_t tiles = in.shape.tiles(), channels = in.shape.channels;
  const int64_t most = width_of_tiles<S>(in, threads), blocks = (channels + most - 1) / most;
  for_each_unit(threads, blocks * tiles, [&](int64_t i) {
    const int64_t tile = i / blocks, channel = i % blocks * most, rest = channels - channel;
    const int64_t width = rest < most ? rest : most;
    const T* from[kMostParams];
    for (int k = 0; k < Sums::kParams; ++k) from[k] = params[k] + channel;
    math::Pair* own = parts + channel * tiles + tile;
    if (in.shape.channels_last) return reduce_tile_last<Sums, S>(in, tile, channel, width, from, own);
    reduce_tile<Sums, S>(in, tile, channel, width, from, own);
  });
}

// The second walk: visit(span) for all elements. Spans begin at multiples of 8 elements: no two of them share
// a byte of a bit mask.
template <class T, class Visit>
inline void walk_spans(const ChannelShape& shape, const Passing& passing, const T* const* params, int threads,
                       const Visit& visit) {
  const int64_t numel = shape.numel(), count = (numel + kTicketElements - 1) / kTicketElements;
  RepeatedParams<T> repeated;
  const int64_t at_once = rows_at_once(shape, shape.channels);
  if (shape.channels_last) repeated.fill(kMostParams, params, shape.channels, at_once);
  for_each_unit(threads, count, [&](int64_t i) {
    Span<T> span{shape, params, repeated, at_once * shape.channels, 0, 0, {}};
    const int64_t begin = i * kTicketElements;
    const int64_t end = begin + kTicketElements < numel ? begin + kTicketElements : numel;
    for (span.begin = begin; span.begin < end; span.begin += kChannelRow) {
      span.n = end - span.begin < kChannelRow ? end - span.begin : kChannelRow;
      if (passing.asks()) fill_span(passing, shape, span.begin, span.n, span.flags);
      visit(span);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
