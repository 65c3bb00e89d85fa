// flags.cuh - which elements of a pack pass, a bit each: those that a bit mask lets through and a dropout
// keeps, on the GPU. CPU: flags.h.
#pragma once

#include "core/kernel_compat.cuh"
#include "loops/channels/shape.h"
#include "loops/draws/kept.cuh"

namespace onepass::gpu {

struct PassBits {
  ChannelShape shape;
  math::Dropout dropout;
  bool drops;
  const int64_t* device_seed;
  const uint8_t* mask;

  __host__ __device__ bool asks() const { return drops || mask; }
  __host__ __device__ double scale() const { return drops ? dropout.scale : 1; }

  ONEPASS_CALLED __device__ uint32_t kept(int64_t index, int n) const {
    const math::Dropout drawn = seeded(dropout, device_seed);
    if (shape.channels_last && shape.positions > 1) {
      uint32_t bits = 0;
      for (int v = 0; v < n; ++v) {
        const int64_t row = (index + v) / shape.channels, channel = (index + v) % shape.channels;
        bits |= uint32_t(drawn.keeps_element(uint64_t(shape.logical_index(row, channel)))) << v;
      }
      return bits;
    }
    constexpr int kEach = math::kDrawsPerBlock;
    const uint64_t block = uint64_t(index) / kEach;
    const int skip = int(index % kEach);
    uint32_t bits = kept_of_block(drawn, block) >> skip;
    if (skip + n > kEach) bits |= kept_of_block(drawn, block + 1) << (kEach - skip);
    return bits & 0xffu;
  }

  __device__ uint32_t bits(int64_t index, int n) const {
    uint32_t bits = drops ? kept(index, n) : 0xffu;
    if (!mask) return bits;
    const int skip = int(index % 8);
    uint32_t passed = uint32_t(mask[index / 8]) >> skip;
    if (skip + n > 8) passed |= uint32_t(mask[index / 8 + 1]) << (8 - skip);
    return bits & passed;
  }
};

}  // namespace onepass::gpu
