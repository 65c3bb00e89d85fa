// kept.cuh - which elements of a Philox block a dropout keeps, a bit each, on the GPU. CPU: kept.h.
#pragma once

#include "core/kernel_compat.cuh"
#include "loops/draws/seed.h"
#include "math/dropout.h"

namespace onepass::gpu {

// The dropout with the seed that the kernel reads.
__device__ __forceinline__ math::Dropout seeded(math::Dropout dropout, const int64_t* device_seed) {
  dropout.seed = seed_of(device_seed, dropout.seed);
  return dropout;
}

// Bit k: element 16 block + k.
__device__ __forceinline__ uint32_t kept_of_block(const math::Dropout& dropout, uint64_t block) {
  const PhiloxWords draws = dropout.draws(block);
  uint32_t kept = 0, ties = 0;
#pragma unroll
  for (int k = 0; k < math::kDrawsPerBlock; ++k) {
    const uint32_t draw = math::Dropout::lane(draws, k);
    kept |= uint32_t(dropout.keeps(draw)) << k;
    ties |= uint32_t(dropout.is_tie(draw)) << k;
  }
  // In a loop, so that the threads of a warp that have one decide together.
  for (int k = 0; ties; ++k, ties >>= 1) {
    if ((ties & 1) == 0) continue;
    const uint64_t element = block * math::kDrawsPerBlock + uint64_t(k);
    if (!dropout.keeps_tie(dropout.second_draw(element))) kept &= ~(1u << k);
  }
  return kept;
}

}  // namespace onepass::gpu
