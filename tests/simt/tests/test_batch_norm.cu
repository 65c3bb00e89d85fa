// test_batch_norm.cu - batch normalisation (kernels/norm/batch_norm.cu over loops/channels/channels.cuh):
// short planes, planes of several tiles, tails of packs, addresses off by one, all options; one order of
// additions, in either layout.
#include <cmath>
#include <cstring>

#include "harness.h"
#include "kernels/kernels.h"
#include "math/dropout.h"

namespace {

using onepass::BatchNorm;
using onepass::ChannelShape;
using onepass::DType;

struct Case {
  ChannelShape shape;
  bool relu, residual, affine, training;
  double dropout;
  size_t offset;  // offset of all tensors' first elements from an aligned address
};

// Planes of less than a pack, of some packs, of more than a tile; tiles that begin within a plane and end in
// another; packs that reach from one channel into the next, and again in a thread's next pack; channels that
// are whole packs and that are not, fewer than a block takes, and one more; one position per channel.
const std::vector<Case> kCases = {
    {{3, 5, 20, false}, true, true, true, true, 0.3, 0},
    {{3, 5, 20, true}, true, true, true, true, 0.3, 0},
    {{2, 3, 100, false}, true, false, true, true, 0, 1},
    {{2, 16, 100, true}, true, false, true, true, 0, 1},
    {{2, 2, 4100, false}, false, true, false, true, 0, 0},
    {{9, 8, 70, true}, false, true, false, true, 0, 0},
    {{1, 1, 333, false}, true, true, true, false, 0.5, 3},
    {{7, 264, 1, true}, true, true, true, false, 0.5, 3},
    {{40, 2, 70, false}, true, true, true, true, 0.3, 0},
    {{3, 1, 5000, false}, true, false, true, true, 0, 0},
    {{5, 3, 64, false}, false, false, true, false, 1, 0},
    {{3, 33, 30, true}, false, false, true, false, 0, 0},
    {{70, 40, 49, true}, true, true, true, true, 0.3, 0},
    {{700, 3, 7, false}, true, false, true, true, 0, 1},
    {{300, 9, 1, true}, true, true, true, true, 0.3, 0},
    // A block keeps a channel; the last four just miss its limits.
    {{6, 32, 200, false}, true, true, true, true, 0.3, 0},
    {{40, 33, 49, false}, true, false, true, true, 0.5, 1},
    {{2048, 32, 8, false}, false, true, false, true, 0, 2},
    {{2049, 32, 8, false}, false, true, true, true, 0, 0},
    {{9, 32, 7, false}, false, true, true, true, 0, 0},
    {{3, 32, 30, false}, true, true, true, true, 0, 0},
    {{6, 31, 200, false}, true, false, true, true, 0, 0},
};

size_t memory_index(const ChannelShape& shape, int64_t row, int64_t channel) {
  return size_t(shape.channels_last ? row * shape.channels + channel : shape.logical_index(row, channel));
}

// Moves values from the logical order to that of memory.
std::vector<float> arranged(const ChannelShape& shape, const std::vector<float>& logical) {
  std::vector<float> stored(logical.size());
  for (int64_t k = 0; k < shape.channels; ++k) {
    for (int64_t r = 0; r < shape.rows(); ++r) {
      stored[memory_index(shape, r, k)] = logical[size_t(shape.logical_index(r, k))];
    }
  }
  return stored;
}

// Moves them back, and adds them to `bits`.
void append_logical(const ChannelShape& shape, const std::vector<float>& stored, std::vector<float>* bits) {
  const size_t begin = bits->size();
  bits->resize(begin + stored.size());
  for (int64_t k = 0; k < shape.channels; ++k) {
    for (int64_t r = 0; r < shape.rows(); ++r) {
      (*bits)[begin + size_t(shape.logical_index(r, k))] = stored[memory_index(shape, r, k)];
    }
  }
}

// The reference in float64, computed from what the device was given.
struct Reference {
  std::vector<double> y, dx, g, mean, var, dweight, dbias;

