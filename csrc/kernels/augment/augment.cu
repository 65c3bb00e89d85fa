// augment.cu - augmentation of a batch of images on the GPU: a launch for each stage (stages.h), a thread an
// output pixel. CPU: augment.cpp.
//
// Without a statistic, a resize or several passes that is one launch, which reads the taps and writes the
// output. A statistic adds three (rows, image, what follows) and an image of floats that is written and read
// again, a resize one for its tables and one for its other direction. A sample that is mixed has its
// partner's pixels made again, from what the partner's last stage reads.

#include "core/cuda_device.cuh"
#include "kernels/augment/masks.cuh"
#include "kernels/augment/statistic.cuh"
#include "kernels/kernels.h"

namespace onepass {
namespace {

struct ToByte {
  __device__ __forceinline__ uint8_t operator()(float v) const { return math::to_byte(v); }
};

// Fills the tables of taps, and sets counts to 0. Blocks: a stage of a sample each.
__global__ void prepare_kernel(const gpu::DeviceAugment op) {
  const int64_t i = blockIdx.x / op.each;
  const Stage& stage = op.stage(i, blockIdx.x % op.each);
  if (stage.kind == StageKind::kNone) return;
  if (stage.taps >= 0) {
    const bool along = stage.kind == StageKind::kAlong;
    const int64_t n = along ? stage.width : stage.height;
    const math::ResizeAxis axis = resize_axis(op.pass(i, stage), along);
    const TapTable table = TapTable::at(op.workspace + stage.taps, n, axis.most_taps());
    for (int64_t k = threadIdx.x; k < n; k += blockDim.x) fill_taps(axis, k, table);
  }
  if (stage.finds < 0 || OpKind(int(op.ops_of(i, stage)[stage.finds].kind)) != OpKind::kEqualize) return;
  const int64_t result = statistic_result_bytes(op.channels);
  int32_t* counts = reinterpret_cast<int32_t*>(op.workspace + stage.found + result);
  for (int64_t bin = threadIdx.x; bin < op.channels * kStatisticBins; bin += blockDim.x) counts[bin] = 0;
}

// The pixel of sample i as it is stored, mixed with its partner's.
template <int kC>
__device__ __forceinline__ void make_mixed(const gpu::DeviceAugment& op, int64_t i, int64_t y, int64_t x,
                                           const gpu::Channels<kC>& channels, float (&v)[kC]) {
  const ImageSample& sample = op.samples[i];
  const auto mixing = Mixing(int(sample.mixing));
  const int64_t partner = int64_t(sample.partner);
  const math::Box box{int64_t(sample.left), int64_t(sample.top), int64_t(sample.right),
                      int64_t(sample.bottom)};
  const bool is_pasted = mixing == Mixing::kCutmix && box.holds(x, y);
  const math::Mixup mixup = math::Mixup::make(sample.lam);
  const gpu::PixelMaker<kC> maker(op, channels, y, x);
  // One loop, so that the compiler makes one copy of the operations.
#pragma unroll 1
  for (int k = 0; k < (mixing == Mixing::kMixup ? 2 : 1); ++k) {
    const int64_t from = k == 1 || is_pasted ? partner : i;
    float made[kC];
    maker.make(from, op.stage(from, op.each - 1), made);
#pragma unroll
    for (int c = 0; c < kC; ++c) v[c] = k == 1 ? mixup(v[c], made[c]) : made[c];
  }
}

template <int kC>
__device__ __forceinline__ void store(const gpu::DeviceAugment& op, int64_t i, int64_t y, int64_t x,
                                      const gpu::Channels<kC>& channels, const float (&v)[kC]) {
#pragma unroll
  for (int c = 0; c < kC; ++c) {
    if (!channels.has(c)) continue;
    const int64_t channel = channels.at(c);
    const int64_t index = op.channels_last ? ((i * op.height + y) * op.width + x) * op.channels + channel
                                           : ((i * op.channels + channel) * op.height + y) * op.width + x;
    gpu::store_element(op.stored, ToByte{}, op.output, index, v[c]);
  }
}

// Stage s of all samples. Blocks: a tile of kTileWidth x kTileHeight pixels of a sample.
template <int kC>
__global__ void stage_kernel(const gpu::DeviceAugment op, int64_t s) {
  for (int64_t i = blockIdx.y; i < op.count; i += gridDim.y) {
    const Stage& stage = op.stage(i, s);
    if (stage.kind == StageKind::kNone) continue;
    const uint32_t across = uint32_t(stage.width + kTileWidth - 1) / kTileWidth;
    const int64_t x = int64_t(blockIdx.x % across) * kTileWidth + threadIdx.x % kTileWidth;
    const int64_t y = int64_t(blockIdx.x / across) * kTileHeight + threadIdx.x / kTileWidth;
    if (x >= stage.width || y >= stage.height) continue;
    gpu::Channels<kC> channels{0, op.channels};
    for (; channels.first < op.channels; channels.first += kC) {
      float v[kC];
      if (stage.target < 0) {
        make_mixed(op, i, y, x, channels, v);
        store(op, i, y, x, channels, v);
        continue;
      }
      gpu::PixelMaker<kC>(op, channels, y, x).make(i, stage, v);
      const Planes planes = op.target(stage).at(y, x);
#pragma unroll
      for (int c = 0; c < kC; ++c) {
        if (channels.has(c)) *planes[channels.at(c)] = v[c];
      }
    }
  }
}

gpu::DeviceAugment on_device(const Augment& op) {
  const StagePlan& plan = *op.device.plan;
  const char* table = op.device.table;
  gpu::DeviceAugment made{};
  made.images = reinterpret_cast<const ImageView*>(table + plan.table.images);
  made.stages = reinterpret_cast<const Stage*>(table + plan.table.stages);
  made.samples = reinterpret_cast<const ImageSample*>(table + plan.table.samples);
  made.passes = reinterpret_cast<const ImagePass*>(table + plan.table.passes);
  made.ops = reinterpret_cast<const ImageOp*>(table + plan.table.ops);
  made.values = reinterpret_cast<const double*>(table + plan.table.values);
  made.workspace = op.device.workspace;
  made.output = op.output;
  made.count = op.count;
  made.channels = op.channels;
  made.height = op.height;
  made.width = op.width;
  made.each = plan.each;
  made.pass_count = op.pass_count;
  made.op_count = op.op_count;
  made.stored = op.stored;
  made.channels_last = op.channels_last;
  return made;
}

// A grid has at most that many samples; a block with more takes one after the other.
constexpr int64_t kMostSamples = 65535;
unsigned samples_of(int64_t count) { return unsigned(count < kMostSamples ? count : kMostSamples); }

}  // namespace

void cuda::augment(const Augment& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const StagePlan& plan = *op.device.plan;
  const gpu::DeviceAugment device = on_device(op);
  const dim3 threads(gpu::kReduceThreads);
  const auto start = [&](auto kernel, dim3 grid, auto... arguments) {
    cuda_check(gpu::launch(kernel, grid, threads, 0, stream, device, arguments...), "augment");
  };
  if (plan.prepares) start(prepare_kernel, dim3(unsigned(op.count * plan.each)));
  for (int64_t s = 0; s < plan.each; ++s) {
    const StagePlan::Step& step = plan.steps[size_t(s)];
    gpu::with_channels(op.channels, [&](auto channels) {
      start(stage_kernel<decltype(channels)::value>, dim3(unsigned(step.tiles), samples_of(op.count)), s);
    });
    if (step.rows == 0) continue;
    const int64_t blocks = (step.rows + gpu::kRowsOfBlock - 1) / gpu::kRowsOfBlock;
    start(gpu::rows_kernel, dim3(unsigned(blocks), samples_of(op.count)), s);
    start(gpu::conclude_kernel, dim3(unsigned(op.count)), s);
  }
}

void cuda::augment_masks(const AugmentMasks& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const int64_t across = (op.width + kTileWidth - 1) / kTileWidth;
  const int64_t down = (op.height + kTileHeight - 1) / kTileHeight;
  const dim3 grid(unsigned(across * down), samples_of(op.count));
  gpu::with_mask_elements(op.bytes, [&](auto element) {
    cuda_check(gpu::launch(gpu::masks_kernel<decltype(element)>, grid, dim3(kTileThreads), 0,
                           static_cast<cudaStream_t>(launch.stream), gpu::DeviceMasks::make(op)),
               "augment_masks");
  });
}

}  // namespace onepass
