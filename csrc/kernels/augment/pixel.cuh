// pixel.cuh - one pixel of a stage on the GPU: where it comes from, and its operations. CPU: source.h,
// operations.h.
#pragma once

#include "kernels/augment/stages.h"
#include "loops/images/gather.cuh"
#include "loops/images/statistics.cuh"
#include "math/augment.h"
#include "math/color.h"
#include "math/normal.h"

namespace onepass::gpu {

// A call, as kernels get it: all pointers are of the device.
struct DeviceAugment {
  const ImageView* images;
  const Stage* stages;
  const ImageSample* samples;
  const ImagePass* passes;
  const ImageOp* ops;
  const double* values;
  char* workspace;
  void* output;
  int64_t count, channels, height, width;
  int64_t each, pass_count, op_count;
  PixelType stored;
  bool channels_last;

  __device__ const Stage& stage(int64_t i, int64_t s) const { return stages[i * each + s]; }
  __device__ const ImagePass& pass(int64_t i, const Stage& stage) const {
    return passes[i * pass_count + stage.pass];
  }
  __device__ const ImageOp* ops_of(int64_t i, const Stage& stage) const {
    return ops + (i * pass_count + stage.pass) * op_count;
  }
  // What the stage before has made.
  __device__ FloatImage source(const Stage& stage) const {
    return {reinterpret_cast<float*>(workspace + stage.source), stage.source_height, stage.source_width,
            channels};
  }
  __device__ FloatImage target(const Stage& stage) const {
    return {reinterpret_cast<float*>(workspace + stage.target), stage.height, stage.width, channels};
  }
};

template <int kC>
class PixelMaker {
 public:
  __device__ PixelMaker(const DeviceAugment& op, const Channels<kC>& channels, int64_t y, int64_t x)
      : op_(op), channels_(channels), y_(y), x_(x) {}

  // The pixel of sample i behind all operations of the stage.
  __device__ __forceinline__ void make(int64_t i, const Stage& stage, float (&v)[kC]) const {
    const ImageOp* ops = op_.ops_of(i, stage);
    read(i, stage, v);
    if (stage.of_bytes) map_all(math::OfByte{}, v);
    if (stage.applies >= 0) apply_statistic(ops[stage.applies], stage, v);
    for (int32_t k = stage.op_begin; k < stage.op_end; ++k) apply(ops[k], v);
  }

 private:
  __device__ __forceinline__ void read(int64_t i, const Stage& stage, float (&v)[kC]) const {
    if (stage.kind == StageKind::kKept) {
      const Planes planes = op_.source(stage).at(y_, x_);
#pragma unroll
      for (int c = 0; c < kC; ++c) v[c] = *planes[channels_.at(c)];
      return;
    }
    const ImagePass& pass = op_.pass(i, stage);
    const ImageView image = stage.source < 0 ? op_.images[i] : op_.source(stage).view();
    if (stage.kind == StageKind::kGather) return gather(image, pass, v);
    const bool along = stage.kind == StageKind::kAlong;
    const int64_t at = along ? x_ : y_, left = int64_t(pass.left);
    const TapTable table = TapTable::at(op_.workspace + stage.taps, along ? stage.width : stage.height,
                                        resize_axis(pass, along).most_taps());
    const float* weight = table.weight + at * table.most;
    const int64_t first = along ? y_ * image.row + (table.first[at] - left) * image.column
                                : table.first[at] * image.row + (left + x_) * image.column;
    weigh_taps(image, first, along ? image.column : image.row, weight, table.count[at], channels_, v);
  }

  __device__ __forceinline__ void gather(const ImageView& image, const ImagePass& pass,
                                         float (&v)[kC]) const {
    const math::RowMap map = math::RowMap::make(pass.map, double(y_));
    const math::Position p = map.affine ? map.affine_at(double(x_)) : map.projected_at(double(x_));
    const Taken taken{
        {pass.left, pass.right - 1}, {pass.top, pass.bottom - 1}, math::Border(int(pass.border))};
    const auto kind = Interpolation(int(pass.interpolation));
    if (kind == Interpolation::kBilinear) return gather_bilinear(image, taken, p, channels_, v);
    gather_nearest(image, taken,
                   kind == Interpolation::kFloor ? math::Nearest::kFloor : math::Nearest::kRound, p,
                   channels_, v);
  }

  template <class F>
  __device__ __forceinline__ void map_all(const F& formula, float (&v)[kC]) const {
#pragma unroll
    for (int c = 0; c < kC; ++c) v[c] = formula(v[c]);
  }
  template <class F>
  __device__ __forceinline__ void map_colors(const F& formula, float (&v)[kC]) const {
    if constexpr (kC == 3) {
      const math::Rgb made = formula(math::Rgb{v[0], v[1], v[2]});
      v[0] = made.r;
      v[1] = made.g;
      v[2] = made.b;
    }
  }
  __device__ __forceinline__ const double* values(const ImageOp& op) const {
    return op_.values + int64_t(op.first);
  }

