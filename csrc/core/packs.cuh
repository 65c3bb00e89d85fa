// packs.cuh - V elements between memory and registers on the GPU: 16-byte accesses where the address allows,
// one element at a time where it does not; stored types to and from the arithmetic type.
#pragma once

#include "core/dtype.h"
#include "core/kernel_compat.cuh"

namespace onepass::gpu {

constexpr int kPackBytes = 16;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// What elements stored as S are computed in.
template <class S>
using arithmetic = decltype(widen(S{}));

template <class S, class T>
__device__ __forceinline__ S narrow(T x) {
  if constexpr (std::is_same_v<S, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return S(x);
  }
}

// N elements of S in one access.
template <class S, int N>
struct alignas(sizeof(S) * N) Pack {
  S value[N];
};

// How many of V elements one access holds.
template <class S, int V>
constexpr int kPerAccess = V * int(sizeof(S)) <= kPackBytes ? V : kPackBytes / int(sizeof(S));

template <class S, int V>
__host__ __device__ __forceinline__ bool pack_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % (kPerAccess<S, V> * sizeof(S)) == 0;
}

// On the host GCC 12 makes one aligned access of both branches below, before it has asked for the alignment.
__device__ __forceinline__ void keep_branches_apart() {
#ifndef __CUDACC__
  asm volatile("" ::: "memory");
#endif
}

// raw[0 .. V) = from[0 .. V), as they are stored.
template <int V, class S>
__device__ __forceinline__ void load_raw(const S* from, bool aligned, S (&raw)[V]) {
  constexpr int N = kPerAccess<S, V>;
  if (aligned) {
#pragma unroll
    for (int k = 0; k < V; k += N) {
      const auto pack = *reinterpret_cast<const Pack<S, N>*>(from + k);
#pragma unroll
      for (int j = 0; j < N; ++j) raw[k + j] = pack.value[j];
    }
  } else {
    keep_branches_apart();
#pragma unroll
    for (int k = 0; k < V; ++k) raw[k] = from[k];
  }
}

// to[0 .. V) = raw[0 .. V).
template <int V, class S>
__device__ __forceinline__ void store_raw(S* to, bool aligned, const S (&raw)[V]) {
  constexpr int N = kPerAccess<S, V>;
  if (aligned) {
#pragma unroll
    for (int k = 0; k < V; k += N) {
      Pack<S, N> pack;
#pragma unroll
      for (int j = 0; j < N; ++j) pack.value[j] = raw[k + j];
      *reinterpret_cast<Pack<S, N>*>(to + k) = pack;
    }
  } else {
    keep_branches_apart();
#pragma unroll
    for (int k = 0; k < V; ++k) to[k] = raw[k];
  }
}

// registers[0 .. V) = from[0 .. V).
template <int V, class T, class S>
__device__ __forceinline__ void load_pack(const S* from, bool aligned, T (&registers)[V]) {
  S raw[V];
  load_raw<V>(from, aligned, raw);
#pragma unroll
  for (int k = 0; k < V; ++k) registers[k] = T(widen(raw[k]));
}

// to[0 .. V) = registers[0 .. V), rounded to nearest even.
template <int V, class T, class S>
__device__ __forceinline__ void store_pack(S* to, bool aligned, const T (&registers)[V]) {
  S raw[V];
#pragma unroll
  for (int k = 0; k < V; ++k) raw[k] = narrow<S>(registers[k]);
  store_raw<V>(to, aligned, raw);
}

// registers = from[0 .. n), and `missing` beyond.
template <int V, class T, class S>
__device__ __forceinline__ void load_part(const S* from, int n, T (&registers)[V], T missing = T(0)) {
  if (n == V) return load_pack<V>(from, pack_aligned<S, V>(from), registers);
#pragma unroll
  for (int v = 0; v < V; ++v) registers[v] = v < n ? T(widen(from[v])) : missing;
}

// to[0 .. n) = registers[0 .. n).
template <int V, class T, class S>
__device__ __forceinline__ void store_part(S* to, int n, const T (&registers)[V]) {
  if (n == V) return store_pack<V>(to, pack_aligned<S, V>(to), registers);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (v < n) to[v] = narrow<S>(registers[v]);
  }
}

// Calls run(a value of the stored type), on the host.
template <class Run>
void with_stored(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kFloat64:
      return run(double{});
    case DType::kBFloat16:
      return run(__nv_bfloat16{});
    case DType::kFloat16:
      break;
  }
  run(__half{});
}

// Calls visit(typed pointer) for a list whose dtype is known only at run time. The branch is the same for
// every thread of a launch.
template <class Visit>
__host__ __device__ __forceinline__ void with_typed(DType dtype, const void* data, const Visit& visit) {
  switch (dtype) {
    case DType::kFloat32:
      return visit(static_cast<const float*>(data));
    case DType::kFloat64:
      return visit(static_cast<const double*>(data));
    case DType::kBFloat16:
      return visit(static_cast<const __nv_bfloat16*>(data));
    case DType::kFloat16:
      break;
  }
  visit(static_cast<const __half*>(data));
}

}  // namespace onepass::gpu
