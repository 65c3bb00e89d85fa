// bugs.h - small kernels with one planted bug each. bugs.cpp says which build of the simulator must notice
// it.
#pragma once

#include "core/kernel_compat.cuh"

namespace bugs {

constexpr int kThreads = 128;

enum class Bug {
  kNone,
  // block_sum
  kNoBarrierBeforePartials,
  kNoBarrierBeforeBroadcast,
  kBarrierInBranch,
  kBarrierInBothBranches,
  kReturnBeforeBarrier,
  kShuffleWidth16,
  kShuffleWidth24,
  kFullMaskInHalfWarp,
  kLaneNotInMask,
  kSharedPastEnd,
  kGlobalWritePastEnd,
  // rotate, warp_reverse
  kNoBarrierBeforeReuse,
  kNoSyncwarp,
  // last_block_sum, chain
  kNoFence,
  kCounterNotAtomic,
  kReadsOtherBlock,
  // memory
  kMisalignedVector,
  kDynamicSharedPastEnd,
  kSharedNotWritten,
  kIndexOverflow,
  kLocalPastEnd,
  kGlobalReadPastEnd,
  kNeighbourInPlace,
  kPlainAdd,
  kSpin,
};

template <Bug bug>
__device__ float warp_sum(float sum) {
  if constexpr (bug == Bug::kFullMaskInHalfWarp) {
    if (threadIdx.x % 32 >= 16) return sum;
  }
  constexpr unsigned mask = bug == Bug::kLaneNotInMask ? 0xFFFFu : ~0u;
  constexpr int width = bug == Bug::kShuffleWidth16 ? 16 : bug == Bug::kShuffleWidth24 ? 24 : 32;
  for (int distance = 16; distance; distance >>= 1) sum += __shfl_down_sync(mask, sum, distance, width);
  return sum;
}

template <Bug bug>
__device__ void barrier_before_partials() {
  if constexpr (bug == Bug::kNoBarrierBeforePartials) return;
  if constexpr (bug == Bug::kBarrierInBranch) {
    if (threadIdx.x < 64) __syncthreads();
  } else if constexpr (bug == Bug::kBarrierInBothBranches) {
    if (threadIdx.x < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else {
    __syncthreads();
  }
}

// out[every thread] = sum of x[0..n)
template <Bug bug>
__global__ void block_sum(const float* x, float* out, int n) {
  KERNEL_SMEM(float, partials, [kThreads / 32]);
  KERNEL_SMEM(float, total);
  // Always 1 with this bug; the compiler must not know, or it warns.
  const int shift = bug == Bug::kSharedPastEnd && n > 0;
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) sum += x[i];
  sum = warp_sum<bug>(sum);
  if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32 + shift] = sum;
  if (bug == Bug::kReturnBeforeBarrier && threadIdx.x >= unsigned(n)) return;
  barrier_before_partials<bug>();
  if (threadIdx.x == 0) {
    float all = 0;
    for (int i = 0; i < kThreads / 32; ++i) all += partials[i + shift];
    total = all;
  }
  if constexpr (bug != Bug::kNoBarrierBeforeBroadcast) __syncthreads();
  out[threadIdx.x + (bug == Bug::kGlobalWritePastEnd)] = total;
}

// A buffer that is used again in a loop needs two barriers.
template <Bug bug>
__global__ void rotate(float* out, int repeats) {
  KERNEL_SMEM(float, buffer, [kThreads]);
  for (int repeat = 0; repeat < repeats; ++repeat) {
    buffer[threadIdx.x] = float(threadIdx.x + repeat * 1000);
    __syncthreads();
    out[repeat * kThreads + threadIdx.x] = buffer[(threadIdx.x + 37) % kThreads];
    if constexpr (bug != Bug::kNoBarrierBeforeReuse) __syncthreads();
  }
}

// The lanes of a warp need not run in lockstep.
template <Bug bug>
__global__ void warp_reverse(float* out) {
  KERNEL_SMEM(float, buffer, [32]);
  buffer[threadIdx.x] = float(threadIdx.x);
  if constexpr (bug != Bug::kNoSyncwarp) __syncwarp();
  out[threadIdx.x] = buffer[31 - threadIdx.x];
}

// The block that finishes last adds up what all have written.
template <Bug bug>
__global__ void last_block_sum(float* partials, unsigned* count, float* out) {
  KERNEL_SMEM(bool, is_last);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = float(blockIdx.x + 1);
    if constexpr (bug != Bug::kNoFence) __threadfence();
    if constexpr (bug == Bug::kCounterNotAtomic) {
      is_last = (*count)++ == gridDim.x - 1;
    } else {
      is_last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __threadfence();
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    float sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += partials[i];
    *out = sum;
  }
}

// Kernel of kReadsOtherBlock: right only if blocks run one after the other.
inline __global__ void chain(float* x) {
  if (threadIdx.x == 0 && blockIdx.x > 0) x[blockIdx.x] = x[blockIdx.x - 1] + 1;
}

struct alignas(16) Vector {
  float values[4];
};

// p has n = kThreads elements, and so has the dynamic shared memory.
template <Bug bug>
__global__ void memory(float* p, int n) {
  KERNEL_SMEM(float, unwritten, [kThreads]);
  KERNEL_DYN_SMEM(float, dynamic);
  const int i = threadIdx.x;
  if constexpr (bug == Bug::kMisalignedVector) {
    const Vector vector = *reinterpret_cast<const Vector*>(p + 1);
    p[i] = vector.values[i & 3];
  }
  if constexpr (bug == Bug::kDynamicSharedPastEnd) dynamic[i + 1] = 1.f;
  if constexpr (bug == Bug::kSharedNotWritten) p[i] = unwritten[i];
  if constexpr (bug == Bug::kIndexOverflow) {
    const int index = (i + 1) * n * 262144;
    p[i] = float(index & 1);
  }
  if constexpr (bug == Bug::kLocalPastEnd) {
    const float local[4] = {1, 2, 3, 4};
    p[i] = local[(i & 3) + n - kThreads + 1];
  }
  if constexpr (bug == Bug::kGlobalReadPastEnd) p[i] = p[n + i];
  if constexpr (bug == Bug::kNeighbourInPlace) {
    if (i > 0) p[i] = p[i - 1] + 1;
  }
  if constexpr (bug == Bug::kPlainAdd) p[0] += 1.f;
  if constexpr (bug == Bug::kSpin) {
    while (atomicAdd(&p[0], 0.f) < 1e9f) {
    }
  }
}

}  // namespace bugs
