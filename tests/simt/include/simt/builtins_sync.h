// builtins_sync.h - CUDA's barriers, warp functions, fences and atomics. Add what a kernel needs.
#pragma once

#include <type_traits>

#include "simt/launch.h"

inline void __syncthreads(SIMT_HERE) { simt::sync_block(1, "__syncthreads", at); }
inline int __syncthreads_count(int predicate, SIMT_HERE) {
  return simt::sync_block(predicate, "__syncthreads_count", at).count;
}
inline int __syncthreads_and(int predicate, SIMT_HERE) {
  return simt::sync_block(predicate, "__syncthreads_and", at).all;
}
inline int __syncthreads_or(int predicate, SIMT_HERE) {
  return simt::sync_block(predicate, "__syncthreads_or", at).count > 0;
}

inline void __syncwarp(unsigned mask = simt::kFullMask, SIMT_HERE) {
  simt::vote("__syncwarp", mask, false, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::vote("__ballot_sync", mask, predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::vote("__any_sync", mask, predicate != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::vote("__all_sync", mask, predicate != 0, at) == mask;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = simt::kWarp, SIMT_HERE) {
  return simt::shuffle_lanes<simt::Shuffle::kIndex>("__shfl_sync", mask, value, source, width, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = simt::kWarp, SIMT_HERE) {
  return simt::shuffle_lanes<simt::Shuffle::kUp>("__shfl_up_sync", mask, value, int(delta), width, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = simt::kWarp, SIMT_HERE) {
  return simt::shuffle_lanes<simt::Shuffle::kDown>("__shfl_down_sync", mask, value, int(delta), width, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = simt::kWarp, SIMT_HERE) {
  return simt::shuffle_lanes<simt::Shuffle::kXor>("__shfl_xor_sync", mask, value, lane_mask, width, at);
}

inline void __threadfence_block() { simt::race::fence(); }
inline void __threadfence() {
  simt::race::fence();
  simt::maybe_yield();
}
inline void __threadfence_system() { __threadfence(); }
inline void __nanosleep(unsigned) {
  simt::maybe_yield();
  simt::yield();
}
inline void __trap(SIMT_HERE) {
  simt::OutsideKernel outside;
  simt::fail("__trap", at);
  simt::stop();
}

namespace simt {

// A parameter type that takes no part in deduction: CUDA's overloads, too, accept atomicAdd(&unsigned, 1).
template <class T>
struct Identity {
  using type = T;
};
template <class T>
using NotDeduced = typename Identity<T>::type;

// The memory access itself is not hidden from AddressSanitizer.
template <class T, class Change>
__attribute__((no_sanitize("thread"))) T atomic(T* address, Change change) {
  maybe_yield();
  race::atomic(address, sizeof(T));
  const T old = *address;
  *address = change(old);
  return old;
}

// Integers wrap on the device; signed overflow would be undefined here.
template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return T(Unsigned(a) + Unsigned(b));
  } else {
    return a + b;
  }
}

template <class T>
T wrapping_sub(T a, T b) {
  using Unsigned = std::make_unsigned_t<T>;
  return T(Unsigned(a) - Unsigned(b));
}

}  // namespace simt

template <class T>
T atomicAdd(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return simt::wrapping_add(old, T(value)); });
}
template <class T>
T atomicSub(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return simt::wrapping_sub(old, T(value)); });
}
template <class T>
T atomicMax(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
T atomicMin(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
T atomicExch(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, simt::NotDeduced<T> expected, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return old == expected ? value : old; });
}
template <class T>
T atomicOr(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return T(old | value); });
}
template <class T>
T atomicAnd(T* address, simt::NotDeduced<T> value) {
  return simt::atomic(address, [=](T old) { return T(old & value); });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return simt::atomic(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
