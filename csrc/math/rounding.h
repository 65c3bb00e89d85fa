// rounding.h - how a float32 result is kept in 16 bits without losing what is smaller than their spacing.
//
//   stochastic    up with probability (value - below) / spacing: right on average
//   split, join   value = stored + remainder: bfloat16 and the 16 bits that it lacks, exactly
//   master        a float32 of its own next to the parameter, its rounded copy
//   residue       value - stored, to be kept in 16 bits of its own and added at the next step (Kahan)
//
// Rounding to nearest is core/convert.h's and core/packs.cuh's. Source: Gupta et al. 2015, "Deep learning
// with limited numerical precision", section 3.1 (stochastic); Kahan 1965; Zamirai et al. 2020, "Revisiting
// bfloat16 training" (Kahan for weights).
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace onepass::math {

// draw: 16 random bits, in the low half. The carry of draw + the 16 dropped bits rounds up just as often as
// those say.
ONEPASS_HD uint16_t stochastic_bfloat16(float value, uint32_t draw) {
  // A nan could be carried to something else; an infinity cannot.
  return uint16_t(value != value ? 0x7fc0u : (bits_of(value) + (draw & 0xffffu)) >> 16);
}

// Two neighbours in one word, the earlier one in its low half, by the draws in the halves of another: the
// same without the question for a nan. So only for values that core/convert.h's round_to_high_half takes.
ONEPASS_HD uint32_t stochastic_bfloat16_pair(float first, float second, uint32_t draws) {
  return (bits_of(first) + (draws & 0xffffu)) >> 16 | ((bits_of(second) + (draws >> 16)) & 0xffff0000u);
}

// Below 2^-14 the probability is a multiple of 2^-16, the next below; beyond the largest finite number
// rounding is to nearest, as there is nothing above to round to but infinity.
ONEPASS_HD uint16_t stochastic_float16(float value, uint32_t draw) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  draw &= 0xffffu;
  const uint32_t normal = (magnitude - 0x38000000u + (draw >> 3)) >> 13;
  // In steps of the subnormal grid, 2^-24.
  const float steps = float_of(magnitude < 0x38800000u ? magnitude : 0) * 0x1p24f;
  const uint32_t whole = uint32_t(int32_t(steps));
  const float part = (steps - float(int32_t(whole))) * 0x1p16f;
  const uint32_t subnormal = whole + (part >= float(int32_t(0x10000u - draw)));
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t top = magnitude > 0x7f800000u ? 0x7e00u : magnitude >= 0x477ff000u ? 0x7c00u : 0x7bffu;
  return uint16_t(sign | (magnitude >= 0x477fe000u ? top : finite));
}

struct Split {
  uint16_t stored;     // bfloat16: nearest to the value, away from zero where two are
  uint16_t remainder;  // a signed number, in units of the value's last place
};

ONEPASS_HD Split split(float value) {
  const uint32_t bits = value != value ? 0x7fc00000u : bits_of(value);
  return {uint16_t((bits + 0x8000u) >> 16), uint16_t(bits)};
}

// A remainder that cannot be its own (the parameter was overwritten by a zero or an infinity) is none: the
// sum would be a nan.
ONEPASS_HD float join(uint16_t stored, uint16_t remainder) {
  const int32_t rest = int16_t(remainder), magnitude = stored & 0x7fff;
  const bool foreign = (magnitude == 0 && rest < 0) || (magnitude == 0x7f80 && rest > 0);
  return float_of((uint32_t(stored) << 16) + uint32_t(foreign ? 0 : rest));
}

// A float32 and its rounded copy, which is what the user holds: if that was written by someone else (weights
// that were loaded), it is what counts. bits: of both as they are stored.
ONEPASS_HD float master_or_stored(float master, uint16_t master_bits, float stored, uint16_t stored_bits) {
  return master_bits == stored_bits ? master : stored;
}

// Kahan: the two numbers of a value. What was kept is at most half the spacing; more than that is left from a
// parameter that was overwritten, and is none. nearly: their sum with all but the last 2^-8 of what was kept,
// as the parameter would store it: its rounding may have made it half the spacing exactly.
ONEPASS_HD float nearly_sum(float stored, float kept) { return stored + kept * (1 - 0x1p-8f); }
ONEPASS_HD float sum_or_stored(float stored, float kept, uint16_t nearly, uint16_t stored_bits) {
  return nearly == stored_bits ? stored + kept : stored;
}

// stored: the value rounded, widened again. Nothing is left of an infinity.
ONEPASS_HD float residue(float value, float stored) { return is_finite(stored) ? value - stored : 0.0f; }

}  // namespace onepass::math
