// elementwise.h - visits every element of a tensor in the order of memory with its flag of a dropout, on the
// CPU. CUDA: elementwise.cuh.
//
// The flag depends on the element's logical index (places.h). Where several elements share a draw the
// flags are drawn first, into a table; else each strip draws its own.
#pragma once

#include "loops/channels/flags.h"
#include "loops/common/units.h"
#include "loops/elements/places.h"

namespace onepass::ONEPASS_ISA {

// Elements of a unit of work: whole strips.
constexpr int64_t kElementUnit = 32 * kStrip;

// kept[0 .. n) of the elements from `begin` on in memory, n <= kStrip.
inline void look_up_strip(const DropoutPlaces& places, int64_t begin, int64_t n, uint8_t* kept) {
  const ChannelShape& shape = places.shape;
  for (int64_t i = 0; i < n;) {
    const int64_t draw = places.draw_of(begin + i);
    if (places.planes && !shape.channels_last) {
      const int64_t left = shape.positions - (begin + i) % shape.positions,
                    here = left < n - i ? left : n - i;
      std::memset(kept + i, places.table[draw], size_t(here));
      i += here;
    } else if (places.planes != shape.channels_last) {
      kept[i++] = places.table[draw];
    } else {
      // The draws follow each other in memory's order, to the end of the channels or of the example.
      const int64_t run = places.planes ? shape.channels : places.draws();
      const int64_t left = run - (begin + i) % run, here = left < n - i ? left : n - i;
      std::memcpy(kept + i, places.table + draw, size_t(here));
      i += here;
    }
  }
}

// draw_kept, of the elements or draws of a part of a tensor.
template <class Beside = Nothing>
inline void draw_part(const DropoutPlaces& places, const math::Dropout& dropout, int64_t begin, int64_t n,
                      uint8_t* kept, const Beside& beside = {}) {
  if (places.of_whole.count == 0) return draw_kept(dropout, begin, n, kept, beside);
  for (int64_t i = 0; i < n;) {
    const int64_t here = places.of_whole.run(begin + i, n - i);
    draw_kept(dropout, places.of_whole.number(begin + i), here, kept + i);
    i += here;
  }
}

inline void draw_table(const DropoutPlaces& places, const math::Dropout& dropout, int threads) {
  const int64_t draws = places.draws(), count = (draws + kElementUnit - 1) / kElementUnit;
  for_each_unit(threads_for(draws, threads), count, [&](int64_t i) {
    const int64_t begin = i * kElementUnit, left = draws - begin;
    draw_part(places, dropout, begin, left < kElementUnit ? left : kElementUnit, places.table + begin);
  });
}

// Elements of a part of a strip.
constexpr int64_t kStripPart = kDrawsAtOnce;

// Each unit has a visitor, made by make(): `prepare(begin, n, part)` for the parts of a strip, in order, if
// possible while its draws are made; then `visit(begin, n, kept)`, whose flags stay until the next strip is
// visited; `finish()` after the last strip.
template <class Make>
inline void walk_kept(const DropoutPlaces& places, const math::Dropout& dropout, int threads,
                      const Make& make) {
  const int64_t numel = places.shape.numel(), count = (numel + kElementUnit - 1) / kElementUnit;
  if (places.has_table()) draw_table(places, dropout, threads);
  PassFlags passing;
  passing.drops = true;
  passing.dropout = dropout;
  for_each_unit(threads_for(numel, threads), count, [&](int64_t i) {
    alignas(64) uint8_t flags[2][kStrip];
    auto visitor = make();
    const int64_t begin = i * kElementUnit;
    const int64_t end = begin + kElementUnit < numel ? begin + kElementUnit : numel;
    for (int64_t at = begin; at < end; at += kStrip) {
      const int64_t n = end - at < kStrip ? end - at : kStrip;
      uint8_t* kept = flags[at / kStrip % 2];
      int64_t prepared = 0;
      const auto beside = [&](int64_t) { visitor.prepare(at, n, prepared++); };
      if (places.has_table()) {
        look_up_strip(places, at, n, kept);
      } else if (places.shape.channels_last) {
        fill_span(passing, places.shape, at, n, kept);
      } else {
        draw_part(places, dropout, at, n, kept, beside);
      }
      while (prepared < kStrip / kStripPart) beside(0);
      visitor.visit(at, n, kept);
    }
    visitor.finish();
  });
}

}  // namespace onepass::ONEPASS_ISA
