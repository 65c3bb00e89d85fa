// channels.h - statistics of each channel, then a formula made of them for each element, on the CPU. CUDA:
// channels.cuh.
//
// The first walk goes by tiles (shape.h), the second one by spans. A unit of work is some of them; results
// have the same bits for any number of threads.
//
// The second walk goes backwards: what was read last is still in the cache. Where the channels come first
// they can be taken a slab at a time, which fits the cache as a whole; its pieces of memory are long. One
// thread walks a slab both times if it fits the thread's own cache (kept_width), else all threads do.
#pragma once

#if defined(__unix__)
#include <unistd.h>
#endif

#include "loops/channels/reduce_last.h"
#include "loops/channels/walk.h"
#include "loops/common/units.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kWalkUnit = 32 * 1024;  // elements of a unit of the second walk
constexpr int64_t kSpanMultiple = 64;     // elements of whole lines, of any type
static_assert(kWalkUnit % kStrip == 0 && kStrip % 8 == 0);

// Channels that are taken at a time, from `begin` to `end`.
struct Slab {
  int64_t begin, end;
  int64_t width() const { return end - begin; }
};

// Bytes of a slab in the last-level cache, which others use too. Measured on a Zen 4 with 32 MB of it and
// pages of 4 KB: beyond 12 MB a second reading is no faster than the first.
constexpr int64_t kSlabBytes = 12 << 20;

// Several, so that no thread waits long for the last one.
constexpr int64_t kSlabsPerThread = 4;

// How many channels a slab has. bytes: what both walks read per element.
inline int64_t slab_width(const ChannelShape& shape, int64_t bytes) {
  const int64_t slabs = (shape.numel() * bytes + kSlabBytes - 1) / kSlabBytes;
  return shape.channels_last || slabs <= 1 ? shape.channels : (shape.channels + slabs - 1) / slabs;
}

// The size of a thread's own cache, L2.
inline int64_t own_cache_bytes() {
  constexpr int64_t kUnknown = 512 << 10;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return found > 0 ? found : kUnknown;
#else
  return kUnknown;
#endif
}

// How many channels, a multiple of `multiple`, a thread keeps in its cache between both walks; 0 if not one
// fits, or if there are too few channels for the threads. bytes: as above.
inline int64_t kept_width(const ChannelShape& shape, int64_t bytes, int64_t multiple, int threads) {
  if (shape.channels_last || multiple == 0) return 0;
  // An eighth is left for everything else that is read and written.
  const int64_t fits = own_cache_bytes() * 7 / 8 / (shape.rows() * bytes);
  const int64_t shared = shape.channels / (kSlabsPerThread * threads), most = fits < shared ? fits : shared;
  return most / multiple * multiple;
}

// The number of channels that a slab must be a multiple of for its pieces to begin at multiples of 8
// elements; 0: only all channels do.
inline int64_t mask_multiple(const ChannelShape& shape) {
  if (shape.channels * shape.positions % 8 != 0) return 0;
  int64_t multiple = 1;
  while (multiple * shape.positions % 8 != 0) multiple *= 2;
  return multiple;
}

// visit(slab) for slabs of `width` channels, each by one thread.
template <class Visit>
inline void for_each_slab(const ChannelShape& shape, int64_t width, int threads, const Visit& visit) {
  for_each_unit(threads, (shape.channels + width - 1) / width, [&](int64_t i) {
    const int64_t begin = i * width, end = begin + width;
    visit(Slab{begin, end < shape.channels ? end : shape.channels});
  });
}

// The first walk: parts[c * tiles + tile]. Sums: the formula; its parameters are params[k][c].
template <class Sums, class S>
inline void reduce_channels(const ChannelInputs& in, const Slab& slab, const arithmetic<S>* const* params,
                            math::Pair* parts, int threads) {
  using T = arithmetic<S>;
  const int64_t tiles = in.shape.tiles();
  const int64_t most = width_of_tiles<S>(in, threads), blocks = (slab.width() + most - 1) / most;
  for_each_unit(threads, blocks * tiles, [&](int64_t i) {
    const int64_t tile = i / blocks, channel = slab.begin + i % blocks * most, rest = slab.end - channel;
    const int64_t width = rest < most ? rest : most;
    const T* from[kMostParams];
    for (int k = 0; k < Sums::kParams; ++k) from[k] = params[k] + channel;
    math::Pair* own = parts + channel * tiles + tile;
    if (in.shape.channels_last) return reduce_tile_last<Sums, S>(in, tile, channel, width, from, own);
    reduce_tile<Sums, S>(in, tile, channel, width, from, own);
  });
}

// What is done with each span, behind a pointer: the walk is compiled once for all that visit.
template <class T>
class SpanVisit {
 public:
  template <class Visit>
  SpanVisit(const Visit& visit)
      : visit_(&visit),
        call_([](const void* self, Span<T>& span) { (*static_cast<const Visit*>(self))(span); }) {}
  void operator()(Span<T>& span) const { call_(visit_, span); }

 private:
  const void* visit_;
  void (*call_)(const void*, Span<T>&);
};

// The second walk: visit(span) for all elements of a slab. Spans begin at multiples of 8 elements, so that no
// two of them share a byte of a bit mask, if a slab's pieces do (mask_multiple).
template <class T>
void walk_spans(const ChannelShape& shape, const Slab& slab, const PassFlags& passing, const T* const* params,
                int threads, const SpanVisit<T>& visit) {
  // A slab consists of pieces of `piece` elements, `apart` elements from one to the next.
  const bool whole = slab.width() == shape.channels;
  const int64_t piece = whole ? shape.numel() : slab.width() * shape.positions;
  const int64_t apart = shape.channels * shape.positions, first = slab.begin * shape.positions;
  const int64_t numel = slab.width() * shape.rows();
  const int64_t count = (numel + kWalkUnit - 1) / kWalkUnit;
  RepeatedParams<T> repeated;
  const int64_t at_once = rows_at_once(shape, shape.channels);
  if (shape.channels_last) repeated.fill(kMostParams, params, shape.channels, at_once);
  for_each_unit_backwards(threads, count, [&](int64_t i) {
    Span<T> span{shape, params, repeated, at_once * shape.channels, 0, 0, {}};
    const int64_t begin = i * kWalkUnit;
    const int64_t end = begin + kWalkUnit < numel ? begin + kWalkUnit : numel;
    for (int64_t at = begin; at < end; at += span.n) {
      span.begin = first + at / piece * apart + at % piece;
      // Spans end with a cache line, if the tensor begins with one.
      const int64_t left = piece - at % piece, fits = kStrip - span.begin % kSpanMultiple;
      const int64_t most = left < fits ? left : fits;
      span.n = end - at < most ? end - at : most;
      if (passing.asks()) fill_span(passing, shape, span.begin, span.n, span.flags);
      visit(span);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
