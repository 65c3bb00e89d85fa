// test_cross_entropy.cu - the loss's CUDA kernels against plain loops in double, in several orders of
// execution.

#include <cmath>
#include <vector>

#include "harness.h"
#include "kernels/kernels.h"

using namespace onepass;

namespace {

struct Expected {
  double loss = 0;
  std::vector<double> dx;
};

// Mean loss of labels with smoothing, and its gradient.
Expected expect(const ClassShape& shape, const std::vector<float>& x, const std::vector<int64_t>& target,
                double eps, int64_t ignored) {
  Expected found;
  found.dx.assign(x.size(), 0);
  double count = 0;
  for (int64_t r = 0; r < shape.rows(); ++r) count += target[size_t(r)] != ignored;
  for (int64_t r = 0; r < shape.rows(); ++r) {
    const int64_t t = target[size_t(r)];
    if (t == ignored) continue;
    const auto at = [&](int64_t c) { return double(x[size_t(shape.index(r, c))]); };
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < shape.classes; ++c) max = std::max(max, at(c));
    for (int64_t c = 0; c < shape.classes; ++c) sum += std::exp(at(c) - max);
    for (int64_t c = 0; c < shape.classes; ++c) {
      const double q = (c == t ? 1 - eps : 0) + eps / double(shape.classes);
      found.loss += q * (max + std::log(sum) - at(c)) / count;
      found.dx[size_t(shape.index(r, c))] = (std::exp(at(c) - max) / sum - q) / count;
    }
  }
  return found;
}

void check(const ClassShape& shape, double eps, bool in_place) {
  const int64_t n = shape.numel();
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = float((i * 2654435761u >> 7) % 1000) / 100.f - 5.f;
  std::vector<int64_t> target(static_cast<size_t>(shape.rows()));
  for (size_t r = 0; r < target.size(); ++r) target[r] = int64_t(r * 7 % size_t(shape.classes));
  if (target.size() > 2) target[1] = -100;
  const Expected exact = expect(shape, x, target, eps, -100);

  Dev<float> logits(x), dx(x.size()), loss(1), rows(size_t(2 * shape.rows())), grad(std::vector<float>{1.f});
  Dev<int64_t> labels(target);
  Dev<double> totals{size_t(kTotals)}, work(size_t(cuda::cross_entropy_workspace(shape, true, 1)));
  CrossEntropy op;
  op.shape = shape;
  op.x = logits.get();
  op.target = labels.get();
  op.options.smoothing = eps;
  op.statistics = true;
  op.loss = loss.get();
  op.max = rows.get();
  op.rest = rows.get() + shape.rows();
  op.totals = totals.get();
  op.workspace = work.get();
  cuda::cross_entropy_forward(op, Launch{});
  op.grad = grad.get();
  op.dx = in_place ? logits.get() : dx.get();
  cuda::cross_entropy_backward(op, Launch{});
  CHECK(std::fabs(loss.host()[0] - exact.loss) < 1e-5 * (1 + exact.loss), "loss %g, wanted %g",
        loss.host()[0], exact.loss);
  const std::vector<float> found = in_place ? logits.host() : dx.host();
  for (size_t i = 0; i < found.size(); ++i) {
    CHECK(std::fabs(found[i] - exact.dx[i]) < 1e-6, "dx[%zu] = %g, wanted %g", i, found[i], exact.dx[i]);
  }
}

// All kernels: many rows side by side, classes apart in memory in one segment and in two, along rows in one
// and two.
void run_all(unsigned) {
  check({5, 3, 1}, 0, false);
  check({2, 7, 37}, 0.1, false);
  check({2, 1100, 3}, 0.1, true);
  check({3, 259, 1}, 0, false);
  check({2, 16500, 1}, 0.1, false);
  check({1, 16500, 1}, 0.1, true);
}

}  // namespace

int main() { return test_main(run_all); }
