// channel_flags.cuh - which elements of a pack pass, a bit each: those that a bit mask lets through and a
// dropout keeps, on the GPU. CPU: channel_flags.h.
#pragma once

#include "core/kernel_compat.cuh"
#include "loops/channel_shape.h"
#include "math/dropout.h"

namespace onepass::gpu {

struct Passing {
  ChannelShape shape;
  math::Dropout dropout;
  bool drops;
  const int64_t* device_seed;
  const uint8_t* mask;

  __host__ __device__ bool asks() const { return drops || mask; }
  __host__ __device__ double scale() const { return drops ? dropout.scale : 1; }

  // Of the elements of one block of draws.
  static __device__ uint32_t draw_block(const math::Dropout& seeded, uint64_t block) {
    const PhiloxWords draws = seeded.draws(block);
    uint32_t kept = 0;
#pragma unroll
    for (int k = 0; k < math::kDrawsPerBlock; ++k) {
      const uint32_t draw = math::Dropout::lane(draws, k);
      bool keeps = seeded.keeps(draw);
      if (seeded.is_tie(draw)) keeps = seeded.keeps_element(block * math::kDrawsPerBlock + uint64_t(k));
      kept |= uint32_t(keeps) << k;
    }
    return kept;
  }

  __device__ uint32_t kept(int64_t index, int n) const {
    math::Dropout seeded = dropout;
    if (device_seed) seeded.seed = uint64_t(*device_seed);
    if (shape.channels_last && shape.positions > 1) {
      uint32_t bits = 0;
      for (int v = 0; v < n; ++v) {
        const int64_t row = (index + v) / shape.channels, channel = (index + v) % shape.channels;
        bits |= uint32_t(seeded.keeps_element(uint64_t(shape.logical_index(row, channel)))) << v;
      }
      return bits;
    }
    const uint64_t block = uint64_t(index) / 8;
    const int skip = int(index % 8);
    uint32_t bits = draw_block(seeded, block) >> skip;
    if (skip + n > 8) bits |= draw_block(seeded, block + 1) << (8 - skip);
    return bits;
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
