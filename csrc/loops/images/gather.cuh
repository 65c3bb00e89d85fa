// gather.cuh - the pixel of an image at a mapped position, all channels of a thread, on the GPU.
#pragma once

#include "loops/images/pixels.cuh"
#include "math/image_resize.h"

namespace onepass::gpu {

// The box that taps come from, and what stands for pixels outside it.
struct Taken {
  math::Axis x, y;
  math::Border border;
};

__device__ __forceinline__ math::Taps taps_of(double p, const math::Axis& axis, math::Border border) {
  return border == math::Border::kEdge ? math::bilinear_taps(p, axis) : math::folded_taps(p, axis, border);
}

__device__ __forceinline__ int64_t nearest_of(double p, const math::Axis& axis, math::Nearest kind,
                                              math::Border border) {
  return border == math::Border::kEdge ? math::nearest_tap(p, axis, kind)
                                       : math::folded_tap(p, axis, kind, border);
}

template <int kC>
__device__ __forceinline__ void gather_bilinear(const ImageView& image, const Taken& taken, math::Position p,
                                                const Channels<kC>& channels, float (&v)[kC]) {
  const math::Taps x = taps_of(p.x, taken.x, taken.border), y = taps_of(p.y, taken.y, taken.border);
  const int64_t upper = y.first * image.row, lower = y.second * image.row;
  const int64_t left = x.first * image.column, right = x.second * image.column;
  with_pixels(image.type, image.data, [&](const auto* data) {
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      const auto* channel = data + channels.at(c) * image.channel;
      v[c] = math::bilinear(widen(channel[upper + left]), widen(channel[upper + right]),
                            widen(channel[lower + left]), widen(channel[lower + right]), x.weight, y.weight);
    }
  });
}

template <int kC>
__device__ __forceinline__ void gather_nearest(const ImageView& image, const Taken& taken, math::Nearest kind,
                                               math::Position p, const Channels<kC>& channels,
                                               float (&v)[kC]) {
  const int64_t at = nearest_of(p.y, taken.y, kind, taken.border) * image.row +
                     nearest_of(p.x, taken.x, kind, taken.border) * image.column;
  with_pixels(image.type, image.data, [&](const auto* data) {
#pragma unroll
    for (int c = 0; c < kC; ++c) v[c] = widen(data[at + channels.at(c) * image.channel]);
  });
}

// A weighted sum of the elements at, at + stride, ..., `count` of them, in that order.
template <int kC>
__device__ __forceinline__ void weigh_taps(const ImageView& image, int64_t at, int64_t stride,
                                           const float* weight, int32_t count, const Channels<kC>& channels,
                                           float (&v)[kC]) {
  with_pixels(image.type, image.data, [&](const auto* data) {
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      v[c] = math::weighted(weight[0], widen(data[at + channels.at(c) * image.channel]));
    }
    for (int32_t k = 1; k < count; ++k) {
#pragma unroll
      for (int c = 0; c < kC; ++c) {
        v[c] += math::weighted(weight[k], widen(data[at + k * stride + channels.at(c) * image.channel]));
      }
    }
  });
}

}  // namespace onepass::gpu
