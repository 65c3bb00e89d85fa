// fixed_position.h - positions along a row of an affine map, for bilinear taps, in whole numbers of 2^-32
// pixels.
//
//   position of column 16 k + l  =  that of column 16 k, made in double, + l steps
//
// Both terms are rounded to such numbers once, so a position is right to 2^-28 pixels and a weight to 2^-24.
// Sums of whole numbers have the same bits everywhere, and a vector of them takes a third of the time of
// doubles, whose whole parts have to be taken off again.
#pragma once

#include <cstdint>

#include "math/image_map.h"

namespace onepass::math {

// Columns of a group.
constexpr int64_t kGroup = 16;

struct FixedAxis {
  double slope, offset;
  int64_t step;

  ONEPASS_HD static FixedAxis make(double slope, double offset) {
    constexpr double kSteepest = 1 << 26;  // sums stay below 2^63
    return {slope, offset, fixed(slope, kSteepest)};
  }
  ONEPASS_HD static int64_t fixed(double p, double most) { return int64_t(clamped(p, -most, most) * 0x1p32); }
  // The position of a group's first column.
  ONEPASS_HD int64_t group(int64_t column) const { return fixed(slope * double(column) + offset, kFar); }
  ONEPASS_HD int64_t at(int64_t column) const {
    const int64_t place = column % kGroup;
    return group(column - place) + place * step;
  }
};

// The whole part of a position, and what is left in units of 2^-24, rounded down.
ONEPASS_HD int32_t whole_of(int64_t p) { return int32_t(p >> 32); }
ONEPASS_HD int32_t part_of(int64_t p) { return int32_t(uint32_t(p) >> 8); }
constexpr int32_t kOnePart = 1 << 24;
template <class T>
ONEPASS_HD T weight_of(T part) {
  return part * T(0x1p-24f);
}

struct FixedBounds {
  int32_t least, most;
  ONEPASS_HD static FixedBounds make(Axis axis) { return {int32_t(axis.least), int32_t(axis.most)}; }
};

// As the functions of image_map.h.
ONEPASS_HD Taps bilinear_taps(int64_t p, FixedBounds axis) {
  const int32_t whole = whole_of(p), part = part_of(p);
  const int32_t raised = whole > axis.least ? whole : axis.least,
                first = raised < axis.most ? raised : axis.most;
  const int32_t kept = first == whole && whole < axis.most ? part : 0;
  return {first, first + (first < axis.most ? 1 : 0), weight_of(float(kept))};
}

ONEPASS_HD Taps neighbour_taps(int64_t p, FixedBounds axis) {
  const int32_t whole = whole_of(p), part = part_of(p);
  const int32_t last = axis.most - (axis.most > axis.least ? 1 : 0);
  const int32_t raised = whole > axis.least ? whole : axis.least, first = raised < last ? raised : last;
  const int32_t kept = whole < axis.least ? 0 : part;
  const int32_t at_end = axis.most > axis.least ? kOnePart : 0;
  return {first, first, weight_of(float(whole < axis.most ? kept : at_end))};
}

}  // namespace onepass::math
