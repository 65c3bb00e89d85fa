// statistic.cuh - the statistics of images on the GPU: two launches, one of rows and one of images. CPU:
// statistic.h.
#pragma once

#include "kernels/augment/pixel.cuh"

namespace onepass::gpu {

// The statistic that stage s of sample i finds, if it needs sums over the image.
struct Finding {
  OpKind kind = OpKind::kEnd;
  FloatImage image;
  char* result = nullptr;
  char* parts = nullptr;

  __device__ static Finding of(const DeviceAugment& op, int64_t i, int64_t s) {
    const Stage& stage = op.stage(i, s);
    Finding made;
    if (stage.kind == StageKind::kNone || stage.finds < 0) return made;
    const OpKind kind = OpKind(int(op.ops_of(i, stage)[stage.finds].kind));
    if (kind == OpKind::kSharpness) return made;
    made.kind = kind;
    made.image = op.target(stage);
    made.result = op.workspace + stage.found;
    made.parts = made.result + statistic_result_bytes(op.channels);
    return made;
  }
};

constexpr int kStatisticChannels = 3;

__device__ __forceinline__ Extremes no_extremes() { return {INFINITY, -INFINITY}; }

// Rows of the image from row `begin` on, one for each kRowThreads threads; every thread of the block comes
// here.
__device__ __forceinline__ void sum_rows(const Finding& finding, int64_t begin) {
  const FloatImage& image = finding.image;
  const int64_t y = begin + int64_t(threadIdx.x) / kRowThreads;
  const bool is_row = y < image.height;
  const Planes v = image.at(is_row ? y : 0, 0);
  const double sum = sum_row(is_row ? image.width : 0, [&](int64_t x) {
    return image.channels == 3 ? math::grey_of({v[0][x], v[1][x], v[2][x]}) : v[0][x];
  });
  if (is_row && threadIdx.x % kRowThreads == 0) reinterpret_cast<double*>(finding.parts)[y] = sum;
}

__device__ __forceinline__ void find_extremes(const Finding& finding, int64_t begin) {
  const FloatImage& image = finding.image;
  const int64_t y = begin + int64_t(threadIdx.x) / kRowThreads;
  const bool is_row = y < image.height;
  const Planes v = image.at(is_row ? y : 0, 0);
  for (int64_t c = 0; c < image.channels; ++c) {
    const Extremes extremes = extremes_of_row(is_row ? image.width : 0, v[c], no_extremes());
    if (is_row && threadIdx.x % kRowThreads == 0) {
      reinterpret_cast<Extremes*>(finding.parts)[y * image.channels + c] = extremes;
    }
  }
}

__device__ __forceinline__ void count_values(const Finding& finding, int64_t begin) {
  KERNEL_SMEM(int32_t, counts, [kStatisticChannels * kStatisticBins]);
  const FloatImage& image = finding.image;
  const int bins = int(image.channels * kStatisticBins);
  __syncthreads();  // the sample before may still be read
  for (int bin = int(threadIdx.x); bin < bins; bin += kReduceThreads) counts[bin] = 0;
  __syncthreads();
  const int64_t y = begin + int64_t(threadIdx.x) / kRowThreads;
  if (y < image.height) {
    const Planes v = image.at(y, 0);
    for (int64_t c = 0; c < image.channels; ++c) {
      for (int64_t x = threadIdx.x % kRowThreads; x < image.width; x += kRowThreads) {
        atomicAdd(&counts[c * kStatisticBins + math::equalize_bin(v[c][x])], 1);
      }
    }
  }
  __syncthreads();
  for (int bin = int(threadIdx.x); bin < bins; bin += kReduceThreads) {
    if (counts[bin]) atomicAdd(reinterpret_cast<int32_t*>(finding.parts) + bin, counts[bin]);
  }
}

// Blocks: kRowsOfBlock rows each, of a sample.
__global__ void rows_kernel(const DeviceAugment op, int64_t s) {
  const int64_t begin = int64_t(blockIdx.x) * kRowsOfBlock;
  for (int64_t i = blockIdx.y; i < op.count; i += gridDim.y) {
    const Finding finding = Finding::of(op, i, s);
    if (finding.kind == OpKind::kEnd || begin >= finding.image.height) continue;
    if (finding.kind == OpKind::kContrast) sum_rows(finding, begin);
    if (finding.kind == OpKind::kAutocontrast) find_extremes(finding, begin);
    if (finding.kind == OpKind::kEqualize) count_values(finding, begin);
  }
}

__device__ __forceinline__ void make_tables(const Finding& finding) {
  KERNEL_SMEM(int32_t, counts, [kStatisticBins]);
  const int32_t bin = int32_t(threadIdx.x);
  for (int64_t c = 0; c < finding.image.channels; ++c) {
    __syncthreads();  // the channel before may still be read
    counts[bin] = reinterpret_cast<const int32_t*>(finding.parts)[c * kStatisticBins + bin];
    __syncthreads();
    int64_t before = 0, in_last = 0;
    for (int32_t other = 0; other < kStatisticBins; ++other) {
      in_last = counts[other] ? counts[other] : in_last;
      before += other < bin ? counts[other] : 0;
    }
    const int64_t step = math::equalize_step(finding.image.height * finding.image.width, in_last);
    reinterpret_cast<float*>(finding.result)[c * kStatisticBins + bin] = math::equalized(bin, before, step);
  }
}

// Blocks: a sample each.
__global__ void conclude_kernel(const DeviceAugment op, int64_t s) {
  static_assert(kReduceThreads == kStatisticBins && kReduceThreads / kWarp >= kStatisticChannels);
  const Finding finding = Finding::of(op, blockIdx.x, s);
  const int64_t height = finding.image.height, channels = finding.image.channels;
  if (finding.kind == OpKind::kContrast && threadIdx.x == 0) {
    double total = 0;
    for (int64_t y = 0; y < height; ++y) total += reinterpret_cast<const double*>(finding.parts)[y];
    *reinterpret_cast<double*>(finding.result) = total;
  }
  const int64_t c = threadIdx.x / kWarp;
  if (finding.kind == OpKind::kAutocontrast && c < channels) {
    const Extremes* rows = reinterpret_cast<const Extremes*>(finding.parts) + c;
    const Extremes extremes = merge_rows(rows, height, channels, no_extremes());
    if (threadIdx.x % kWarp == 0) reinterpret_cast<Extremes*>(finding.result)[c] = extremes;
  }
  if (finding.kind == OpKind::kEqualize) make_tables(finding);
}

}  // namespace onepass::gpu
