// codes.h - optimizer states in 8 bits: blocks of 32 elements, a float32 scale each, codes by arithmetic.
//
//   scale = max |x| of the block
//   u     = floor(levels y + d),   y = 2^-(D / p),   D = log2(scale) - log2|x|,   0 <= d < 1 (dither)
//   code  = u - 1
//   |x|   = scale ((code + 1) / levels)^p
//
// log2 is piecewise linear: it reads a float's bits as an integer, so that the same instructions serve both
// ways, without a table and without a root. The largest element of a block is exact.
//
//               code                              levels  p     code 0
//   signed      bit 7: sign; bits 0..6: u - 1     128     4     zero, or less than 2^-24 of the scale
//   unsigned    u - 1                             256     11/2  exactly zero: other numbers have at least 1
//
// A power of 11/2 covers 2^38 with spacings of 2 % next to the scale. A second moment changes by a thousandth
// a step, which rounding to nearest would lose: such states never decay in it. The dither rounds up as often
// as the lost part says. It is a Weyl sequence over steps and lanes, whose moves spread evenly over
// time: their noise is half that of independent draws. The study: benchmarks/state_formats.py.
//
// A block with an element that is not finite has a scale with a negative sign, the largest finite magnitude.
// There code 255 (unsigned) is an infinity and code 0x80 (signed) a nan; no other element takes them.
//
// Source: Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", for blocks; the codes are
// onepass's own (docs/precision.md).
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/compiler.h"

namespace onepass::math {

constexpr int kCodeBlock = 32;  // elements that share a scale

constexpr int64_t code_blocks(int64_t numel) { return (numel + kCodeBlock - 1) / kCodeBlock; }

constexpr uint32_t kOneBits = 0x3f800000u;
constexpr uint32_t kSignBit = 0x80000000u;
constexpr uint32_t kInfinityBits = 0x7f800000u;

// kSigned: a moment of the gradient; else one of its square, which is never negative.
template <bool kSigned>
struct StateCode {
  static constexpr uint32_t kLevelBits = kSigned ? 7 : 8;
  static constexpr uint32_t kTopOfLevels = kOneBits + (kLevelBits << 23);          // levels, as a float
  static constexpr uint32_t kTopOfDithers = kOneBits + ((kLevelBits + 16) << 23);  // levels 2^16
  static constexpr uint32_t kMarker = kSigned ? 0x80 : 0xff;  // an element that is not finite

  // top: the bits of the scale, which is finite, positive or 0 and at least |x|. dither: 16 random bits.
  ONEPASS_HD static uint32_t encode(float x, uint32_t top, uint32_t dither) {
    const uint32_t bits = bits_of(x), magnitude = bits & ~kSignBit;
    const int32_t below = int32_t(top - magnitude);
    const int32_t part = kSigned ? below >> 2 : int32_t(float(below) * (2.0f / 11.0f));
    const float y = float_of(kTopOfDithers - uint32_t(part));
    const int32_t u = int32_t((uint32_t(int32_t(y)) + dither) >> 16);
    if constexpr (kSigned) {
      return magnitude == 0 || u < 2 ? 0u : uint32_t(u - 1) | (bits >> 24 & 0x80u);
    } else {
      return magnitude == 0 ? 0u : uint32_t(u < 2 ? 1 : u - 1);
    }
  }

  ONEPASS_HD static float decode(uint32_t code, uint32_t top) {
    const uint32_t u = kSigned ? code & 0x7fu : code;
    const uint32_t part = kTopOfLevels - bits_of(float(int32_t(u + 1)));
    const int32_t bits = int32_t(top - (kSigned ? part << 2 : part * 11u >> 1));
    const uint32_t magnitude = u == 0 ? 0u : bits < 1 ? 1u : uint32_t(bits);
    return float_of(kSigned ? magnitude | (code & 0x80u) << 24 : magnitude);
  }

  // The same in a block with an element that is not finite; top: the bits of the largest finite magnitude.
  ONEPASS_HD static uint32_t encode_flagged(float x, uint32_t top, uint32_t dither) {
    if (!is_finite(x)) return kMarker;
    const uint32_t code = encode(x, top, dither);
    return !kSigned && code == kMarker ? kMarker - 1 : code;
  }
  ONEPASS_HD static float decode_flagged(uint32_t code, uint32_t top) {
    if (code == kMarker) return float_of(kSigned ? 0x7fc00000u : kInfinityBits);
    return decode(code, top & ~kSignBit);
  }
};

// The first state of each rule is a moment of the gradient, the others are moments of its square.
constexpr bool is_signed_state(int state) { return state == 0; }

// The dithers of a block's elements in one step: turns of a circle by three numbers no multiples of which
// come close to each other, so that over the steps of an element, and over the elements of a step, the
// dithers are spread evenly. Blocks begin at places that a hash gives them.
struct BlockDither {
  static constexpr uint32_t kLane = 0x6a09e667u;
  uint32_t begin = 0;
  ONEPASS_HD static BlockDither make(uint32_t tensor, int64_t block, uint32_t step, int state) {
    uint32_t hash =
        (uint32_t(block) * 0x9e3779b1u) ^ (tensor * 0x85ebca77u) ^ (uint32_t(state) * 0xc2b2ae3du);
    hash = (hash ^ hash >> 15) * 0x2c1b3c6du;
    hash = (hash ^ hash >> 12) * 0x297a2d39u;
    hash ^= hash >> 15;
    return {hash + step * (state == 0 ? 0xa953fd4eu : 0x9e3779b9u)};
  }
  ONEPASS_HD uint32_t of(uint32_t lane) const { return (begin + lane * kLane) >> 16; }
};

}  // namespace onepass::math
