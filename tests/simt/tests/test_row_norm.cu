// test_row_norm.cu - layer and RMS norm (kernels/norm/row_norm.cu over loops/rows/rows.cuh): rows of a warp,
// of a block and longer ones, tails of packs, addresses off by one, parts of rows, dropout with a residual.
#include <cmath>

#include "harness.h"
#include "kernels/kernels.h"
#include "math/dropout.h"

namespace {

using onepass::DType;
using onepass::RowNorm;
using onepass::RowShape;

struct Case {
  RowShape shape;
  bool centred, residual;
  double p;
  size_t offset;  // offset of all tensors' first elements from an aligned address
};

const std::vector<Case> kCases = {
    {{1, 1}, true, false, 0, 0},      {{9, 7}, true, true, 0.3, 0},    {{130, 33}, false, true, 0, 1},
    {{3, 1024}, true, true, 0.5, 0},  {{2, 1025}, true, false, 0, 1},  {{2, 1500}, false, true, 1.0 / 3, 0},
    {{1, 8200}, true, true, 0.25, 0}, {{20, 260}, false, false, 0, 3},
};

constexpr uint64_t kSeed = 987654321;
constexpr double kEps = 1e-3;

// What is right, in float64.
struct Expected {
  std::vector<double> h, y, d, dx, dweight, dbias;

  Expected(const Case& c, const std::vector<double>& x, const std::vector<double>& residual,
           const std::vector<double>& weight, const std::vector<double>& bias, const std::vector<double>& dy,
           const std::vector<double>& dh)
      : h(x), y(x.size()), d(x.size()), dx(x.size()), dweight(weight.size()), dbias(weight.size()) {
    const auto dropout = onepass::math::Dropout::make(c.p, kSeed);
    const auto factor = [&](size_t i) {
      return c.p == 0 ? 1 : dropout.keeps_element(uint64_t(i)) ? dropout.scale : 0;
    };
    const size_t width = weight.size();
    for (size_t i = 0; i < h.size() && c.residual; ++i) h[i] = x[i] * factor(i) + residual[i];
    for (size_t begin = 0; begin < h.size(); begin += width) {
      double mean = 0, square = 0, g1 = 0, g2 = 0;
      for (size_t k = 0; k < width && c.centred; ++k) mean += h[begin + k] / double(width);
      for (size_t k = 0; k < width; ++k) square += (h[begin + k] - mean) * (h[begin + k] - mean);
      const double invstd = 1 / std::sqrt(square / double(width) + kEps);
      for (size_t k = 0; k < width; ++k) {
        const double unit = (h[begin + k] - mean) * invstd, g = dy[begin + k] * weight[k];
        y[begin + k] = unit * weight[k] + (c.centred ? bias[k] : 0);
        g1 += c.centred ? g / double(width) : 0;
        g2 += g * unit / double(width);
        dweight[k] += dy[begin + k] * unit;
        dbias[k] += dy[begin + k];
      }
      for (size_t k = 0; k < width; ++k) {
        const size_t i = begin + k;
        const double unit = (h[i] - mean) * invstd;
        d[i] = (dy[i] * weight[k] - g1 - unit * g2) * invstd + (c.residual ? dh[i] : 0);
        dx[i] = d[i] * factor(i);
      }
    }
  }
};

template <class S>
double wide(S x) {
  if constexpr (std::is_same_v<S, __nv_bfloat16>)
    return double(__bfloat162float(x));
  else if constexpr (std::is_same_v<S, __half>)
    return double(__half2float(x));
  else
    return double(x);
}

template <class S>
void compare(const char* name, const std::vector<S>& found, const std::vector<double>& wanted,
             double tolerance) {
  double largest = 1;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < wanted.size(); ++i) {
    CHECK(std::abs(wide(found[i]) - wanted[i]) <= tolerance * largest, "%s[%zu]: %.9g, not %.9g", name, i,
          wide(found[i]), wanted[i]);
  }
}

template <class S>
void run_case(const Case& c, DType dtype, double tolerance, unsigned seed) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const size_t numel = size_t(c.shape.numel()), width = size_t(c.shape.width), rows = size_t(c.shape.rows);
  std::vector<double> values[6];
  std::vector<S> stored[6];
  for (int k = 0; k < 6; ++k) {
    const auto drawn = random_floats(k == 2 || k == 3 ? width : numel, 100 * seed + unsigned(k));
    for (const float value : drawn) stored[k].push_back(S(value)), values[k].push_back(wide(S(value)));
  }
  const Expected right(c, values[0], values[1], values[2], values[3], values[4], values[5]);
  Dev<S> x(stored[0], c.offset), residual(stored[1], c.offset), weight(stored[2], c.offset);
  Dev<S> bias(stored[3], c.offset), dy(stored[4], c.offset), dh(stored[5], c.offset);
  Dev<S> h(stored[0], c.offset), y(stored[0], c.offset), dx(stored[0], c.offset), dr(stored[0], c.offset);
  Dev<S> dweight(stored[2], c.offset), dbias(stored[2], c.offset);
  Dev<T> mean(std::vector<T>(rows), 0), invstd(std::vector<T>(rows), 0);
  const int64_t doubles = onepass::cuda::row_norm_workspace(c.shape, dtype, true);
  Dev<double> workspace(std::vector<double>(size_t(doubles)), 0);
  Dev<int64_t> dev_seed(std::vector<int64_t>{int64_t(kSeed)});

  RowNorm op;
  op.shape = c.shape;
  op.dtype = op.param_dtype = dtype;
  op.centred = c.centred;
  op.x = x.get();
  op.residual = c.residual ? residual.get() : nullptr;
  op.h = c.residual ? h.get() : nullptr;
  op.y = y.get();
  op.weight = weight.get();
  op.bias = c.centred ? bias.get() : nullptr;
  op.mean = mean.get();
  op.invstd = invstd.get();
  op.eps = kEps;
  op.dropout = c.p;
  op.device_seed = dev_seed.get();
  onepass::cuda::row_norm_forward(op, {});
  compare("y", y.host(), right.y, tolerance);
  if (c.residual) compare("h", h.host(), right.h, tolerance);

  op.x = c.residual ? h.get() : x.get();
  op.dy = dy.get();
  op.dh = c.residual ? dh.get() : nullptr;
  op.dx = dx.get();
  op.dresidual = c.p > 0 ? dr.get() : nullptr;
  op.dweight = dweight.get();
  op.dbias = c.centred ? dbias.get() : nullptr;
  op.workspace = workspace.get();
  onepass::cuda::row_norm_backward(op, {});
  compare("dx", dx.host(), right.dx, 4 * tolerance);
  if (c.p > 0) compare("dresidual", dr.host(), right.d, 4 * tolerance);
  compare("dweight", dweight.host(), right.dweight, 4 * tolerance);
  if (c.centred) compare("dbias", dbias.host(), right.dbias, 4 * tolerance);
}

void run_all(unsigned order) {
  for (size_t i = 0; i < kCases.size(); ++i) {
    const unsigned seed = 10 * unsigned(i) + order;
    run_case<float>(kCases[i], DType::kFloat32, 2e-6, seed);
    run_case<double>(kCases[i], DType::kFloat64, 1e-14, seed);
    run_case<__nv_bfloat16>(kCases[i], DType::kBFloat16, 2e-2, seed);
    run_case<__half>(kCases[i], DType::kFloat16, 3e-3, seed);
  }
}

}  // namespace

int main() { return test_main(run_all); }