  Reference(const Case& c, const std::vector<float>& x, const std::vector<float>& residual,
            const std::vector<float>& dy, const std::vector<float>& weight, const std::vector<float>& bias,
            const std::vector<float>& running, const onepass::math::Dropout& dropout, double eps)
      : y(x.size()), dx(x.size()), g(x.size()) {
    const ChannelShape& shape = c.shape;
    const int64_t rows = shape.rows();
    for (int64_t k = 0; k < shape.channels; ++k) {
      const auto at = [&](int64_t r) { return memory_index(shape, r, k); };
      double m = 0, v = 0;
      for (int64_t r = 0; r < rows; ++r) m += double(x[at(r)]) / double(rows);
      for (int64_t r = 0; r < rows; ++r) v += (double(x[at(r)]) - m) * (double(x[at(r)]) - m) / double(rows);
      mean.push_back(m);
      var.push_back(v);
      // What is saved, and what elements are normalised with, is a float: of values around 100 its rounding
      // times the sum of the gradients is a part of the weight's.
      m = c.training ? double(float(m)) : double(running[size_t(k)]);
      if (!c.training) v = 1;
      const double invstd = 1 / std::sqrt(v + eps), w = c.affine ? double(weight[size_t(k)]) : 1;
      double sum = 0, product = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const size_t i = at(r);
        double value = (double(x[i]) - m) * invstd * w + (c.affine ? double(bias[size_t(k)]) : 0);
        if (c.residual) value += double(residual[i]);
        const bool kept = c.dropout == 0 || dropout.keeps_element(uint64_t(shape.logical_index(r, k)));
        const double scale = (!c.relu || value > 0) && kept ? (c.dropout > 0 ? dropout.scale : 1) : 0;
        y[i] = value * scale;
        g[i] = double(dy[i]) * scale;
        sum += g[i];
        product += g[i] * (double(x[i]) - m);
      }
      dbias.push_back(sum);
      dweight.push_back(product * invstd);
      for (int64_t r = 0; r < rows; ++r) {
        const size_t i = at(r);
        const double centred = (double(x[i]) - m) * invstd * invstd * product / double(rows);
        dx[i] = (c.training ? g[i] - sum / double(rows) - centred : g[i]) * invstd * w;
      }
    }
  }
};

void compare(const char* what, const Dev<float>& got, const std::vector<double>& want) {
  const auto host = got.host();
  for (size_t i = 0; i < want.size(); ++i) {
    CHECK(close(double(host[i]), want[i], 2e-5), "%s[%zu]: %.9g, not %.9g", what, i, double(host[i]),
          want[i]);
  }
}

