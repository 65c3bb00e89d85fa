// test_tail.cu - an update with its tail (loops/tensors/step.cuh) and the control that only the device reads:
// against the plain launchers, which test_multi_tensor.cu tests, and a host loop for what follows the
// update.
#include <cmath>
#include <cstring>

#include "harness.h"
#include "kernels/kernels.h"
#include "math/ema.h"

namespace {

using onepass::DType;
using onepass::StepControl;

const std::vector<size_t> kSizes = {1, 0, 3, 255, 4097, 1030};
constexpr int kLists = 5;  // param, grad, m, v, ema
constexpr double kDecay = 0.75;

// Lists of float tensors, each one element past a pack for every second tensor.
struct Tensors {
  std::vector<Dev<float>> memory;
  std::vector<onepass::TensorItem> items;
  onepass::TensorList list{};

  explicit Tensors(unsigned seed, float grad_scale = 1) {
    for (size_t i = 0; i < kSizes.size(); ++i) {
      onepass::TensorItem item{};
      item.numel = int64_t(kSizes[i]);
      item.begin = list.numel;
      list.numel += item.numel;
      for (int k = 0; k < kLists; ++k) {
        auto values = random_floats(kSizes[i] + 1, seed + unsigned(i) * kLists + unsigned(k));
        for (float& value : values) {
          if (k == onepass::kGrad) value *= grad_scale;
          if (k == 3) value = std::fabs(value);
        }
        memory.emplace_back(values);
        item.list[k == 4 ? onepass::kEma : k] = memory.back().get() + i % 2;
      }
      items.push_back(item);
    }
    list.items = items.data();
    list.count = int64_t(items.size());
    for (DType& dtype : list.dtype) dtype = DType::kFloat32;
  }

  std::vector<float> values(size_t tensor, int k) const {
    const auto all = memory[tensor * kLists + size_t(k)].host();
    return {all.begin() + int64_t(tensor % 2), all.begin() + int64_t(tensor % 2 + kSizes[tensor])};
  }
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

onepass::RuleStep<onepass::math::AdamOptions> rule() {
  onepass::RuleStep<onepass::math::AdamOptions> step;
  step.options = {0.1, 0.9, 0.999, 1e-8, 0.01, true};
  step.step = 3;
  step.ema_decay = kDecay;
  return step;
}

// Gradients four times too large and a factor of 1/4: exactly the plain update; then the average and the
// zeros.
void test_taken(unsigned seed) {
  const Tensors plain(seed), with_tail(seed, 4);
  Dev<StepControl> control(std::vector<StepControl>{{0.25, 0, 0, 0, 0}});
  onepass::RuleStep<onepass::math::AdamOptions> step = rule();
  onepass::cuda::adam(plain.list, &step, false, {}, {});
  const Tensors before(seed);
  step.control = control.get();
  onepass::cuda::adam(with_tail.list, &step, false, {true, true, control.get()}, {});
  const auto average = onepass::math::Ema<float>::make(kDecay);
  for (size_t i = 0; i < kSizes.size(); ++i) {
    for (const int k : {0, 2, 3}) {
      const auto ours = with_tail.values(i, k), theirs = plain.values(i, k);
#ifdef __CUDACC__
      for (size_t e = 0; e < ours.size(); ++e) CHECK(close(ours[e], theirs[e], 1e-6), "%zu %d %zu", i, k, e);
#else
      CHECK(same(ours, theirs), "tensor %zu list %d", i, k);
#endif
    }
    auto want = before.values(i, 4);
    const auto param = with_tail.values(i, 0);
    for (size_t e = 0; e < want.size(); ++e) average(want[e], param[e]);
    CHECK(same(with_tail.values(i, 4), want), "average of tensor %zu", i);
    CHECK(same(with_tail.values(i, 1), std::vector<float>(kSizes[i])), "gradient of tensor %zu", i);
  }
}

void test_skipped(unsigned seed) {
  const Tensors tensors(seed), before(seed);
  Dev<StepControl> control(std::vector<StepControl>{{1, 1, 0, 0, 0}});
  onepass::RuleStep<onepass::math::AdamOptions> step = rule();
  step.control = control.get();
  for (const bool zero_grad : {false, true}) {
    onepass::cuda::adam(tensors.list, &step, false, {true, zero_grad, control.get()}, {});
    for (size_t i = 0; i < kSizes.size(); ++i) {
      for (int k = 0; k < kLists; ++k) {
        const bool zeroed = zero_grad && k == onepass::kGrad;
        CHECK(same(tensors.values(i, k), zeroed ? std::vector<float>(kSizes[i]) : before.values(i, k)),
              "tensor %zu list %d", i, k);
      }
    }
  }
}

void test_count(unsigned) {
  Dev<float> counts(std::vector<float>{1, 2, 3});
  float* const pointers[] = {counts.get(), counts.get() + 2};
  for (const double skip : {1.0, 0.0}) {
    Dev<StepControl> control(std::vector<StepControl>{{1, skip, 0, 0, 0}});
    onepass::cuda::increment(pointers, 2, control.get(), {});
    const std::vector<float> want = skip != 0 ? std::vector<float>{1, 2, 3} : std::vector<float>{2, 2, 4};
    CHECK(same(counts.host(), want), "skip %g", skip);
  }
}

void run_all(unsigned seed) {
  test_taken(seed);
  test_skipped(seed);
  test_count(seed);
}

}  // namespace

int main() { return test_main(run_all); }
