// batch_norm.cpp - batch normalisation on the CPU: math/batch_norm.h over loops/channels.h. CUDA:
// batch_norm.cu.
//
// Passes over memory, forward: x is read for the statistics, and again (from the cache, where a channel fits
// it) with the residual for y. Backward: x and dy for the sums, and again for dx.

#include "math/batch_norm.h"
#include "kernels/kernels.h"
#include "loops/channels.h"

namespace onepass::ONEPASS_ISA {
namespace {

// Names of params[k]; the first one also is the shift's place in the forward's reduction, which makes its
// own.
enum { kMean, kScale, kBias, kMeanG, kSlope };

template <class T>
struct Params {
  T* at[kMostParams];

  Params(const BatchNorm& op, double* memory) {
    for (int k = 0; k < kMostParams; ++k) at[k] = reinterpret_cast<T*>(memory + k * op.shape.channels);
  }
  const T* const* view() const { return at; }
  void set(int64_t c, const math::Affine<T>& affine) const {
    at[kMean][c] = affine.mean;
    at[kScale][c] = affine.scale;
    at[kBias][c] = affine.bias;
  }
};

double param_of(const BatchNorm& op, const void* stored, int64_t c, double missing) {
  double value = missing;
  if (stored) load_row(op.param_dtype, stored, c, &value, 1);
  return value;
}

void set_param(const BatchNorm& op, void* stored, int64_t c, double value) {
  if (!stored) return;
  if (op.param_dtype == DType::kFloat64) {
    static_cast<double*>(stored)[c] = value;
  } else if (op.param_dtype == DType::kFloat32) {
    static_cast<float*>(stored)[c] = float(value);
  } else {
    const float rounded = float(value);
    store_row(op.param_dtype, stored, c, &rounded, 1);
  }
}

template <class T>
math::Affine<T> affine_of(const BatchNorm& op, int64_t c, T mean, T invstd) {
  return math::Affine<T>::make(mean, invstd, param_of(op, op.weight, c, 1), param_of(op, op.bias, c, 0));
}

Passing dropout_of(const BatchNorm& op) {
  Passing passing;
  passing.drops = op.dropout > 0;
  passing.dropout = math::Dropout::make(op.dropout, op.device_seed ? uint64_t(*op.device_seed) : op.seed);
  return passing;
}

// A mask's bytes that two threads share are put together bit by bit, on zeros.
void clear_mask(const BatchNorm& op) {
  const int64_t run = op.shape.channels_last ? op.shape.channels : op.shape.positions;
  if (op.mask && run % 8 != 0) std::memset(op.mask, 0, size_t((op.shape.numel() + 7) / 8));
}

// Calls run(formula type) for the formula of y.
template <class T, class Run>
void with_normalise(const BatchNorm& op, const Run& run) {
  if (op.residual && op.relu) return run(math::Normalise<T, true, true>{});
  if (op.residual) return run(math::Normalise<T, true, false>{});
  if (op.relu) return run(math::Normalise<T, false, true>{});
  run(math::Normalise<T, false, false>{});
}

// y of n elements that follow each other in memory.
template <class T, class F>
void write_y(const BatchNorm& op, const Passing& passing, const ParamView<T>& params, int64_t begin,
             int64_t n, const uint8_t* kept) {
  alignas(64) T buffer[3][kChannelRow];
  const T* x = read_row(op.dtype, op.x, begin, n, buffer[0]);
  const T* residual = op.residual ? read_row(op.dtype, op.residual, begin, n, buffer[1]) : nullptr;
  T* y = open_row(op.dtype, op.y, begin, buffer[2]);
  walk_row<F>(params, x, residual, y, n);
  if (op.mask) {
    uint8_t positive[kChannelRow];
    flag_positive(y, n, positive);
    pack_bits(positive, begin, n, op.mask);
  }
  if (passing.drops) drop_row(y, kept, T(passing.scale()), y, n);
  close_row(op.dtype, op.y, begin, y, n);
}

math::Moments moments_of(const math::Pair* parts, int64_t rows) {
  double mean = 0, m2 = 0;
  const auto count = [=](int64_t begin) { return double(rows - begin < kTile ? rows - begin : kTile); };
  for (int64_t begin = 0, i = 0; begin < rows; begin += kTile, ++i)
    mean += math::mean_term(parts[i], count(begin));
  mean /= double(rows);
  for (int64_t begin = 0, i = 0; begin < rows; begin += kTile, ++i) {
    m2 += math::m2_term(parts[i], count(begin), mean);
  }
  return {mean, m2};
}

// The statistics of channel c from its tiles: saved, averaged into the running ones, and made parameters.
template <class T>
void finish_forward(const BatchNorm& op, double factor, const Params<T>& params, int64_t c,
                    const math::Pair* parts) {
  const double rows = double(op.shape.rows());
  const math::Moments moments = moments_of(parts, op.shape.rows());
  const T mean = T(moments.mean), invstd = T(math::invstd_of(moments.m2 / rows, op.eps));
  static_cast<T*>(op.mean)[c] = mean;
  static_cast<T*>(op.invstd)[c] = invstd;
  const double running_mean = param_of(op, op.running_mean, c, 0),
               running_var = param_of(op, op.running_var, c, 0);
  set_param(op, op.running_mean, c, math::running_average(running_mean, moments.mean, factor));
  set_param(op, op.running_var, c, math::running_average(running_var, moments.m2 / (rows - 1), factor));
  params.set(c, affine_of(op, c, mean, invstd));
}

template <class T>
void forward(const BatchNorm& op, int threads) {
  const ChannelInputs in{op.shape, op.dtype, op.x, nullptr, {}};
  const Passing passing = dropout_of(op);
  auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
  const Params<T> params(op, op.workspace + 2 * op.shape.channels * op.shape.tiles());
  const double factor = op.batches ? 1 / double(*op.batches) : op.momentum;
  clear_mask(op);
  with_normalise<T>(op, [&](auto formula) {
    using F = decltype(formula);
    channels<math::ShiftedSums<T>>(
        in, passing, params.view(), parts, size_of(op.dtype), threads,
        [&](int64_t c, const math::Pair* own) { finish_forward<T>(op, factor, params, c, own); },
        [&](const ParamView<T>& view, int64_t begin, int64_t n, const uint8_t* kept) {
          write_y<T, F>(op, passing, view, begin, n, kept);
        });
  });
}

template <class T>
void inference(const BatchNorm& op, int threads) {
  const Passing passing = dropout_of(op);
  const Params<T> params(op, op.workspace);
  for (int64_t c = 0; c < op.shape.channels; ++c) {
    const T invstd = T(math::invstd_of(param_of(op, op.running_var, c, 1), op.eps));
    params.set(c, affine_of(op, c, T(param_of(op, op.running_mean, c, 0)), invstd));
  }
  clear_mask(op);
  with_normalise<T>(op, [&](auto formula) {
    using F = decltype(formula);
    walk_channels_all<T>(op.shape, passing, params.view(), threads,
                         [&](const ParamView<T>& view, int64_t begin, int64_t n, const uint8_t* kept) {
                           write_y<T, F>(op, passing, view, begin, n, kept);
                         });
  });
}

template <class T>
void store_as(DType dtype, void* stored, int64_t begin, const T* row, int64_t n) {
  if (stored_as<T>(dtype)) {
    std::memcpy(static_cast<T*>(stored) + begin, row, size_t(n) * sizeof(T));
  } else {
    close_row(dtype, stored, begin, row, n);
  }
}

// dx and dresidual of n elements that follow each other in memory.
template <class T, class F>
void write_dx(const BatchNorm& op, const Passing& passing, const ParamView<T>& params, int64_t begin,
              int64_t n, const uint8_t* passed) {
  alignas(64) T buffer[3][kChannelRow];
  const T* g = read_row(op.dtype, op.dy, begin, n, buffer[0]);
  if (passing.asks()) {
    drop_row(g, passed, T(passing.scale()), buffer[0], n);
    g = buffer[0];
  }
  if (op.dresidual) store_as(op.dtype, op.dresidual, begin, g, n);
  if (!op.dx) return;
  const T* x = F::kReadsX ? read_row(op.dtype, op.x, begin, n, buffer[1]) : nullptr;
  T* dx = open_row(op.dtype, op.dx, begin, buffer[2]);
  walk_row<F>(params, x, g, dx, n);
  close_row(op.dtype, op.dx, begin, dx, n);
}

template <class T, bool kRelu>
void backward(const BatchNorm& op, int threads) {
  Passing passing = dropout_of(op);
  passing.mask = op.mask;
  const ChannelInputs in{op.shape, op.dtype, op.x, op.dy, passing};
  auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
  const int64_t tiles = op.shape.tiles();
  const Params<T> params(op, op.workspace + 2 * op.shape.channels * tiles);
  const T* const invstd = static_cast<const T*>(op.invstd);
  for (int64_t c = 0; c < op.shape.channels; ++c) {
    params.set(c, affine_of(op, c, static_cast<const T*>(op.mean)[c], invstd[c]));
  }
  const auto finish = [&](int64_t c, const math::Pair* own) {
    math::Pair sums{0, 0};
    for (int64_t i = 0; i < tiles; ++i) sums = {sums.first + own[i].first, sums.second + own[i].second};
    set_param(op, op.dbias, c, sums.first);
    set_param(op, op.dweight, c, sums.second * double(invstd[c]));
    const auto terms = math::GradientTerms<T>::make(sums, double(invstd[c]), double(op.shape.rows()));
    params.at[kMeanG][c] = terms.mean_g;
    params.at[kSlope][c] = terms.slope;
  };
  const auto run = [&](auto formula) {
    using F = decltype(formula);
    const auto piece = [&](const ParamView<T>& view, int64_t begin, int64_t n, const uint8_t* passed) {
      write_dx<T, F>(op, passing, view, begin, n, passed);
    };
    const bool writes = op.dx || op.dresidual;
    if (op.training || op.dweight || op.dbias) {
      if (writes) {
        return channels<math::GradientSums<T, kRelu>>(in, passing, params.view(), parts,
                                                      2 * size_of(op.dtype), threads, finish, piece);
      }
      reduce_channels<math::GradientSums<T, kRelu>>(in, params.view(), parts, threads);
      for (int64_t c = 0; c < op.shape.channels; ++c) finish(c, parts + c * tiles);
    } else if (writes) {
      walk_channels_all<T>(op.shape, passing, params.view(), threads, piece);
    }
  };
  if (op.training) return run(math::Gradient<T, kRelu, true>{});
  run(math::Gradient<T, kRelu, false>{});
}

template <class T>
void backward(const BatchNorm& op, int threads) {
  // With a residual the sign is not x's: the mask tells it.
  if (op.relu && !op.mask) return backward<T, true>(op, threads);
  backward<T, false>(op, threads);
}

}  // namespace

void batch_norm_forward(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape, launch.threads);
  op.dtype == DType::kFloat64 ? forward<double>(op, threads) : forward<float>(op, threads);
}

void batch_norm_inference(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape, launch.threads);
  op.dtype == DType::kFloat64 ? inference<double>(op, threads) : inference<float>(op, threads);
}

void batch_norm_backward(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape, launch.threads);
  op.dtype == DType::kFloat64 ? backward<double>(op, threads) : backward<float>(op, threads);
}

}  // namespace onepass::ONEPASS_ISA
