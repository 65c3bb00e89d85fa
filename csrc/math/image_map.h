// image_map.h - where an output pixel lies in the image that it is made of: maps, borders and taps.
//
// Pixel indices: the centre of pixel 0 is 0.0. A map is a 3 x 3 matrix m, row by row, from the output:
//   (X, Y, W) = m (x, y, 1),   position = (X / W, Y / W)
// in double, rounded to float only where a weight is made: a position of some thousand pixels is then right
// to the last bit of that weight. An affine map is not divided by its W of 1.
//
// Positions are clamped before they become integers, so that none that is infinite or a nan leaves the box.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/compiler.h"

namespace onepass::math {

struct Position {
  double x, y;
};

// A map along one row of the output.
struct RowMap {
  double x, y, w;     // at column 0
  double dx, dy, dw;  // for each column
  bool affine;

  ONEPASS_HD static RowMap make(const double (&m)[9], double row) {
    return {m[1] * row + m[2],
            m[4] * row + m[5],
            m[7] * row + m[8],
            m[0],
            m[3],
            m[6],
            m[6] == 0 && m[7] == 0 && m[8] == 1};
  }
  ONEPASS_HD Position affine_at(double column) const { return {dx * column + x, dy * column + y}; }
  ONEPASS_HD Position projected_at(double column) const {
    const double scale = dw * column + w;
    return {(dx * column + x) / scale, (dy * column + y) / scale};
  }
  template <bool kAffine>
  ONEPASS_HD Position at(double column) const {
    return kAffine ? affine_at(column) : projected_at(column);
  }
};

// The first and the last pixel of a box along one axis.
struct Axis {
  double least, most;
};

// A nan becomes `least`.
ONEPASS_HD double clamped(double p, double least, double most) {
  p = p > least ? p : least;
  return p < most ? p : most;
}

// The nearest integer, half to even, for |p| < 2^51.
ONEPASS_HD double nearest_integer(double p) {
  constexpr double kShift = 0x1.8p52;
  return (p + kShift) - kShift;
}

// Where taps outside the box come from.
enum class Border : uint8_t { kEdge, kReflect, kSymmetric };

// The pixel of the box that an integer outside it stands for.
ONEPASS_HD double folded(double i, Axis axis, Border border) {
  const double last = axis.most - axis.least, edge = border == Border::kSymmetric ? 1 : 0;
  const double period = 2 * last + 2 * edge;
  if (!(period > 0)) return axis.least;
  const double from = i - axis.least, phase = from - period * floor(from / period);
  return axis.least + (phase > last ? period - edge - phase : phase);
}

// Two neighbours along one axis, and the weight of the second.
struct Taps {
  int32_t first, second;
  float weight;
};

// What both borders make of integers.
constexpr double kFar = 1 << 30;

ONEPASS_HD Taps bilinear_taps(double p, Axis axis) {
  const double inside = clamped(p, axis.least, axis.most);
  const int32_t first = int32_t(inside);
  return {first, first + (first < int32_t(axis.most) ? 1 : 0), float(inside - double(first))};
}

ONEPASS_HD Taps folded_taps(double p, Axis axis, Border border) {
  const double inside = clamped(p, -kFar, kFar), first = floor(inside);
  return {int32_t(folded(first, axis, border)), int32_t(folded(first + 1, axis, border)),
          float(inside - first)};
}

// The same without a second index: the neighbour of the first is first + 1, unless the box has one pixel. The
// weight is 1 at the last pixel: a + 1 (b - a) is b for bytes, as the same pixel twice would give.
ONEPASS_HD Taps neighbour_taps(double p, Axis axis) {
  const double inside = clamped(p, axis.least, axis.most);
  const int32_t last = int32_t(axis.most) - (axis.most > axis.least ? 1 : 0);
  const int32_t whole = int32_t(inside), first = whole < last ? whole : last;
  return {first, first, float(inside - double(first))};
}

enum class Nearest : uint8_t { kRound, kFloor };

ONEPASS_HD int32_t nearest_tap(double p, Axis axis, Nearest kind) {
  const double whole =
      kind == Nearest::kFloor ? floor(clamped(p, -kFar, kFar)) : nearest_integer(clamped(p, -kFar, kFar));
  return int32_t(clamped(whole, axis.least, axis.most));
}

ONEPASS_HD int32_t folded_tap(double p, Axis axis, Nearest kind, Border border) {
  const double inside = clamped(p, -kFar, kFar);
  return int32_t(folded(kind == Nearest::kFloor ? floor(inside) : nearest_integer(inside), axis, border));
}

// a + w (b - a): a itself for w = 0, and for equal a and b.
ONEPASS_HD float between(float a, float b, float weight) { return a + weight * (b - a); }

ONEPASS_HD float bilinear(float a, float b, float c, float d, float wx, float wy) {
  return between(between(a, b, wx), between(c, d, wx), wy);
}

struct Columns {
  int64_t first, last;
};

// A canvas that pixels lie on, and how what is not on it is filled (kernels/augment/augment.h, BLEND).
struct Canvas {
  double width, height;
  float power;
  bool soft;

  // The share of a pixel at p that the canvas covers, along one axis.
  ONEPASS_HD static float soft_share(double p, double size) {
    const double before = p + 1, behind = size - p;
    return float(clamped(before < behind ? before : behind, 0, 1));
  }
  ONEPASS_HD static float hard_share(double p, double size) {
    const double whole = nearest_integer(clamped(p, -kFar, kFar));
    return whole >= 0 && whole < size ? 1.0f : 0.0f;
  }
  ONEPASS_HD float coverage(Position p) const {
    return soft ? soft_share(p.x, width) * soft_share(p.y, height)
                : hard_share(p.x, width) * hard_share(p.y, height);
  }
  // Columns of a row that are covered wholly, by an affine map: those between the two, where both are. Near
  // the ends some more may be; {1, 0} for none.
  ONEPASS_HD Columns covered(const RowMap& row, int64_t columns) const {
    double least = 0, most = double(columns - 1);
    narrow(row.dx, row.x, width - 1, least, most);
    narrow(row.dy, row.y, height - 1, least, most);
    const Columns found{int64_t(clamped(ceil(least) + 1, 0, kFar)),
                        int64_t(clamped(floor(most) - 1, -1, kFar))};
    const bool holds = found.first <= found.last && coverage(row.affine_at(double(found.first))) == 1 &&
                       coverage(row.affine_at(double(found.last))) == 1;
    return holds ? found : Columns{1, 0};
  }
  // Narrows the columns to those where 0 <= slope column + offset <= last.
  ONEPASS_HD static void narrow(double slope, double offset, double last, double& least, double& most) {
    if (slope == 0) {
      if (!(offset >= 0 && offset <= last)) most = -1;
      return;
    }
    const double a = -offset / slope, b = (last - offset) / slope, low = a < b ? a : b, high = a < b ? b : a;
    least = least > low ? least : low;
    most = most < high ? most : high;
  }
  // A pixel that is covered wholly is left as it is.
  ONEPASS_HD float blend(float v, float m, float fill) const {
    if (m == 1) return v;
    if (power == 0) return m * v;
    return power == 1 ? m * v + (1 - m) * fill : m * (m * v - fill) + fill;
  }
};

}  // namespace onepass::math