// The results, in the logical order.
std::vector<float> run_case(const Case& c, unsigned seed) {
  const size_t numel = size_t(c.shape.numel()), channels = size_t(c.shape.channels);
  // Values far from zero: sums of plain squares would lose all digits.
  const auto x = arranged(c.shape, random_floats(numel, seed, 100.f));
  const auto residual = arranged(c.shape, random_floats(numel, seed + 1));
  const auto dy = arranged(c.shape, random_floats(numel, seed + 2));
  const auto weight = random_floats(channels, seed + 3, 1.f);
  const auto bias = random_floats(channels, seed + 4), running = random_floats(channels, seed + 5, 100.f);
  const std::vector<float> ones(channels, 1.f), expected_invstd(channels, float(1 / std::sqrt(1 + 1e-5)));
  Dev<float> dev_x(x, c.offset), dev_residual(residual, c.offset), dev_dy(dy, c.offset);
  Dev<float> dev_y(numel, c.offset), dev_dx(numel, c.offset), dev_dresidual(numel, c.offset);
  Dev<float> dev_weight(weight), dev_bias(bias), dev_mean(ones), dev_invstd(expected_invstd);
  Dev<float> dev_dweight(ones), dev_dbias(ones), dev_running_mean(running), dev_running_var(ones);
  Dev<uint8_t> mask(std::vector<uint8_t>((numel + 7) / 8, 0xAA));
  Dev<double> workspace(std::vector<double>(size_t(onepass::cuda::batch_norm_workspace(c.shape)), NAN));
  Dev<int64_t> dev_seed(std::vector<int64_t>{12345}), batches(std::vector<int64_t>{4});

  BatchNorm op;
  op.shape = c.shape;
  op.x = dev_x.get();
  op.residual = c.residual ? dev_residual.get() : nullptr;
  op.y = dev_y.get();
  op.weight = c.affine ? dev_weight.get() : nullptr;
  op.bias = c.affine ? dev_bias.get() : nullptr;
  op.running_mean = dev_running_mean.get();
  op.running_var = dev_running_var.get();
  op.mean = dev_mean.get();
  op.invstd = dev_invstd.get();
  op.batches = batches.get();
  op.eps = 1e-5;
  op.relu = c.relu;
  op.dropout = c.dropout;
  op.device_seed = dev_seed.get();
  op.mask = c.relu && c.residual ? mask.get() : nullptr;
  op.workspace = workspace.get();
  op.training = c.training;
  op.dy = dev_dy.get();
  op.dx = dev_dx.get();
  op.dresidual = c.residual ? dev_dresidual.get() : nullptr;
  op.dweight = dev_dweight.get();
  op.dbias = dev_dbias.get();

  const Reference want(c, x, residual, dy, weight, bias, running,
                       onepass::math::Dropout::make(c.dropout, 12345), op.eps);
  if (c.training) {
    onepass::cuda::batch_norm_forward(op, {});
    const auto mean = dev_running_mean.host(), var = dev_running_var.host();
    for (size_t k = 0; k < channels; ++k) {
      const double unbiased = want.var[k] * double(c.shape.rows()) / double(c.shape.rows() - 1);
      CHECK(close(double(mean[k]), 0.25 * want.mean[k] + 0.75 * double(running[k]), 1e-6), "running_mean %zu",
            k);
      CHECK(close(double(var[k]), 0.25 * unbiased + 0.75, 1e-6), "running_var %zu: %g", k, double(var[k]));
    }
  } else {
    op.mean = nullptr;  // with a mean of the batch inference would take that one
    onepass::cuda::batch_norm_inference(op, {});
    op.mean = dev_running_mean.get();
  }
  onepass::cuda::batch_norm_backward(op, {});
  compare("y", dev_y, want.y);
  compare("dx", dev_dx, want.dx);
  if (c.residual) compare("dresidual", dev_dresidual, want.g);
  compare("dweight", dev_dweight, want.dweight);
  compare("dbias", dev_dbias, want.dbias);
  std::vector<float> bits;
  for (const auto* result : {&dev_mean, &dev_invstd, &dev_dweight, &dev_dbias}) {
    const auto host = result->host();
    bits.insert(bits.end(), host.begin(), host.end());
  }
  append_logical(c.shape, dev_y.host(), &bits);
  append_logical(c.shape, dev_dx.host(), &bits);
  return bits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The same data in every order of threads and blocks, and in both layouts: the results must have the same
// bits.
void run_all(unsigned order) {
  static std::vector<std::vector<float>> first(kCases.size());
  for (size_t i = 0; i < kCases.size(); ++i) {
    const unsigned seed = unsigned(10 * i);
    const auto bits = run_case(kCases[i], seed);
    if (order == 0) first[i] = bits;
    CHECK(same_bits(bits, first[i]), "case %zu, order %u: other bits", i, order);
    Case other = kCases[i];
    other.shape.channels_last = !other.shape.channels_last;
    CHECK(same_bits(run_case(other, seed), first[i]), "case %zu: other bits in the other layout", i);
  }
}

}  // namespace

int main() { return test_main(run_all); }
