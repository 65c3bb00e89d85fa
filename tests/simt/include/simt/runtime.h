// runtime.h - the CUDA runtime calls that launchers and tests make: one device, whose memory is the heap.
//
// They define what cuda_runtime_api.h declares. They are hidden, so that a real libcudart in the same process
// (loaded by torch, next to the extension module _core_simt) neither replaces them nor is replaced.
#pragma once

#include <cstdlib>
#include <cstring>

#include "simt/launch.h"

#define SIMT_API extern "C" __attribute__((weak, visibility("hidden")))

// Memory is filled with 0xFF (nan), so that reading before writing shows.
SIMT_API cudaError_t cudaMalloc(void** address, size_t size) {
  constexpr size_t kAlignment = 256;
  if (posix_memalign(address, kAlignment, size ? size : 1)) return cudaErrorMemoryAllocation;
  std::memset(*address, simt::kUnwrittenByte, size);
  simt::race::track(*address, size, false);
  return cudaSuccess;
}
SIMT_API cudaError_t cudaFree(void* address) {
  if (address) simt::race::forget(address);
  std::free(address);
  return cudaSuccess;
}

SIMT_API cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  if (size) std::memcpy(to, from, size);
  return cudaSuccess;
}
SIMT_API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                                     cudaStream_t) {
  return cudaMemcpy(to, from, size, kind);
}
SIMT_API cudaError_t cudaMemset(void* to, int value, size_t size) {
  if (size) std::memset(to, value, size);
  return cudaSuccess;
}
SIMT_API cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t) {
  return cudaMemset(to, value, size);
}

// Launches are synchronous and throw their errors.
SIMT_API cudaError_t cudaGetLastError() { return cudaSuccess; }
SIMT_API cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
SIMT_API cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
SIMT_API cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
SIMT_API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
SIMT_API const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaError (simulated)";
}
SIMT_API const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "error of the simulated CUDA runtime";
}

SIMT_API cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
SIMT_API cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
SIMT_API cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

// The attributes from which a launcher may compute its grid; few multiprocessors keep grids small.
SIMT_API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = simt::kMaxThreads;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = simt::kWarp;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = simt::kMaxSharedBytes;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}

#undef SIMT_API
