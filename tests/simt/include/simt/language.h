// language.h - CUDA's words and built-in variables for a host compiler.
//
// Types (dim3, float4, __half, __nv_bfloat16, cudaError_t) are NVIDIA's own headers in host mode, so
// conversions are bit-exact. Those headers define __global__, __device__, __host__ and __constant__ as
// nothing; the words that need another meaning are redefined here.
#pragma once

#ifdef __CUDACC__
#error "simt is the host-only implementation; include core/kernel_compat.cuh instead"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Kernels declare shared memory with KERNEL_SMEM and KERNEL_DYN_SMEM. A plain __shared__ becomes one static
// for all blocks: right only while options.resident is 1, and without bounds checks.
#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __cluster_dims__
#define __cluster_dims__(...) static_assert(false, "clusters are not simulated");
#ifndef __forceinline__
#define __forceinline__ inline
#endif

// The indices of the running thread. simt::enter() writes them at every switch; they are not const and have
// external linkage, so that compilers read them again after a switch.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#else
#define SIMT_ASAN 0
#endif

// Marks a function that runs while stacks change, where instrumented code would look at the wrong stack.
#define SIMT_RAW __attribute__((noinline, no_sanitize("address", "thread", "undefined")))

// The last parameter of each function that a kernel can wait in: the place of the call, for messages.
#define SIMT_HERE ::simt::Where at = {__builtin_FILE(), __builtin_LINE()}
