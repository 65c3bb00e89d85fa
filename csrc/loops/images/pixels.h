// pixels.h - stored elements of images to and from floats, and formulas over the planes of a strip, on the
// CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/convert.h"
#include "loops/images/view.h"

namespace onepass::ONEPASS_ISA {

struct Float16 {
  uint16_t bits;
};

ONEPASS_HD float widen(uint8_t x) { return float(x); }
ONEPASS_HD float widen(Float16 x) { return from_float16(x.bits); }

// body(E{}) with the element type of `type`.
template <class Body>
ONEPASS_HD void with_pixels(PixelType type, const Body& body) {
  switch (type) {
    case PixelType::kUint8:
      return body(uint8_t{});
    case PixelType::kFloat32:
      return body(float{});
    case PixelType::kFloat16:
      return body(Float16{});
    case PixelType::kBFloat16:
      return body(BFloat16{});
  }
}

// v[i] = formula(v[i]).
template <class F>
ONEPASS_WALK void map_plane(const F formula, float* v, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) v[i] = formula(v[i]);
}

// v[i] = formula(v[i], other[i]).
template <class F>
ONEPASS_WALK void map_planes(const F formula, float* v, const float* other, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) v[i] = formula(v[i], other[i]);
}

// The same for pixels of three channels: formula takes and gives a Pixel.
template <class Pixel, class F>
ONEPASS_WALK void map_pixels(const F formula, float* first, float* second, float* third, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const Pixel v = formula(Pixel{first[i], second[i], third[i]});
    first[i] = v.r;
    second[i] = v.g;
    third[i] = v.b;
  }
}

// to[i] = formula of the pixel.
template <class Pixel, class F>
ONEPASS_WALK void reduce_pixels(const F formula, const float* first, const float* second, const float* third,
                                float* to, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) to[i] = formula(Pixel{first[i], second[i], third[i]});
}

ONEPASS_HD void fill_plane(float* v, float value, int64_t n) {
  for (int64_t i = 0; i < n; ++i) v[i] = value;
}

// to[i] = formula(bytes[i]).
template <class F>
ONEPASS_WALK void widen_bytes(const F formula, const uint8_t* __restrict bytes, float* __restrict to,
                              int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = formula(float(int32_t(bytes[i])));
}

// Planes to pixels with their channels one after the other.
template <int kChannels>
ONEPASS_WALK void interleave_known(const Planes planes, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int c = 0; c < kChannels; ++c) to[i * kChannels + c] = planes[c][i];
  }
}

inline void interleave(const Planes& planes, int64_t channels, float* to, int64_t n) {
  if (channels == 3) return interleave_known<3>(planes, to, n);
  if (channels == 4) return interleave_known<4>(planes, to, n);
  for (int64_t c = 0; c < channels; ++c) {
    const float* from = planes[c];
    for (int64_t i = 0; i < n; ++i) to[i * channels + c] = from[i];
  }
}

// Floats to stored elements that follow each other; byte: a value to a uint8.
template <class ToByte>
ONEPASS_WALK void narrow_bytes(const ToByte byte, const float* __restrict from, uint8_t* __restrict to,
                               int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = byte(from[i]);
}

ONEPASS_WALK inline void narrow_bfloat16(const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_bfloat16(from[i]);
}

ONEPASS_WALK inline void narrow_float16(const float* __restrict from, uint16_t* __restrict to, int64_t n) {
  floats_to_float16(from, to, n);
}

// As a function of its own a call of memcpy: inlined, GCC makes `rep movsq` of it, which takes ten times as
// long for a row.
ONEPASS_WALK inline void copy_floats(const float* from, float* to, int64_t n) {
  std::memcpy(to, from, size_t(n) * sizeof(float));
}

template <class ToByte>
inline void narrow_elements(PixelType type, const ToByte& byte, const float* from, void* to, int64_t n) {
  switch (type) {
    case PixelType::kUint8:
      return narrow_bytes(byte, from, static_cast<uint8_t*>(to), n);
    case PixelType::kFloat32:
      if (from != to) copy_floats(from, static_cast<float*>(to), n);
      return;
    case PixelType::kFloat16:
      return narrow_float16(from, static_cast<uint16_t*>(to), n);
    case PixelType::kBFloat16:
      return narrow_bfloat16(from, static_cast<uint16_t*>(to), n);
  }
}

}  // namespace onepass::ONEPASS_ISA
