// pixels.cuh - stored elements of images to and from floats, on the GPU, and which channels a thread has.
#pragma once

#include "core/packs.cuh"
#include "loops/images/view.h"

namespace onepass::gpu {

__device__ __forceinline__ float widen(uint8_t x) { return float(x); }

// body(typed pointer). The branch is the same for every thread of a warp.
template <class Body>
__device__ __forceinline__ void with_pixels(PixelType type, const void* data, const Body& body) {
  switch (type) {
    case PixelType::kUint8:
      return body(static_cast<const uint8_t*>(data));
    case PixelType::kFloat32:
      return body(static_cast<const float*>(data));
    case PixelType::kFloat16:
      return body(static_cast<const __half*>(data));
    case PixelType::kBFloat16:
      break;
  }
  body(static_cast<const __nv_bfloat16*>(data));
}

// to[index] = v, rounded; byte: a value to a uint8.
template <class ToByte>
__device__ __forceinline__ void store_element(PixelType type, const ToByte& byte, void* to, int64_t index,
                                              float v) {
  switch (type) {
    case PixelType::kUint8:
      static_cast<uint8_t*>(to)[index] = byte(v);
      return;
    case PixelType::kFloat32:
      static_cast<float*>(to)[index] = v;
      return;
    case PixelType::kFloat16:
      static_cast<__half*>(to)[index] = narrow<__half>(v);
      return;
    case PixelType::kBFloat16:
      static_cast<__nv_bfloat16*>(to)[index] = narrow<__nv_bfloat16>(v);
      return;
  }
}

// Channels that a thread has of a pixel: all of them, one or three, or up to four. Those beyond the last are
// the last once more, so that no thread branches; they are not stored.
template <int kC>
struct Channels {
  int64_t first, count;

  __device__ __forceinline__ int64_t at(int c) const {
    if constexpr (kC < 4) return c;
    return first + c < count ? first + c : count - 1;
  }
  __device__ __forceinline__ bool has(int c) const { return kC < 4 || first + c < count; }
};

// body(std::integral_constant<int, kC>{}), on the host.
template <class Body>
void with_channels(int64_t channels, const Body& body) {
  if (channels == 1) return body(std::integral_constant<int, 1>{});
  if (channels == 3) return body(std::integral_constant<int, 3>{});
  body(std::integral_constant<int, 4>{});
}

}  // namespace onepass::gpu
