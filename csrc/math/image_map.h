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
  // One coordinate, also of columns side by side.
  template <class T>
  ONEPASS_HD static T affine_at(T slope, T offset, T column) {
    return slope * column + offset;
  }
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

ONEPASS_HD double smaller(double a, double b) { return a < b ? a : b; }
ONEPASS_HD double larger(double a, double b) { return a > b ? a : b; }

// A nan becomes `least`.
ONEPASS_HD double clamped(double p, double least, double most) { return smaller(larger(p, least), most); }

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

// The first tap of a position that is not negative and before the last pixel, and the weight of the second.
template <class T>
struct InsideTap {
  T first, weight;
};
template <class T>
ONEPASS_HD InsideTap<T> inside_tap(T p) {
  const T first = whole_part(p);
  return {first, p - first};
}

// The place of a pixel, exact below 2^53.
template <class T>
ONEPASS_HD T place_of(T x, T y, T column, T row) {
  return y * row + x * column;
}

// a + w (b - a): a itself for w = 0, and for equal a and b.
template <class T>
ONEPASS_HD T between(T a, T b, T weight) {
  return a + weight * (b - a);
}

template <class T>
ONEPASS_HD T bilinear(T a, T b, T c, T d, T wx, T wy) {
  return between(between(a, b, wx), between(c, d, wx), wy);
}

struct Columns {
  int64_t first, last;
};

// A range that shrinks to the columns of a row whose positions along an axis lie between two bounds. The
// reciprocal of the slope is made once for all rows; what rounding does is less than a column.
struct ColumnRange {
  double first, last;

  struct Slope {
    double each, back;
    ONEPASS_HD static Slope make(double each) { return {each, each != 0 ? 1 / each : 0}; }
  };
  ONEPASS_HD void narrow(const Slope& slope, double offset, double least, double most) {
    if (slope.each == 0) {
      if (!(offset >= least && offset <= most)) last = -1;
      return;
    }
    const double a = (least - offset) * slope.back, b = (most - offset) * slope.back;
    const double low = a < b ? a : b, high = a < b ? b : a;
    first = first > low ? first : low;
    last = last < high ? last : high;
  }
};

// A canvas that pixels lie on, and how what is not on it is filled (kernels/augment/augment.h, BLEND).
struct Canvas {
  double width, height;
  float power;
  bool soft;

  // The share of a pixel at p that the canvas covers, along one axis.
  template <class T>
  ONEPASS_HD static T share(T p, T size) {
    return smaller(larger(smaller(p + T(1.0), size - p), T(0.0)), T(1.0));
  }
  ONEPASS_HD static float soft_share(double p, double size) { return float(share(p, size)); }
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
  ONEPASS_HD float blend(float v, float m, float fill) const { return m == 1 ? v : mixed(v, m, fill); }
  template <class T>
  ONEPASS_HD T mixed(T v, T m, T fill) const {
    if (power == 0) return m * v;
    return power == 1 ? m * v + (T(1) - m) * fill : m * (m * v - fill) + fill;
  }
  // Whether pixels between two positions are not covered at all.
  ONEPASS_HD bool misses(Position a, Position b) const {
    return (a.x <= -1 && b.x <= -1) || (a.x >= width && b.x >= width) || (a.y <= -1 && b.y <= -1) ||
           (a.y >= height && b.y >= height);
  }
};

}  // namespace onepass::math
