// uniform.h - what transforms of images draw, from numbers u in [0, 1).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/compiler.h"

namespace onepass::math {

// u of a random word.
ONEPASS_HD double uniform_of(uint32_t word) { return word * 0x1p-32; }

ONEPASS_HD double uniform_between(double u, double low, double high) { return low + (high - low) * u; }

// One of the whole numbers from 0 to room.
ONEPASS_HD double uniform_place(double u, double room) { return floor(u * (room + 1)); }

// An angle in degrees within 0 .. 360, 360 itself but for rounding left out; that of -0.0 is 0.
ONEPASS_HD double wound(double degrees) {
  const double rest = fmod(degrees, 360.0);
  return rest < 0 ? rest + 360.0 : rest + 0.0;
}

// Whether a turn against the clock moves pixels to pixels: odd quarters need an image that is as high as
// wide, or a new size.
ONEPASS_HD bool is_turn(double degrees, bool square) {
  return fmod(degrees, 180.0) == 0 || (square && fmod(degrees, 90.0) == 0);
}

}  // namespace onepass::math
