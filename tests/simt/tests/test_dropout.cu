// test_dropout.cu - dropout (kernels/dropout/dropout.cu over loops/elements/elementwise.cuh): tails of packs
// and warps, addresses off by one, both layouts, tables of draws, all formulas, in place.
#include <cmath>

#include "harness.h"
#include "kernels/kernels.h"
#include "math/dropout.h"

namespace {

using onepass::ChannelShape;
using onepass::DropoutCall;
using onepass::DType;
using onepass::math::Scaling;

struct Case {
  ChannelShape shape;
  bool planes, shared, residual, gradient;
  Scaling scaling;
  double p;
  size_t offset;  // offset of all tensors' first elements from an aligned address
};

const std::vector<Case> kCases = {
    {{1, 1, 1, false}, false, false, false, false, Scaling::kInverted, 0.5, 0},
    {{1, 1, 511, false}, false, false, true, false, Scaling::kInverted, 0.1, 0},
    {{1, 1, 4099, false}, false, false, false, false, Scaling::kTestTime, 1.0 / 3, 1},
    {{1, 1, 1536, false}, false, false, false, false, Scaling::kAlpha, 0.3, 0},
    {{1, 1, 1537, false}, false, false, false, true, Scaling::kAlpha, 0.3, 3},
    {{1, 1, 100, false}, false, false, true, false, Scaling::kInverted, 1, 0},
    {{2, 5, 70, true}, false, false, true, false, Scaling::kInverted, 0.9, 0},
    {{3, 40, 9, false}, true, false, false, false, Scaling::kInverted, 0.4, 1},
    {{3, 40, 9, true}, true, true, true, false, Scaling::kInverted, 0.4, 0},
    {{5, 1, 123, false}, false, true, false, false, Scaling::kAlpha, 0.2, 0},
};

double wide(double x) { return x; }
double wide(float x) { return double(x); }
double wide(__nv_bfloat16 x) { return double(__bfloat162float(x)); }
double wide(__half x) { return double(__half2float(x)); }

template <class S>
void run_case(const Case& c, DType dtype, double tolerance, unsigned seed, bool in_place) {
  constexpr uint64_t kSeed = 987654321;
  const size_t numel = size_t(c.shape.numel());
  const auto x = random_floats(numel, seed), residual = random_floats(numel, seed + 1);
  std::vector<S> stored_x(numel), stored_residual(numel);
  for (size_t i = 0; i < numel; ++i) stored_x[i] = S(x[i]), stored_residual[i] = S(residual[i]);
  Dev<S> dev_x(stored_x, c.offset), dev_residual(stored_residual, c.offset), dev_y(stored_x, c.offset);
  Dev<int64_t> dev_seed(std::vector<int64_t>{int64_t(kSeed)});

  DropoutCall op;
  op.places.shape = c.shape;
  op.places.planes = c.planes;
  op.places.shared = c.shared;
  Dev<uint8_t> table(std::vector<uint8_t>(size_t(op.places.draws()), 0xAA));
  op.places.table = op.places.has_table() ? table.get() : nullptr;
  op.dtype = dtype;
  op.x = in_place ? dev_y.get() : dev_x.get();
  op.residual = c.residual ? dev_residual.get() : nullptr;
  op.y = dev_y.get();
  op.p = c.p;
  op.terms = onepass::math::dropout_terms(c.p, c.scaling, c.gradient);
  op.device_seed = dev_seed.get();
  onepass::cuda::dropout(op, {});

  const auto dropout = onepass::math::Dropout::make(c.p, kSeed);
  const auto y = dev_y.host();
  for (size_t i = 0; i < numel; ++i) {
    const bool kept = dropout.keeps_element(uint64_t(op.places.draw_of(int64_t(i))));
    double want = kept ? wide(stored_x[i]) * op.terms.scale + op.terms.shift : op.terms.dropped;
    if (c.residual) want += wide(stored_residual[i]);
    CHECK(close(wide(y[i]), want, tolerance), "y[%zu]: %.9g, not %.9g", i, wide(y[i]), want);
  }
}

void run_all(unsigned order) {
  for (size_t i = 0; i < kCases.size(); ++i) {
    const unsigned seed = 10 * unsigned(i) + order;
    run_case<float>(kCases[i], DType::kFloat32, 1e-6, seed, i % 2 == 1);
    run_case<double>(kCases[i], DType::kFloat64, 1e-15, seed, i % 2 == 0);
    run_case<__nv_bfloat16>(kCases[i], DType::kBFloat16, 5e-3, seed, i % 3 == 0);
    run_case<__half>(kCases[i], DType::kFloat16, 1e-3, seed, false);
  }
}

}  // namespace

int main() { return test_main(run_all); }
