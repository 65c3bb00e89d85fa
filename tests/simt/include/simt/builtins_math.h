// builtins_math.h - CUDA's loads with cache hints, and arithmetic that host headers lack. Intrinsics that are
// approximate on a GPU (__expf, __logf, rsqrtf) are exact here: compare with tolerances, never bitwise.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/builtins_sync.h"

#define SIMT_LOAD(name)      \
  template <class T>         \
  T name(const T* address) { \
    return *address;         \
  }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldlu)
SIMT_LOAD(__ldcv)
#undef SIMT_LOAD

#define SIMT_STORE(name)                             \
  template <class T>                                 \
  void name(T* address, simt::NotDeduced<T> value) { \
    *address = value;                                \
  }
SIMT_STORE(__stcs)
SIMT_STORE(__stcg)
SIMT_STORE(__stwb)
SIMT_STORE(__stwt)
#undef SIMT_STORE

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
// Turns nan into 0, as the device does.
inline float __saturatef(float x) { return !(x > 0.f) ? 0.f : x > 1.f ? 1.f : x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
// Saturates, and turns nan into 0, as the device does.
inline int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.f) return INT_MAX;
  if (x < -2147483648.f) return INT_MIN;
  return int(std::nearbyint(x));
}
inline __half __hfma(__half a, __half b, __half c) {
  return __float2half_rn(std::fma(__half2float(a), __half2float(b), __half2float(c)));
}

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>((Wide(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

namespace simt {

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace simt

inline float __int_as_float(int x) { return simt::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return simt::bit_cast<float>(x); }
inline int __float_as_int(float x) { return simt::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return simt::bit_cast<unsigned>(x); }

// For a number and nan these return the number, as CUDA's do.
template <class A, class B>
constexpr auto max(A a, B b) -> std::common_type_t<A, B> {
  using Common = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<Common>) {
    return std::fmax(Common(a), Common(b));
  } else {
    return Common(a) < Common(b) ? Common(b) : Common(a);
  }
}
template <class A, class B>
constexpr auto min(A a, B b) -> std::common_type_t<A, B> {
  using Common = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<Common>) {
    return std::fmin(Common(a), Common(b));
  } else {
    return Common(b) < Common(a) ? Common(b) : Common(a);
  }
}
