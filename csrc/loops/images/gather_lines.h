// gather_lines.h - bilinear gathers from bytes of three channels that go through formulas to the output, on
// the CPU: kWide pixels at a time, from their bytes to where they are stored, all in registers.
//
// The loop is bound by its arithmetic, and passes of it over strips in the L1 cache, one for the places, one
// for the bytes, one for each formula, take 1.5 times as long.
#pragma once

#include <cstdint>
#include <type_traits>

#include "loops/images/gather_bytes.h"
#include "loops/images/interleave.h"
#include "loops/images/wide_pixels.h"

namespace onepass::ONEPASS_ISA {

#if defined(__AVX512F__)
constexpr bool kGathersLines = true;
constexpr int64_t kLineBlock = kWide;  // pixels

// Where pixels are stored: channels one after the other, or in planes that begin `plane` elements apart.
template <class O>
struct LineTarget {
  O* data;
  int64_t plane;
  bool nontemporal;

  template <bool kPlanes>
  ONEPASS_HD void store(int64_t x, Wide (&v)[3]) const {
    if (!kPlanes) interleave_wide(v[0], v[1], v[2], v);
    ONEPASS_UNROLLED
    for (int k = 0; k < 3; ++k)
      store_finite(v[k], kPlanes ? data + k * plane + x : data + 3 * x + k * kWide, nontemporal);
  }
};

// The bytes of an image whose pixels are three bytes, one after the other.
struct LineBytes {
  const char* data;
  int64_t row, extent;
};

// Positions of blocks whose taps are within the image: they do not need to be clamped.
struct LinePlaces {
  WideDoubles slope_x, offset_x, slope_y, offset_y, column, row;

  ONEPASS_HD LinePlaces(const math::RowMap& map, int64_t row_bytes)
      : slope_x(map.dx),
        offset_x(map.x),
        slope_y(map.dy),
        offset_y(map.y),
        column(double(3)),
        row(double(row_bytes)) {}
  struct Weights {
    Wide x, y;
  };
  // The places of the block at column x are stored.
  ONEPASS_HD Weights find(int64_t x, int32_t* place) const {
    const WideDoubles columns = WideDoubles::from(double(x));
    const auto across = math::inside_tap(math::RowMap::affine_at(slope_x, offset_x, columns)),
               down = math::inside_tap(math::RowMap::affine_at(slope_y, offset_y, columns));
    math::place_of(across.first, down.first, column, row).store(place);
    return {across.weight.floats(), down.weight.floats()};
  }
};

// Pixels of a row from column x on whose taps are within the image, with eight bytes behind each.
// formula(a, b, c, d, weight x, weight y, channel). Places are found a block ahead: they go through memory,
// which takes as long as all arithmetic of a block.
template <bool kPlanes, class F, class O>
ONEPASS_WALK void gather_inside(const F formula, const LineBytes image, const math::RowMap map, int64_t x,
                                int64_t end, const LineTarget<O> to) {
  const LinePlaces places(map, image.row);
  const char *upper_row = image.data, *lower_row = image.data + image.row;
  alignas(64) int32_t place[2][kLineBlock];
  LinePlaces::Weights next = places.find(x, place[0]);
  for (int which = 0; x < end; x += kLineBlock, which = 1 - which) {
    const LinePlaces::Weights weights = next;
    next = places.find(x + kLineBlock, place[1 - which]);
    const WideTaps upper = WideTaps::load(upper_row, place[which]),
                   lower = WideTaps::load(lower_row, place[which]);
    Wide v[3] = {Wide(0.0f), Wide(0.0f), Wide(0.0f)};
    ONEPASS_UNROLLED
    for (int c = 0; c < 3; ++c) {
      v[c] = formula(upper.byte(c), upper.byte(c + 3), lower.byte(c), lower.byte(c + 3), weights.x, weights.y,
                     c);
    }
    to.template store<kPlanes>(x, v);
  }
}

// One block whose taps find_neighbours() found, with all bytes at `upper` and `lower`.
template <bool kPlanes, class F, class O>
ONEPASS_WALK void gather_edge(const F formula, const char* upper_bytes, const char* lower_bytes,
                              const int32_t* upper_place, const int32_t* lower_place, const ByteTaps& taps,
                              int64_t x, const LineTarget<O> to) {
  const WideTaps upper = WideTaps::load(upper_bytes, upper_place),
                 lower = WideTaps::load(lower_bytes, lower_place);
  const Wide weight_x = Wide::load(taps.weight_x), weight_y = Wide::load(taps.weight_y);
  Wide v[3] = {Wide(0.0f), Wide(0.0f), Wide(0.0f)};
  ONEPASS_UNROLLED
  for (int c = 0; c < 3; ++c) {
    v[c] = formula(upper.byte(c), upper.byte(c + 3), lower.byte(c), lower.byte(c + 3), weight_x, weight_y, c);
  }
  to.template store<kPlanes>(x, v);
}

// The block at column x of a row, with clamped positions.
template <bool kPlanes, class F, class O>
inline void gather_clamped(const F& formula, const LineBytes& image, const math::RowMap& map,
                           const TapBox& box, int64_t x, ByteTaps& taps, const LineTarget<O>& to) {
  const int32_t most =
      find_neighbours<true>(map, box, int32_t(image.row), 3, int32_t(x), int32_t(kLineBlock), taps);
  if (most + 8 <= image.extent) {
    return gather_edge<kPlanes>(formula, image.data, image.data, taps.offset[0], taps.offset[1], taps, x, to);
  }
  fetch_last_words(image.data, image.extent, kLineBlock, taps);
  int32_t place[kLineBlock];
  for (int32_t i = 0; i < kLineBlock; ++i) place[i] = 8 * i;
  gather_edge<kPlanes>(formula, reinterpret_cast<const char*>(taps.word[0]),
                       reinterpret_cast<const char*>(taps.word[1]), place, place, taps, x, to);
}

// Blocks [x, end) of pixels of one value a channel.
template <bool kPlanes, class O>
ONEPASS_WALK void store_filled(const float* fill, int64_t x, int64_t end, const LineTarget<O> to) {
  for (; x < end; x += kLineBlock) {
    Wide v[3] = {Wide(fill[0]), Wide(fill[1]), Wide(fill[2])};
    to.template store<kPlanes>(x, v);
  }
}
#else
constexpr bool kGathersLines = false;
#endif

}  // namespace onepass::ONEPASS_ISA
