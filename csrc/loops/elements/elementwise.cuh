// elementwise.cuh - visits every element of a tensor in the order of memory with its flag of a dropout, on
// the GPU. CPU: elementwise.h.
//
// A warp takes 32 Philox blocks, 512 elements, at a time: each thread draws one block and hands the bits to
// the threads that have the elements, so that memory is accessed in packs of 16 bytes that follow each other.
// With the channels last each element of a pack draws from another block, so each draws by itself.
#pragma once

#include "core/packs.cuh"
#include "loops/common/block.cuh"
#include "loops/draws/kept.cuh"
#include "loops/elements/places.h"

namespace onepass::gpu {

constexpr int kElementThreads = 256;
constexpr int64_t kWarpElements = int64_t(kWarp) * math::kDrawsPerBlock;

struct Kept {
  DropoutPlaces places;
  math::Dropout dropout;
  const int64_t* device_seed;

  __device__ math::Dropout drawn() const { return seeded(dropout, device_seed); }
  // True if the draws follow each other in memory's order.
  __host__ __device__ bool draws_in_order() const {
    return !places.has_table() && !places.shape.channels_last && places.of_whole.count == 0;
  }
};

// Fills places.table: each thread draws one Philox block.
static __global__ void __launch_bounds__(kElementThreads) table_kernel(const __grid_constant__ Kept kept) {
  const int64_t block = int64_t(blockIdx.x) * kElementThreads + threadIdx.x;
  const int64_t begin = block * math::kDrawsPerBlock, draws = kept.places.draws();
  if (begin >= draws) return;
  const math::Dropout dropout = kept.drawn();
  const DrawPlaces& of_whole = kept.places.of_whole;
  const uint32_t bits = of_whole.count == 0 ? kept_of_block(dropout, uint64_t(block)) : 0;
  for (int k = 0; k < math::kDrawsPerBlock && begin + k < draws; ++k) {
    const bool keeps = of_whole.count == 0 ? (bits >> k & 1) != 0
                                           : dropout.keeps_element(uint64_t(of_whole.number(begin + k)));
    kept.places.table[begin + k] = uint8_t(keeps);
  }
}

// Op: `Kept kept`, `run(index, n, bits)` for at most V elements from memory index `index` on.
template <class Op, int V>
__global__ void __launch_bounds__(kElementThreads) elementwise_kernel(const __grid_constant__ Op op) {
  const int64_t numel = op.kept.places.shape.numel();
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t warp = (int64_t(blockIdx.x) * kElementThreads + threadIdx.x) / kWarp;
  const int64_t begin = warp * kWarpElements;
  // The same for all threads of a warp.
  if (begin >= numel) return;
  const math::Dropout dropout = op.kept.drawn();
  const DropoutPlaces& places = op.kept.places;
  const bool in_order = op.kept.draws_in_order();
  const uint32_t own = in_order ? kept_of_block(dropout, uint64_t(warp) * kWarp + uint64_t(lane)) : 0;
  // Not unrolled: the draws of single elements are long code.
#pragma unroll 1
  for (int part = 0; part < math::kDrawsPerBlock / V; ++part) {
    const int offset = (part * kWarp + lane) * V;
    const int64_t index = begin + offset;
    constexpr int kEach = math::kDrawsPerBlock;
    uint32_t bits = __shfl_sync(kAllLanes, own, offset / kEach) >> offset % kEach;
    const int n = numel - index < V ? int(numel - index) : V;
    if (!in_order) {
      bits = 0;
#pragma unroll 1
      for (int v = 0; v < n; ++v) {
        const int64_t draw = places.draw_of(index + v);
        const bool keeps = places.has_table() ? places.table[draw] != 0
                                              : dropout.keeps_element(uint64_t(places.of_whole.number(draw)));
        bits |= uint32_t(keeps) << v;
      }
    }
    if (n > 0) op.run(index, n, bits);
  }
}

}  // namespace onepass::gpu
