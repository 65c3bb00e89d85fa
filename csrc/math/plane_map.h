// plane_map.h - maps between the pixels of two images: products, and what the transforms of images are made
// of.
//
// A map is a 3 x 3 matrix, row by row, from (x, y, 1) of the new image to (X, Y, W) of the one that it is
// made of, pixel indices (image_map.h). All is double. Products are fused, from the first term to the last:
// what the BLAS of numpy makes of them on CPUs of this time, and the same bits on all.
#pragma once

#include "core/fused.h"
#include "math/image_map.h"

namespace onepass::math {

struct PlaneMap {
  double m[9];
};

ONEPASS_HD PlaneMap identity_map() { return {{1, 0, 0, 0, 1, 0, 0, 0, 1}}; }

ONEPASS_HD PlaneMap translation_map(double x, double y) { return {{1, 0, x, 0, 1, y, 0, 0, 1}}; }

ONEPASS_HD bool is_affine(const PlaneMap& map) { return map.m[6] == 0 && map.m[7] == 0 && map.m[8] == 1; }

// Row `a`, `b`, `c` of one map, times column k of another.
ONEPASS_HD double map_entry(double a, double b, double c, const PlaneMap& other, int k) {
  return fused(c, other.m[6 + k], fused(b, other.m[3 + k], a * other.m[k]));
}

// `inner` first. Terms with the third row of affine maps, 0 0 1, add 0 or are a sum: they are left out, since
// a fused product of doubles is a call where no instruction is known to be there.
ONEPASS_HD PlaneMap product(const PlaneMap& outer, const PlaneMap& inner) {
  const double (&a)[9] = outer.m;
  const double (&b)[9] = inner.m;
  if (is_affine(outer) && is_affine(inner)) {
    return {{fused(a[1], b[3], a[0] * b[0]), fused(a[1], b[4], a[0] * b[1]),
             fused(a[1], b[5], a[0] * b[2]) + a[2], fused(a[4], b[3], a[3] * b[0]),
             fused(a[4], b[4], a[3] * b[1]), fused(a[4], b[5], a[3] * b[2]) + a[5], 0, 0, 1}};
  }
  return {{map_entry(a[0], a[1], a[2], inner, 0), map_entry(a[0], a[1], a[2], inner, 1),
           map_entry(a[0], a[1], a[2], inner, 2), map_entry(a[3], a[4], a[5], inner, 0),
           map_entry(a[3], a[4], a[5], inner, 1), map_entry(a[3], a[4], a[5], inner, 2),
           map_entry(a[6], a[7], a[8], inner, 0), map_entry(a[6], a[7], a[8], inner, 1),
           map_entry(a[6], a[7], a[8], inner, 2)}};
}

// The map after a step of (x, y) in the new image.
ONEPASS_HD PlaneMap translated(const PlaneMap& map, double x, double y) {
  PlaneMap moved = map;
  moved.m[2] += map.m[0] * x + map.m[1] * y;
  moved.m[5] += map.m[3] * x + map.m[4] * y;
  moved.m[8] += map.m[6] * x + map.m[7] * y;
  return moved;
}

// The map of the mirrored image: pixel i of `axis` (0 x, 1 y) becomes last - i.
ONEPASS_HD PlaneMap mirrored(const PlaneMap& map, int axis, double last) {
  PlaneMap moved = map;
  moved.m[2] += map.m[axis] * last;
  moved.m[5] += map.m[3 + axis] * last;
  moved.m[8] += map.m[6 + axis] * last;
  moved.m[axis] = -map.m[axis];
  moved.m[3 + axis] = -map.m[3 + axis];
  moved.m[6 + axis] = -map.m[6 + axis];
  return moved;
}

// Turns by 1, 2 or 3 quarters against the clock, from an image of height x width pixels.
ONEPASS_HD PlaneMap turned_map(int quarters, double height, double width) {
  if (quarters == 1) return {{0, -1, width - 1, 1, 0, 0, 0, 0, 1}};
  if (quarters == 2) return {{-1, 0, width - 1, 0, -1, height - 1, 0, 0, 1}};
  return {{0, 1, 0, -1, 0, height - 1, 0, 0, 1}};
}

// Pixel i of a scaled image is at (i + 0.5) * scale - 0.5.
ONEPASS_HD PlaneMap scaling_map(double x, double y) {
  return {{x, 0, 0.5 * x - 0.5, 0, y, 0.5 * y - 0.5, 0, 0, 1}};
}

// The same for pixels that are found by rounding down: (i + shift) * scale.
ONEPASS_HD PlaneMap scaling_down_map(double x, double y, double shift) {
  return {{x, 0, shift * x, 0, y, shift * y, 0, 0, 1}};
}

ONEPASS_HD bool is_whole(double value) { return nearest_integer(value) == value; }

// Whether one of the two is 1 or -1 and the other 0.
ONEPASS_HD bool is_one_of(double a, double b) { return fabs(a) + fabs(b) == 1; }

// Whether a map moves pixels to pixels: turns by 90 degrees, flips, whole translations.
ONEPASS_HD bool is_permutation(const PlaneMap& map) {
  const double (&m)[9] = map.m;
  return is_affine(map) && is_whole(m[0]) && is_whole(m[1]) && is_whole(m[2]) && is_whole(m[3]) &&
         is_whole(m[4]) && is_whole(m[5]) && is_one_of(m[0], m[1]) && is_one_of(m[3], m[4]) &&
         is_one_of(m[0], m[3]) && is_one_of(m[1], m[4]);
}

struct Range {
  double low, high;
};

ONEPASS_HD double lesser(double a, double b) { return b < a ? b : a; }
ONEPASS_HD double greater(double a, double b) { return b > a ? b : a; }

// The box of the pixels that an upright map reaches from 0 to last along one axis of its input: `first` is
// the place of pixel (0, 0), `way` that from there to the last pixel. Kept within `box`.
ONEPASS_HD Range reached(double first, double way, Range box) {
  const double other = first + way;
  const double low = lesser(greater(lesser(first, other), box.low), box.high - 1);
  const double high = greater(first, other) + 1;
  return {low, greater(lesser(high, box.high), low + 1)};
}

// How far an upright map goes from the first pixel to the last one along one axis of its input.
ONEPASS_HD double way(double x, double last_x, double y, double last_y) { return x * last_x + y * last_y; }

// A canvas along one axis: its size, and where pixel (0, 0) of an upright map is on it.
struct Opened {
  double first, size;
};

// The canvas with one pixel more on each side beyond which the map does not reach.
ONEPASS_HD Opened opened(double first, double x, double y, double height, double width, double size) {
  const double other = first + x * (width - 1) + y * (height - 1);
  const double before = lesser(first, other) >= 0 ? 1 : 0, after = greater(first, other) <= size - 1 ? 1 : 0;
  return {first + before, size + before + after};
}

// Half a pixel more counts where the nearest pixel is taken; what lies on that line is left to the core.
constexpr double kHardEdge = 0.5 - 1e-9;

ONEPASS_HD bool is_within(double x, double y, double weight, double across, double down, double edge) {
  return weight > 0 && x >= -edge * weight && y >= -edge * weight && x <= (across - 1 + edge) * weight &&
         y <= (down - 1 + edge) * weight;
}

// Whether all pixels of an image of height x width lie on a canvas of down x across: it is convex, so that
// the corners decide.
ONEPASS_HD bool is_covered(const PlaneMap& map, double height, double width, double down, double across,
                           bool soft) {
  const double (&m)[9] = map.m;
  const double edge = soft ? 0.0 : kHardEdge, last_x = width - 1, last_y = height - 1;
  const double xx = m[0] * last_x, yx = m[3] * last_x, wx = m[6] * last_x;
  const double xy = m[1] * last_y, yy = m[4] * last_y, wy = m[7] * last_y;
  return is_within(m[2], m[5], m[8], across, down, edge) &&
         is_within(m[2] + xx, m[5] + yx, m[8] + wx, across, down, edge) &&
         is_within(m[2] + xy, m[5] + yy, m[8] + wy, across, down, edge) &&
         is_within(m[2] + xx + xy, m[5] + yx + yy, m[8] + wx + wy, across, down, edge);
}

// cos and sin of an angle whose multiples of 90 degrees are exact.
struct Circle {
  double cos, sin;
};

ONEPASS_HD Circle exact_circle(double degrees, double cos, double sin) {
  const bool right = fmod(degrees, 90.0) == 0;
  return {right ? nearest_integer(cos) : cos, right ? nearest_integer(sin) : sin};
}

// The inverse of T C R(angle) S(scale) SHy SHx C^-1; angles with the clock, positions as offsets from the
// middle of the image. (x, y): the fixed point, (move_x, move_y): the translation.
struct Affine {
  Circle angle;
  double tan_x, tan_y, scale, x, y, move_x, move_y;

  ONEPASS_HD PlaneMap inverse() const {
    // cos(angle - shear_y) / cos(shear_y), and sin likewise.
    const double a = angle.cos + angle.sin * tan_y, c = angle.sin - angle.cos * tan_y;
    const double b = -(a * tan_x + angle.sin), d = angle.cos - c * tan_x;
    const double xx = d / scale, xy = -b / scale, yx = -c / scale, yy = a / scale;
    const double to_x = x + move_x, to_y = y + move_y;
    return {{xx, xy, x - xx * to_x - xy * to_y, yx, yy, y - yx * to_x - yy * to_y, 0, 0, 1}};
  }
};

// A map between pixel indices of one between offsets from the middles.
ONEPASS_HD PlaneMap from_middles(const PlaneMap& map, double height, double width, double new_height,
                                 double new_width) {
  const double x = (new_width - 1) / 2, y = (new_height - 1) / 2;
  PlaneMap moved = map;
  moved.m[2] += (width - 1) / 2 - map.m[0] * x - map.m[1] * y;
  moved.m[5] += (height - 1) / 2 - map.m[3] * x - map.m[4] * y;
  return moved;
}

}  // namespace onepass::math