  __device__ __forceinline__ void apply(const ImageOp& op, float (&v)[kC]) const {
    switch (OpKind(int(op.kind))) {
      case OpKind::kBlend:
        return blend(op, v);
      case OpKind::kBrightness:
        return map_all(math::Brightness{float(op.a[0])}, v);
      case OpKind::kSaturation:
        return map_colors(math::Saturation::make(op.a[0]), v);
      case OpKind::kHue:
        return map_colors(math::Hue{float(op.a[0])}, v);
      case OpKind::kGrayscale:
        return map_colors(math::Grayscale{}, v);
      case OpKind::kInvert:
        return map_all(math::Invert{}, v);
      case OpKind::kSolarize:
        return map_all(math::Solarize{float(op.a[0])}, v);
      case OpKind::kPosterize:
        return map_all(math::Posterize::make(op.a[0]), v);
      case OpKind::kNormalize:
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          const double* mean = values(op) + channels_.at(c);
          v[c] = math::Normalize{float(mean[0]), float(mean[op_.channels])}(v[c]);
        }
        return;
      case OpKind::kErase:
        return erase(op, v);
      case OpKind::kClamp:
        return map_all(math::ClampValue{float(op.a[0]), float(op.a[1])}, v);
      default:  // those that need a statistic are carried out elsewhere
        return;
    }
  }

  __device__ __forceinline__ void blend(const ImageOp& op, float (&v)[kC]) const {
    const double (&matrix)[9] = reinterpret_cast<const double (&)[9]>(op.a);
    const math::RowMap map = math::RowMap::make(matrix, double(y_));
    const math::Canvas canvas{op.a[kBlendWidth], op.a[kBlendHeight], float(op.a[kBlendPower]),
                              op.a[kBlendSoft] != 0};
    const float share =
        canvas.coverage(map.affine ? map.affine_at(double(x_)) : map.projected_at(double(x_)));
    if (share == 1) return;
#pragma unroll
    for (int c = 0; c < kC; ++c) v[c] = canvas.blend(v[c], share, float(values(op)[channels_.at(c)]));
  }

  __device__ __forceinline__ void erase(const ImageOp& op, float (&v)[kC]) const {
    const math::Box box{int64_t(op.a[0]), int64_t(op.a[1]), int64_t(op.a[2]), int64_t(op.a[3])};
    if (!box.holds(x_, y_)) return;
    const int64_t height = box.bottom - box.top, width = box.right - box.left;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (op.a[kEraseMode] == 0) {
        v[c] = float(values(op)[channels_.at(c)]);
      } else {
        v[c] = noise(op, (channels_.at(c) * height + (y_ - box.top)) * width + (x_ - box.left));
      }
    }
  }
  __device__ __forceinline__ static float noise(const ImageOp& op, int64_t element) {
    const PhiloxWords words = noise_words(op, element / 4);
    const int place = int(element % 4);
    const math::NormalPair pair = place < 2 ? math::normal_pair(words.word[0], words.word[1])
                                            : math::normal_pair(words.word[2], words.word[3]);
    return place % 2 == 0 ? pair.first : pair.second;
  }

  __device__ __forceinline__ void apply_statistic(const ImageOp& op, const Stage& stage,
                                                  float (&v)[kC]) const {
    const char* result = op_.workspace + stage.applied;
    switch (OpKind(int(op.kind))) {
      case OpKind::kContrast: {
        const double sum = *reinterpret_cast<const double*>(result);
        return map_all(math::Contrast::make(op.a[0], sum / double(stage.height * stage.width)), v);
      }
      case OpKind::kAutocontrast:
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          const Extremes extremes = reinterpret_cast<const Extremes*>(result)[channels_.at(c)];
          v[c] = math::Autocontrast::make(extremes.least, extremes.most)(v[c]);
        }
        return;
      case OpKind::kEqualize:
#pragma unroll
        for (int c = 0; c < kC; ++c) {
          const float* table = reinterpret_cast<const float*>(result) + channels_.at(c) * kStatisticBins;
          v[c] = table[math::equalize_bin(v[c])];
        }
        return;
      default:
        return sharpen(op, stage, v);
    }
  }

  __device__ __forceinline__ void sharpen(const ImageOp& op, const Stage& stage, float (&v)[kC]) const {
    const int64_t height = stage.height, width = stage.width;
    if (height < 3 || width < 3) return;
    const math::Sharpness formula = math::Sharpness::make(op.a[0]);
    const bool is_edge = y_ == 0 || y_ == height - 1 || x_ == 0 || x_ == width - 1;
    const FloatImage image = op_.source(stage);
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      if (is_edge) {
        v[c] = math::Sharpness::at_edge(v[c]);
        continue;
      }
      const int64_t channel = channels_.at(c);
      const float *above = image.at(y_ - 1, x_)[channel], *own = image.at(y_, x_)[channel],
                  *below = image.at(y_ + 1, x_)[channel];
      v[c] =
          formula(own[0], above[-1] + above[0] + above[1], own[-1] + own[1], below[-1] + below[0] + below[1]);
    }
  }

  const DeviceAugment& op_;
  const Channels<kC>& channels_;
  const int64_t y_, x_;
};

}  // namespace onepass::gpu
