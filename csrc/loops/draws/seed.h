// seed.h - the seed of a call's draws. The same on both devices.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

// What a tensor holds at the time of the draws, so that a captured graph draws again at each replay; nullptr:
// the number that came with the call.
ONEPASS_HD uint64_t seed_of(const int64_t* device_seed, uint64_t seed) {
  return device_seed ? uint64_t(*device_seed) : seed;
}

}  // namespace onepass
