// test_clip.cu - the norm of many tensors (kernels/optim/clip.cu over loops/tensors/reduce.cuh) in one order
// whatever the schedule, what is decided from it, and the scaling by a factor that only the device knows.
#include <cmath>

#include "harness.h"
#include "kernels/kernels.h"

namespace {

using onepass::DType;
using onepass::Leaf;
using onepass::StepControl;

// A leaf and its neighbours, several leaves, nothing, tails of a pack and of a block of packs.
const std::vector<size_t> kSizes = {16384, 0, 1, 7, 16385, 2047, 2049, 33000, 9};

struct Gradients {
  std::vector<std::vector<float>> host;
  std::vector<Dev<float>> device;
  std::vector<onepass::TensorItem> items;
  onepass::TensorList list{};

  explicit Gradients(unsigned seed, bool overflowed = false) {
    for (size_t i = 0; i < kSizes.size(); ++i) {
      host.push_back(random_floats(kSizes[i] + 3, seed + unsigned(i)));
      if (overflowed && (i == 3 || i == 7)) host.back()[5 + i % 3] = INFINITY;
      device.emplace_back(host.back());
    }
    for (size_t i = 0; i < kSizes.size(); ++i) {
      // Every third tensor is not aligned to a pack.
      float* data = device[i].get() + i % 3;
      items.push_back({{data, data}, int64_t(kSizes[i]), list.numel, 0});
      list.numel += int64_t(kSizes[i]);
    }
    list.items = items.data();
    list.count = int64_t(items.size());
    list.dtype[onepass::kParam] = list.dtype[onepass::kGrad] = DType::kFloat32;
  }

  double norm(double p) const {
    double sum = 0;
    for (size_t i = 0; i < kSizes.size(); ++i) {
      for (size_t k = 0; k < kSizes[i]; ++k) {
        const double x = std::fabs(double(host[i][k + i % 3]));
        sum = std::isinf(p) ? std::max(sum, x) : sum + std::pow(x, p);
      }
    }
    return std::isinf(p) ? sum : std::pow(sum, 1 / p);
  }
};

StepControl decided(const Gradients& gradients, const onepass::Decision& decision, StepControl before) {
  const int64_t count = onepass::leaf_count(gradients.list);
  Dev<Leaf> leaves(std::vector<Leaf>(size_t(count), Leaf{0, 0}));
  Dev<StepControl> control(std::vector<StepControl>{before});
  onepass::cuda::norm(gradients.list, onepass::kGrad, decision.norm_type, leaves.get(), {});
  onepass::cuda::decide(leaves.get(), count, decision, control.get(), {});
  return control.host()[0];
}

void test_norms(unsigned seed) {
  const Gradients gradients(seed);
  for (const double p : {2.0, 1.0, double(INFINITY), 3.0}) {
    onepass::Decision decision;
    decision.norm_type = p;
    const StepControl control = decided(gradients, decision, {});
    CHECK(close(control.norm, gradients.norm(p), 1e-12), "p %g: %.17g", p, control.norm);
    CHECK(control.factor == 1 && control.skip == 0 && control.nonfinite == 0, "p %g", p);
    const StepControl again = decided(gradients, decision, {});
    CHECK(again.norm == control.norm, "p %g: another order of additions", p);
  }
}

void test_decision(unsigned seed) {
  const Gradients gradients(seed);
  onepass::Decision decision;
  decision.options = {0.5, true, true};
  decision.host_grad_scale = 4;
  StepControl control = decided(gradients, decision, {});
  const double norm = gradients.norm(2) / 4;
  CHECK(close(control.norm, norm, 1e-12), "norm %.17g", control.norm);
  CHECK(close(control.factor, 0.25 * 0.5 / (norm + 1e-6), 1e-12), "factor %.17g", control.factor);
  control = decided(Gradients(seed, true), decision, {0, 0, 0, 0, 7});
  CHECK(control.skip == 1 && control.nonfinite == 2 && control.skipped_steps == 8, "%g %g", control.skip,
        control.nonfinite);
}

void test_scale(unsigned seed) {
  const Gradients gradients(seed);
  Dev<StepControl> control(std::vector<StepControl>{{0.125, 0, 0, 0, 0}});
  onepass::cuda::scale(gradients.list, control.get(), {});
  for (size_t i = 0; i < kSizes.size(); ++i) {
    const auto now = gradients.device[i].host();
    for (size_t k = 0; k < now.size(); ++k) {
      const bool inside = k >= i % 3 && k < i % 3 + kSizes[i];
      CHECK(now[k] == gradients.host[i][k] * (inside ? 0.125f : 1.f), "tensor %zu element %zu", i, k);
    }
  }
  onepass::cuda::clamp(gradients.list, 0.01, {});
  for (size_t i = 0; i < kSizes.size(); ++i) {
    const auto now = gradients.device[i].host();
    for (size_t k = 0; k < kSizes[i]; ++k) CHECK(std::fabs(now[k + i % 3]) <= 0.01f, "element %zu", k);
  }
}

void run_all(unsigned seed) {
  test_norms(seed);
  test_decision(seed);
  test_scale(seed);
}

}  // namespace

int main() { return test_main(run_all); }
