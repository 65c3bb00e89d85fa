// color.h - operations on the values of one pixel: torchvision's, in the order of its float operations.
//
// Values are 0 to 1, as a uint8 divided by 255; what is outside stays as it is where torchvision does not
// clamp. One functor a kind: of one value, or of three.
//
// Source: torchvision.transforms.v2.functional (_color.py).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bits.h"
#include "core/fused.h"

namespace onepass::math {

struct Rgb {
  float r, g, b;
};

ONEPASS_HD float smaller(float a, float b) { return a < b ? a : b; }
ONEPASS_HD float larger(float a, float b) { return a > b ? a : b; }
// A nan stays a nan.
ONEPASS_HD float between_bounds(float v, float least, float most) {
  v = v < least ? least : v;
  return v > most ? most : v;
}
ONEPASS_HD float unit_range(float v) { return between_bounds(v, 0, 1); }

// a or b, both of which are computed: compilers make branches of nested choices, and a loop with branches is
// no vector loop.
ONEPASS_HD float chosen(bool first, float a, float b) {
  const uint32_t mask = 0u - uint32_t(first);
  return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask));
}

// floorf(v), as wide code also where the instruction set has no such instruction.
ONEPASS_HD float floored(float v) {
#if defined(__SSE2__) && !defined(__SSE4_1__) && !defined(__CUDACC__)
  // Floats from 2^23 on are whole.
  const uint32_t sign = bits_of(v) & 0x80000000u;
  const float size = float_of(bits_of(v) & 0x7fffffffu);
  const float nearest = float_of(bits_of((size + 0x1p23f) - 0x1p23f) | sign);
  return chosen(size < 0x1p23f, chosen(nearest > v, nearest - 1, nearest), v);
#else
  return floorf(v);
#endif
}

ONEPASS_HD float grey_of(Rgb v) { return 0.2989f * v.r + 0.587f * v.g + 0.114f * v.b; }

// A uint8 as a value, and back: half to even, a nan becomes 0.
//
// raw / 255 as a product with 1 / 255 in two parts is the quotient's rounding for every float whose low part
// is not subnormal: shown for all floats of one binade, and powers of two change nothing. It takes a fifth of
// the time of a division.
template <class T>
ONEPASS_HD T of_byte(T raw) {
  constexpr float kHigh = 0x1.010102p-8f, kLow = -0x1.fdfdfep-33f;
  return ONEPASS_FUSES ? fused(raw, T(kHigh), raw * T(kLow)) : raw / T(255.0f);
}
// Floats that are not negative are in the order of their bits, and those below 0 have negative ones: what is
// clamped as integers stays a vector loop. The sum with kShift has the integer in its last bits.
ONEPASS_HD uint8_t to_byte(float v) {
  constexpr float kShift = 0x1.8p23f;
  constexpr int32_t kMost = 0x437f0000;  // 255
  const float scaled = v * 255.0f;
  int32_t bits = int32_t(bits_of(scaled) & (0u - uint32_t(scaled == scaled)));
  bits = bits > 0 ? bits : 0;
  bits = bits < kMost ? bits : kMost;
  return uint8_t(bits_of(float_of(uint32_t(bits)) + kShift));
}

struct OfByte {
  ONEPASS_HD float operator()(float raw) const { return of_byte(raw); }
};

struct Brightness {
  float factor;
  ONEPASS_HD float operator()(float v) const { return unit_range(factor * v); }
};

// factor v + (1 - factor) other.
struct Contrast {
  float factor, rest, mean;
  ONEPASS_HD static Contrast make(double factor, double mean) {
    return {float(factor), float(1 - factor), float(mean)};
  }
  ONEPASS_HD float operator()(float v) const { return unit_range(factor * v + rest * mean); }
};

struct Saturation {
  float factor, rest;
  ONEPASS_HD static Saturation make(double factor) { return {float(factor), float(1 - factor)}; }
  ONEPASS_HD Rgb operator()(Rgb v) const {
    const float grey = rest * grey_of(v);
    return {unit_range(factor * v.r + grey), unit_range(factor * v.g + grey),
            unit_range(factor * v.b + grey)};
  }
};

struct Grayscale {
  ONEPASS_HD Rgb operator()(Rgb v) const {
    const float grey = grey_of(v);
    return {grey, grey, grey};
  }
};

struct Hue {
  float shift;

