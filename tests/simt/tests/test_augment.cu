// test_augment.cu - augmentation (kernels/augment/augment.cu): the bits of the CPU's kernels for every kind
// of stage, statistics, mixing of samples with other stages, channels beyond a thread's, all dtypes, and
// masks.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "harness.h"
#include "kernels/augment/stages.h"
#include "kernels/kernels.h"

// The CPU's kernels run on the calling thread.
void onepass::parallel_run(int, void (*body)(void*), void* context) { body(context); }
int onepass::thread_number() { return 0; }

namespace {

using namespace onepass;

constexpr int64_t kCount = 5, kPasses = 2, kOps = 5, kHeight = 21, kWidth = 35;
const int64_t kSizes[kCount][2] = {{19, 26}, {40, 33}, {1, 1}, {22, 70}, {19, 26}};

struct Records {
  std::vector<ImageSample> samples{size_t(kCount)};
  std::vector<ImagePass> passes{size_t(kCount * kPasses)};
  std::vector<ImageOp> ops{size_t(kCount * kPasses * kOps)};
  std::vector<double> values;

  void pass(int64_t i, int64_t p, PassKind kind, const int64_t (&input)[2], int64_t height, int64_t width,
            Interpolation interpolation, double turn, double border) {
    ImagePass& pass = passes[size_t(i * kPasses + p)];
    const double x = double(input[1]) / double(width), y = double(input[0]) / double(height);
    const double map[9] = {x, turn, x / 2 - 0.5, -turn, y, y / 2 - 0.5, 0, 0, 1};
    std::memcpy(pass.map, map, sizeof map);
    pass.kind = double(int(kind));
    pass.interpolation = double(int(interpolation));
    pass.height = double(height);
    pass.width = double(width);
    pass.antialias = 1;
    pass.right = double(input[1]);
    pass.bottom = double(input[0]);
    pass.border = border;
  }
  void op(int64_t i, int64_t p, OpKind kind, const std::vector<double>& a, int64_t count = 0) {
    ImageOp* op = &ops[size_t((i * kPasses + p) * kOps)];
    while (op->kind != 0) ++op;
    op->kind = double(int(kind));
    op->first = double(values.size());
    std::copy(a.begin(), a.end(), op->a);
    for (int64_t k = 0; k < count; ++k) values.push_back(0.2 + 0.05 * double(k));
  }
};

// One stage; a resize; seven stages; a pass that is missing; a mixed one. The operations are those of three
// channels, or of any number.
Records records_of(int64_t channels) {
  Records made;
  const bool colors = channels == 3;
  const int64_t between[2] = {18, 24};
  made.pass(0, 1, PassKind::kGather, kSizes[0], kHeight, kWidth, Interpolation::kBilinear, 0.3, 0);
  made.op(0, 1, OpKind::kBlend, {0.8, 0.3, -1, -0.3, 0.9, 2, 0, 0, 1, 26, 19, 2, 1}, channels);
  made.op(0, 1, OpKind::kErase, {3, 4, 30, 12, 1, 5, 6, 7, 8, 9, 4294967295.0}, channels);
  made.pass(1, 0, PassKind::kResize, kSizes[1], kHeight, kWidth, Interpolation::kBicubic, 0, 0);
  made.op(1, 0, OpKind::kNormalize, {}, 2 * channels);
  made.pass(2, 0, PassKind::kResize, kSizes[2], between[0], between[1], Interpolation::kBilinear, 0, 0);
  if (colors) made.op(2, 0, OpKind::kContrast, {0.5});
  made.pass(2, 1, PassKind::kResize, between, kHeight, kWidth, Interpolation::kBilinear, 0, 0);
  made.pass(3, 0, PassKind::kGather, kSizes[3], between[0], between[1], Interpolation::kNearest, 0.2, 1);
  if (colors) {
    made.op(3, 0, OpKind::kEqualize, {});
    made.op(3, 0, OpKind::kAutocontrast, {});
  }
  made.pass(3, 1, PassKind::kGather, between, kHeight, kWidth, Interpolation::kBilinear, 0.1, 2);
  if (colors) {
    made.op(3, 1, OpKind::kSharpness, {1.7});
    made.op(3, 1, OpKind::kContrast, {1.3});
    made.op(3, 1, OpKind::kEqualize, {});
    made.op(3, 1, OpKind::kHue, {0.3});
  }
  made.pass(4, 0, PassKind::kGather, kSizes[4], kHeight, kWidth, Interpolation::kFloor, -0.4, 0);
  made.samples[4] = {1, 3, 0.3, 0, 0, 0, 0};
  made.samples[1] = {2, 2, 0, 4, 5, 20, 30};
  made.samples[1].bottom = 18;
  return made;
}

int64_t bytes_of(PixelType type, int64_t elements) { return elements * size_of(type); }

void run_images(int64_t channels, PixelType type, PixelType stored, bool last, unsigned seed) {
  const Records records = records_of(channels);
  std::vector<std::vector<uint8_t>> pixels;
  std::vector<Dev<uint8_t>> on_device;
  std::vector<ImageView> images;
  std::mt19937 generator(seed);
  for (const auto& size : kSizes) {
    std::vector<uint8_t> raw(size_t(bytes_of(type, size[0] * size[1] * channels)));
    for (uint8_t& byte : raw) byte = uint8_t(generator());
    if (type == PixelType::kFloat32) {
      const auto values = random_floats(raw.size() / 4, seed, 0.4f);
      std::memcpy(raw.data(), values.data(), raw.size());
    }
    pixels.push_back(raw);
    on_device.emplace_back(raw);
    images.push_back({nullptr, size[0], size[1], channels, size[1] * channels, channels, 1, type});
  }
  Augment op{};
  op.count = kCount;
  op.channels = channels;
  op.height = kHeight;
  op.width = kWidth;
  op.stored = stored;
  op.channels_last = last;
  op.samples = records.samples.data();
  op.passes = records.passes.data();
  op.pass_count = kPasses;
  op.ops = records.ops.data();
  op.op_count = kOps;
  op.values = records.values.data();
  op.value_count = int64_t(records.values.size());
  op.images = images.data();
  const size_t bytes = size_t(bytes_of(stored, kCount * channels * kHeight * kWidth));
  std::vector<uint8_t> expected(bytes, 0x55);
  for (size_t i = 0; i < images.size(); ++i) images[i].data = pixels[i].data();
  op.output = expected.data();
  baseline::augment(op, {});

  for (size_t i = 0; i < images.size(); ++i) images[i].data = on_device[i].get();
  Dev<uint8_t> output(std::vector<uint8_t>(bytes, 0x55));
  op.output = output.get();
  const StagePlan plan = StagePlan::make(op);
  std::vector<char> filled(size_t(plan.table.bytes));
  plan.fill(op, filled.data());
  Dev<char> table(filled), workspace{size_t(plan.workspace)};
  op.device = {&plan, table.get(), workspace.get()};
  cuda::augment(op, {});
  const auto got = output.host();
  for (size_t k = 0; k < bytes; ++k) {
    CHECK(got[k] == expected[k], "channels %d, type %d, stored %d: byte %zu of %zu: %d, not %d",
          int(channels), int(type), int(stored), k, bytes, got[k], expected[k]);
  }
}

template <class E>
void run_masks(unsigned seed) {
  Records records;
  std::mt19937 generator(seed);
  std::vector<std::vector<E>> elements;
  std::vector<Dev<E>> on_device;
  std::vector<ImageView> masks;
  std::vector<ImagePass> passes;
  std::vector<ImageOp> ops;
  for (int64_t i = 0; i < kCount; ++i) {
    const auto& size = kSizes[i];
    std::vector<E> mask(size_t(size[0] * size[1]));
    for (E& element : mask) element = E(generator());
    elements.push_back(mask);
    on_device.emplace_back(mask);
    masks.push_back({nullptr, size[0], size[1], 1, size[1], 1, 0, PixelType::kUint8});
    records.pass(i, 0, PassKind::kGather, size, kHeight, kWidth,
                 i % 2 ? Interpolation::kFloor : Interpolation::kNearest, 0.2 * double(i), double(i % 3));
    records.op(i, 0, OpKind::kBlend, {1, 0.1, -2, 0, 1, -1, 0.001 * double(i), 0, 1, 30, 15, 1, 0}, 1);
    records.values.back() = 77;
    passes.push_back(records.passes[size_t(i * kPasses)]);
    ops.push_back(records.ops[size_t(i * kPasses * kOps)]);
  }
  AugmentMasks op{};
  op.masks = masks.data();
  op.count = kCount;
  op.bytes = int64_t(sizeof(E));
  op.height = kHeight;
  op.width = kWidth;
  op.passes = passes.data();
  op.ops = ops.data();
  op.op_count = 1;
  op.values = records.values.data();
  op.value_count = int64_t(records.values.size());
  std::vector<E> expected(size_t(kCount * kHeight * kWidth));
  for (size_t i = 0; i < masks.size(); ++i) masks[i].data = elements[i].data();
  op.output = expected.data();
  baseline::augment_masks(op, {});

  for (size_t i = 0; i < masks.size(); ++i) masks[i].data = on_device[i].get();
  Dev<E> output(expected.size());
  op.output = output.get();
  std::vector<char> filled(size_t(masks_table(op).bytes));
  fill_masks_table(op, filled.data());
  Dev<char> table(filled);
  op.device.table = table.get();
  cuda::augment_masks(op, {});
  CHECK(output.host() == expected, "masks of %zu bytes", sizeof(E));
}

void run_all(unsigned order) {
  using Type = PixelType;
  run_images(3, Type::kUint8, Type::kFloat32, order % 2 == 1, order);
  run_images(3, Type::kFloat32, Type::kUint8, order % 2 == 0, order);
  run_images(1, Type::kUint8, Type::kBFloat16, false, order);
  run_images(5, Type::kUint8, Type::kFloat16, order % 2 == 0, order);
  if (order % 2) {
    run_masks<uint8_t>(order);
    run_masks<uint32_t>(order);
  } else {
    run_masks<uint16_t>(order);
    run_masks<uint64_t>(order);
  }
}

}  // namespace

int main() { return test_main(run_all); }
