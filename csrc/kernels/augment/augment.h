// augment.h - what a batch of images becomes: records of doubles, one a sample, a pass, an operation.
//
// A sample is made by passes. Each reads an image (the first the source, the others the result of the one
// before), makes height x width pixels of it by a gather or a resize, and takes each pixel through its list
// of operations. The last pass's pixels are mixed with those of another sample and stored. Values of a uint8
// source are divided by 255. python/onepass/augment/_records.py has the same structs.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "loops/images/view.h"
#include "math/image_resize.h"

namespace onepass {

enum class Mixing { kNone, kMixup, kCutmix };
enum class PassKind { kSkip, kGather, kResize };
enum class Interpolation { kNearest, kBilinear, kFloor, kBicubic };
enum class OpKind {
  kEnd,
  kBlend,
  kBrightness,
  kContrast,
  kSaturation,
  kHue,
  kGrayscale,
  kInvert,
  kSolarize,
  kPosterize,
  kAutocontrast,
  kEqualize,
  kSharpness,
  kNormalize,
  kErase,
  kClamp
};

struct ImageSample {
  double mixing, partner, lam;
  double left, top, right, bottom;  // cutmix: the box of the partner's pixels
};

struct ImagePass {
  double kind, height, width;
  double map[9];  // math/image_map.h; of a resize diagonal, with offsets
  double interpolation, antialias;
  double left, top, right, bottom;  // the box of the input that taps come from
  double border;
};

struct ImageOp {
  double kind, first;  // first: place in the list of values
  double a[14];
};

// Where the parameters of some operations stand in `a`.
constexpr int kBlendWidth = 9, kBlendHeight = 10, kBlendPower = 11, kBlendSoft = 12;
constexpr int kEraseMode = 4, kEraseKey = 5, kEraseCounter = 7;

// Operations that need all pixels of the image, or neighbours.
ONEPASS_HD bool is_statistic(OpKind kind) {
  return kind == OpKind::kContrast || kind == OpKind::kAutocontrast || kind == OpKind::kEqualize ||
         kind == OpKind::kSharpness;
}

// Whether a pass is made in two directions, one after the other.
ONEPASS_HD bool is_separable(const ImagePass& pass) {
  const auto kind = Interpolation(int(pass.interpolation));
  return PassKind(int(pass.kind)) == PassKind::kResize &&
         (kind == Interpolation::kBilinear || kind == Interpolation::kBicubic);
}

ONEPASS_HD math::ResizeAxis resize_axis(const ImagePass& pass, bool along_x) {
  const bool cubic = Interpolation(int(pass.interpolation)) == Interpolation::kBicubic;
  if (along_x) return {pass.map[0], pass.map[2], {pass.left, pass.right - 1}, cubic, pass.antialias != 0};
  return {pass.map[4], pass.map[5], {pass.top, pass.bottom - 1}, cubic, pass.antialias != 0};
}

// The words that elements 4 block .. 4 block + 3 of an operation's noise are made of.
ONEPASS_HD PhiloxWords noise_words(const ImageOp& op, int64_t block) {
  const double* a = op.a;
  const uint64_t low = uint32_t(int64_t(a[kEraseKey])), high = uint32_t(int64_t(a[kEraseKey + 1]));
  return philox(
      {{uint32_t(int64_t(a[kEraseCounter])), uint32_t(int64_t(a[kEraseCounter + 1])),
        uint32_t(int64_t(a[kEraseCounter + 2])), uint32_t(int64_t(a[kEraseCounter + 3])) + uint32_t(block)}},
      low | high << 32);
}

struct StagePlan;  // stages.h

// What a GPU needs besides: the plan's tables on the device, and memory for images that are not finished.
struct DeviceMemory {
  const StagePlan* plan = nullptr;
  const char* table = nullptr;
  char* workspace = nullptr;
};

struct Augment {
  const ImageView* images;  // one a sample
  int64_t count, channels;
  void* output;  // (count, channels, height, width)
  int64_t height, width;
  PixelType stored;
  bool channels_last;
  const ImageSample* samples;
  const ImagePass* passes;  // pass_count each sample
  int64_t pass_count;
  const ImageOp* ops;  // op_count each pass
  int64_t op_count;
  const double* values;
  int64_t value_count;
  DeviceMemory device;
};

// Elements that are moved as they are: one gather of the nearest element, blends with whole coverage, fills
// as integers.
struct AugmentMasks {
  const ImageView* masks;  // type is not read
  int64_t count, bytes;    // of an element: 1, 2, 4 or 8
  void* output;            // (count, height, width)
  int64_t height, width;
  const ImagePass* passes;  // one each sample
  const ImageOp* ops;       // op_count each
  int64_t op_count;
  const double* values;
  int64_t value_count;
  DeviceMemory device;
};

}  // namespace onepass