  ONEPASS_HD static float fraction(float h) { return h - floored(h); }
  ONEPASS_HD Rgb operator()(Rgb v) const {
    const float most = larger(larger(v.r, v.g), v.b), least = smaller(smaller(v.r, v.g), v.b);
    const bool equal = most == least;
    const float range = most - least, saturation = range / (equal ? 1.0f : most);
    const float divisor = equal ? 1.0f : range;
    // Two of the three distances from the largest, in units of the range.
    const bool is_r = most == v.r, is_g = most == v.g;
    const float ahead = chosen(is_r, v.b, chosen(is_g, v.r, v.g));
    const float behind = chosen(is_r, v.g, chosen(is_g, v.b, v.r));
    const float turn = chosen(is_r, 0, chosen(is_g, 2, 4));
    const float sixths = (most - ahead) / divisor + turn - (most - behind) / divisor;
    return with_hue(fraction(fraction(sixths * float(1 / 6.) + 1) + shift), saturation, most);
  }
  ONEPASS_HD static Rgb with_hue(float hue, float saturation, float value) {
    const float six = hue * 6, sector = floored(six), f = six - sector;
    const float product = saturation * f, one_less = 1 - saturation;
    const float q = unit_range((1 - product) * value), t = unit_range((product + one_less) * value);
    const float p = unit_range(one_less * value);
    // Sectors 0 and 6 are what none of these is: a fraction rounded up to 1 has sector 6.
    const bool second = sector == 1, third = sector == 2, fourth = sector == 3, fifth = sector == 4,
               sixth = sector == 5;
    return {chosen(second, q, chosen(third | fourth, p, chosen(fifth, t, value))),
            chosen(second | third, value, chosen(fourth, q, chosen(fifth | sixth, p, t))),
            chosen(third, t, chosen(fourth | fifth, value, chosen(sixth, q, p)))};
  }
};

struct Invert {
  ONEPASS_HD float operator()(float v) const { return 1 - v; }
};

struct Solarize {
  float threshold;
  ONEPASS_HD float operator()(float v) const { return v >= threshold ? 1 - v : v; }
};

struct Posterize {
  float levels, last, step;
  ONEPASS_HD static Posterize make(double levels) {
    return {float(levels), float(levels - 1), float(1 / levels)};
  }
  ONEPASS_HD float operator()(float v) const { return between_bounds(floored(v * levels), 0, last) * step; }
};

// From the smallest and the largest value of a channel.
struct Autocontrast {
  float least, range;
  ONEPASS_HD static Autocontrast make(float least, float most) {
    if (most == least) return {0, 1};
    // Whether a zero that is found first has a sign depends on the order.
    return {least + 0.0f, most - least};
  }
  ONEPASS_HD float operator()(float v) const { return unit_range((v - least) / range); }
};

// The bin of a value in a histogram of 256.
ONEPASS_HD int32_t equalize_bin(float v) {
  const float bin = v * float(256 - 1e-3);
  return int32_t(between_bounds(bin > 0 ? bin : 0, 0, 255));
}

// A 255th of the values that are not in the last bin that has any, rounded down.
ONEPASS_HD int64_t equalize_step(int64_t values, int64_t in_last_bin) { return (values - in_last_bin) / 255; }

// The value that a bin gets, from the number of values in the bins before it. Where too few values differ
// from the last bin's, each stays in its own.
ONEPASS_HD float equalized(int32_t bin, int64_t before, int64_t step) {
  if (step == 0) return of_byte(float(bin));
  const int64_t level = (before + step / 2) / step;
  return of_byte(float(level < 255 ? level : 255));
}

// The sum of a pixel and its neighbours, all by 1 but the pixel itself by 5, and what becomes of the pixel.
struct Sharpness {
  float rest;
  ONEPASS_HD static Sharpness make(double factor) { return {float(1 - factor)}; }
  ONEPASS_HD float operator()(float v, float above, float side, float below) const {
    const float blurred = (above + side + below) * float(1 / 13.) + v * float(5 / 13.);
    return unit_range(v + rest * (blurred - v));
  }
  ONEPASS_HD static float at_edge(float v) { return unit_range(v); }
};

struct Normalize {
  float mean, std;
  ONEPASS_HD float operator()(float v) const { return (v - mean) / std; }
};

// The same without a division: near is at most an ulp from the quotient, what it lacks is exact, and
// Markstein 1990, "Computation of elementary functions on the IBM RISC System/6000 processor", shows that
// adding it rounds as the division does, for an std whose bits are not all ones. high + low: 1 / std, high as
// a float.
//
// No intermediate result may be subnormal: is_safe() bounds the terms for values of at most kMost.
struct NormalizeTerms {
  float mean, minus_std, high, low;
  static constexpr float kLeast = 0x1p-20f, kMost = 0x1p20f;

  ONEPASS_HD static NormalizeTerms make(float mean, float std) {
    const double each = 1 / double(std);
    return {mean, -std, float(each), float(each - double(float(each)))};
  }
  ONEPASS_HD static bool is_safe(float mean, float std) {
    const float size = mean < 0 ? -mean : mean;
    const bool is_scale = std >= kLeast && std <= kMost && (~bits_of(std) & 0x7fffffu) != 0;
    return (size >= kLeast && size <= kMost && is_scale) || (mean == 0 && std == 1);
  }
};
template <class T>
ONEPASS_HD T normalized(T v, T mean, T minus_std, T high, T low) {
  const T from_mean = v - mean, near = fused(from_mean, high, from_mean * low);
  return fused(fused(near, minus_std, from_mean), high, near);
}

struct ClampValue {
  float least, most;
  ONEPASS_HD float operator()(float v) const { return between_bounds(v, least, most); }
};

}  // namespace onepass::math
