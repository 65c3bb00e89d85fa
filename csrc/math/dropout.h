// dropout.h - which elements a dropout keeps, as a function of the seed and of their place only, and what
// becomes of them.
//
// Element i draws 8 bits u: byte i % 16 of the Philox block i / 16 under the seed (words in order, low byte
// first).
//   dropped if u < t, t = floor(256 p)
//   at u == t 32 more bits, word 0 of the block i with counter word 3 = 1, decide alike with the fraction of
//   256 p, so that P(dropped) is p to 2^-40.
// One element in 256 needs the second draw, and none where 256 p is a whole number. i counts the logical
// tensor in NCHW order, whatever the memory's order.
//
// Source: Srivastava et al. 2014, "Dropout"; Klambauer et al. 2017, "Self-normalizing neural networks" (alpha
// dropout); torch.nn.functional.dropout and alpha_dropout.
#pragma once

#include <cmath>

#include "core/philox.h"

namespace onepass::math {

constexpr int kDrawsPerBlock = 16;
// Counter words 2 and 3.
constexpr uint32_t kFirstDraw[2] = {0, 0}, kSecondDraw[2] = {0, 1};

struct Dropout {
  uint64_t seed;
  uint32_t first, second;  // thresholds
  double scale;

  // 0 <= p <= 1.
  ONEPASS_HD static Dropout make(double p, uint64_t seed) {
    const double steps = p * 256;
    const uint32_t first = uint32_t(steps);
    return {seed, first, uint32_t((steps - first) * 4294967296.0), p < 1 ? 1 / (1 - p) : 0};
  }

  // The draws of elements 16 block .. 16 block + 15.
  ONEPASS_HD PhiloxWords draws(uint64_t block) const {
    return philox({{uint32_t(block), uint32_t(block >> 32), kFirstDraw[0], kFirstDraw[1]}}, seed);
  }
  // The second draw of element i.
  ONEPASS_HD uint32_t second_draw(uint64_t i) const {
    return philox({{uint32_t(i), uint32_t(i >> 32), kSecondDraw[0], kSecondDraw[1]}}, seed).word[0];
  }
  ONEPASS_HD static uint32_t lane(const PhiloxWords& draws, int k) {
    return draws.word[k / 4] >> (k % 4 * 8) & 0xffu;
  }

  ONEPASS_HD bool drops_all() const { return first > 255; }
  // False: a tie is kept, without a second draw.
  ONEPASS_HD bool has_ties() const { return second > 0; }
  // How draws decide, in any unsigned type: wide code compares bytes.
  template <class Draw>
  ONEPASS_HD static bool reaches(Draw draw, Draw threshold) {
    return draw >= threshold;
  }
  // The first threshold as a byte, for reaches(); not with drops_all().
  ONEPASS_HD uint8_t first_byte() const { return uint8_t(first); }
  ONEPASS_HD bool keeps(uint32_t draw) const { return reaches(draw, first); }
  ONEPASS_HD bool is_tie(uint32_t draw) const { return draw == first && has_ties(); }
  ONEPASS_HD bool keeps_tie(uint32_t second_draw) const { return reaches(second_draw, second); }
  // The whole rule for one element.
  ONEPASS_HD bool keeps_element(uint64_t i) const {
    const uint32_t draw = lane(draws(i / kDrawsPerBlock), int(i % kDrawsPerBlock));
    return is_tie(draw) ? keeps_tie(second_draw(i)) : keeps(draw);
  }
};

// x where it is kept, scaled; 0 elsewhere, also for an x that is not finite.
template <class T>
ONEPASS_HD T drop(T x, bool kept, T scale) {
  return kept ? x * scale : T(0);
}

enum class Scaling : uint8_t {
  kInverted,  // what is kept is divided by 1 - p
  kTestTime,  // it is left as it is; an evaluation multiplies by 1 - p
  kAlpha      // alpha dropout (Klambauer et al. 2017): mean 0 and variance 1 stay what they are
};

// What becomes of an element: scale x + shift if it is kept, else `dropped`.
struct DropoutTerms {
  double scale = 1, shift = 0, dropped = 0;

  ONEPASS_HD bool is_affine() const { return shift != 0 || dropped != 0; }
};

// lambda alpha of SELU, whose limit at minus infinity is -kSeluLimit.
constexpr double kSeluLimit = 1.7580993408473766;

// kAlpha sets what is dropped to -kSeluLimit, then restores mean and variance by a (.) + b with
// a = 1 / sqrt((1 - p) (1 + p kSeluLimit^2)), b = a p kSeluLimit.
// gradient: the terms of the derivative by x. p = 1 drops everything to 0, also with kAlpha, as in torch.
ONEPASS_HD DropoutTerms dropout_terms(double p, Scaling scaling, bool gradient) {
  if (p >= 1) return {0, 0, 0};
  if (scaling == Scaling::kTestTime) return {1, 0, 0};
  if (scaling == Scaling::kInverted) return {1 / (1 - p), 0, 0};
  const double a = 1 / sqrt((1 - p) * (1 + p * kSeluLimit * kSeluLimit)), b = a * p * kSeluLimit;
  return gradient ? DropoutTerms{a, 0, 0} : DropoutTerms{a, b, b - a * kSeluLimit};
}

// The formula for elements, in the arithmetic type. affine: terms.is_affine(); without it a -0 stays one.
template <class T>
struct DropoutFormula {
  T scale, shift, dropped;
  bool affine, has_residual;

  ONEPASS_HD static DropoutFormula make(const DropoutTerms& terms, bool has_residual) {
    return {T(terms.scale), T(terms.shift), T(terms.dropped), terms.is_affine(), has_residual};
  }
  ONEPASS_HD T operator()(T x, bool kept, T residual) const {
    const T value = affine ? (kept ? x * scale + shift : dropped) : drop(x, kept, scale);
    return has_residual ? value + residual : value;
  }
};

// The same with options that the compiler knows.
template <class T, bool kAffine, bool kResidual>
struct Dropped {
  static constexpr bool kReadsResidual = kResidual;
  T scale, shift, dropped;

  ONEPASS_HD static Dropped make(const DropoutTerms& terms) {
    return {T(terms.scale), T(terms.shift), T(terms.dropped)};
  }
  ONEPASS_HD T operator()(T x, bool kept, T residual) const {
    return DropoutFormula<T>{scale, shift, dropped, kAffine, kResidual}(x, kept, residual);
  }
};

}  // namespace onepass::math
