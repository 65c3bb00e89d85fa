// kernel_compat.cuh - the one header that kernels include for CUDA.
//
// Compiled by nvcc it is CUDA. Compiled by a host compiler it is our simulator (tests/simt), so that every
// kernel and its launcher run under sanitizers and a race detector on machines without a GPU. That needs two
// things that CUDA itself does not: shared memory is declared through KERNEL_SMEM and KERNEL_DYN_SMEM (the
// simulator makes one guarded object per block of them), and kernels are launched by gpu::launch only.
// All rules for kernels: tests/simt/README.md.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// KERNEL_SMEM(float, partials, [kThreads / 32]);   KERNEL_SMEM(bool, is_last);
#define KERNEL_SMEM(T, name, ...) __shared__ T name __VA_ARGS__

// KERNEL_DYN_SMEM(T, row);   declares T* row: the bytes asked for at launch, aligned to 16.
#define KERNEL_DYN_SMEM(T, name)                              \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  T* name = reinterpret_cast<T*>(name##_raw)

#else

#include "simt/simt.h"

#define KERNEL_SMEM(T, name, ...)           \
  typedef T name##_smem_t __VA_ARGS__;      \
  static ::simt::SmemSite name##_smem_site; \
  name##_smem_t& name = name##_smem_site.template get<name##_smem_t>()

#define KERNEL_DYN_SMEM(T, name) T* name = static_cast<T*>(::simt::dyn_smem())

#endif

namespace onepass::gpu {

// What CUDA >= 12.1 passes to a kernel by value on sm_70 and later.
constexpr size_t kMaxParameterBytes = 32764;

// Starts kernel<<<grid, block, smem, stream>>>(args...), each argument converted to the kernel's own
// parameter type. The simulator ignores the stream, returns when the kernel is done and throws simt::Error
// for a fault in it.
template <class... Parameters, class... Args>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                   Args&&... args) {
  static_assert((sizeof(Parameters) + ... + 0) <= kMaxParameterBytes, "kernel parameters are too large");
#ifdef __CUDACC__
  kernel<<<grid, block, smem, stream>>>(static_cast<Parameters>(args)...);
  return cudaGetLastError();
#else
  (void)stream;
  ::simt::launch(kernel, grid, block, smem, static_cast<Parameters>(args)...);
  return cudaSuccess;
#endif
}

}  // namespace onepass::gpu
