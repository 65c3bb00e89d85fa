// batch_norm.cpp - batch normalisation on the CPU: math/batch_norm.h over loops/channels/channels.h. CUDA:
// batch_norm.cu.
//
// Passes over memory, forward: x is read for the statistics, and again with the residual for y. Backward: x
// and dy are read for the sums, and again for dx. Where the channels come first the second reading is from a
// thread's own cache if a channel fits it, else, in backward, from the last-level cache.

#include "math/batch_norm.h"
#include "kernels/kernels.h"
#include "kernels/norm/parameters.h"
#include "loops/channels/channels.h"

namespace onepass::ONEPASS_ISA {
namespace {

// Names of params[k]. The forward's reduction has the shift, which it makes itself, in place of the first
// one.
enum { kMean, kScale, kBias, kMeanG, kSlope };

// The parameters of all channels. Their nans are plain ones, since bfloat16 results are rounded in pairs.
template <class T>
struct Params {
  T* at[kMostParams];

  Params(const BatchNorm& op, double* memory) {
    for (int k = 0; k < kMostParams; ++k) at[k] = reinterpret_cast<T*>(memory + k * op.shape.channels);
  }
  const T* const* view() const { return at; }
  void set(int64_t c, const math::Affine<T>& affine) const {
    at[kMean][c] = plain_nan(affine.mean);
    at[kScale][c] = plain_nan(affine.scale);
    at[kBias][c] = plain_nan(affine.bias);
  }
};

PassFlags dropout_of(const BatchNorm& op) {
  PassFlags passing;
  passing.drops = op.dropout > 0;
  passing.dropout = math::Dropout::make(op.dropout, seed_of(op.device_seed, op.seed));
  return passing;
}

// Calls run(S) for the type as which loops see the elements. by_strips: each strip is worked on before or
// after.
template <class T, class Run>
void with_stored(const BatchNorm& op, bool by_strips, const Run& run) {
  if constexpr (std::is_same_v<T, double>) {
    run(double{});
  } else {
    if (op.dtype == DType::kBFloat16 && !by_strips) return run(BFloat16{});
    run(float{});
  }
}

Output output_of(const BatchNorm& op, void* stored) {
  return {op.dtype, stored, op.shape.numel() * size_of(op.dtype) >= kNontemporalLeast};
}

// Calls run(formula type) for the formula of y.
template <class T, class Run>
void with_normalise(const BatchNorm& op, const Run& run) {
  if (op.residual && op.relu) return run(math::Normalise<T, true, true>{});
  if (op.residual) return run(math::Normalise<T, true, false>{});
  if (op.relu) return run(math::Normalise<T, false, true>{});
  run(math::Normalise<T, false, false>{});
}

// ahead: as in ChannelInputs.
template <class S, class F, class T>
void write_y(const BatchNorm& op, const PassFlags& passing, const Output& y, int64_t ahead, Span<T>& span) {
  if (op.residual && ahead > 0) fetch_elements(op.dtype, op.residual, span.begin + ahead, span.n);
  alignas(64) S buffer[3][kStrip];
  const S* x = read_strip(op.dtype, op.x, span.begin, span.n, buffer[0]);
  const S* residual =
      op.residual ? read_strip(op.dtype, op.residual, span.begin, span.n, buffer[1]) : nullptr;
  // Elements are dropped in a strip, before they are stored.
  const bool nontemporal = y.nontemporal && y.takes<S>() && !passing.drops;
  S* strip = nontemporal ? static_cast<S*>(y.stored) + span.begin : y.open(span.begin, buffer[2]);
  uint8_t passed[kStrip];
  span.template walk<F>(x, residual, strip, passed, nontemporal);
  if (F::kFlags) pack_bits(passed, span.n, op.mask + span.begin / 8);
  if (nontemporal) return;
  if constexpr (sizeof(S) >= sizeof(float)) {
    if (passing.drops) drop_strip(strip, span.flags, S(passing.scale()), strip, span.n);
  }
  y.close(span.begin, strip, span.n);
}

// The second walk of forward and inference.
template <class T>
void write_y(const BatchNorm& op, const Slab& slab, const PassFlags& passing, const Params<T>& params,
             int threads) {
  const Output y = output_of(op, op.y);
  const int64_t ahead = slab.width() < op.shape.channels ? op.shape.channels * op.shape.positions : 0;
  with_normalise<T>(op, [&](auto formula) {
    with_stored<T>(op, passing.drops, [&](auto stored) {
      walk_spans<T>(op.shape, slab, passing, params.view(), threads, [&](Span<T>& span) {
        write_y<decltype(stored), decltype(formula)>(op, passing, y, ahead, span);
      });
    });
  });
}

math::Moments moments_of(const ChannelShape& shape, const math::Pair* parts) {
  const int64_t tiles = shape.tiles();
  const auto count = [&](int64_t i) { return double(shape.tile(i).end - shape.tile(i).begin); };
  double mean = 0, m2 = 0;
  for (int64_t i = 0; i < tiles; ++i) mean += math::mean_term(parts[i], count(i));
  mean /= double(shape.rows());
  for (int64_t i = 0; i < tiles; ++i) m2 += math::m2_term(parts[i], count(i), mean);
  return {mean, m2};
}

// Merges the statistics of channel c from its tiles.
template <class T>
void finish_forward(const BatchNorm& op, double factor, const Params<T>& params, int64_t c,
                    const math::Pair* parts) {
  params.set(c, use_moments<T>(op, factor, c, moments_of(op.shape, parts), double(op.shape.rows())));
}

void set_own(const BatchNorm& op, int64_t c, double first, double second) {
  const RankNumbers at{op.shape.channels};
  op.own[at.first(c)] = first;
  op.own[at.second(c)] = second;
}

template <class T>
void moments(const BatchNorm& op, int threads) {
  const ChannelInputs in{op.shape, op.dtype, op.x, nullptr, {}};
  auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
  const int64_t channels = op.shape.channels, tiles = op.shape.tiles();
  const Params<T> params(op, op.workspace + 2 * channels * tiles);
  with_stored<T>(op, false, [&](auto stored) {
    const Slab all{0, channels};
    reduce_channels<math::ShiftedSums<T>, decltype(stored)>(in, all, params.view(), parts, threads);
  });
  op.own[RankNumbers::kChannels] = double(channels);
  op.own[RankNumbers::kTag] = op.tag;
  op.own[RankNumbers::kCount] = double(op.shape.rows());
  for (int64_t c = 0; c < channels; ++c) {
    const math::Moments found = moments_of(op.shape, parts + c * tiles);
    set_own(op, c, found.mean, found.m2);
  }
}

template <class T>
void forward(const BatchNorm& op, int threads) {
  ChannelInputs in{op.shape, op.dtype, op.x, nullptr, {}};
  auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
  const int64_t tiles = op.shape.tiles();
  const Params<T> params(op, op.workspace + 2 * op.shape.channels * tiles);
  const double factor = factor_of(op);
  const PassFlags passing = dropout_of(op);
  const auto walk_both = [&](const Slab& slab, int at_once) {
    with_stored<T>(op, false, [&](auto stored) {
      reduce_channels<math::ShiftedSums<T>, decltype(stored)>(in, slab, params.view(), parts, at_once);
    });
    for (int64_t c = slab.begin; c < slab.end; ++c)
      finish_forward<T>(op, factor, params, c, parts + c * tiles);
    write_y(op, slab, passing, params, at_once);
  };
  const int64_t multiple = op.mask ? mask_multiple(op.shape) : 1;
  const int64_t width = kept_width(op.shape, size_of(op.dtype), multiple, threads);
  if (width == 0) return walk_both({0, op.shape.channels}, threads);
  in.ahead = op.shape.channels * op.shape.positions;
  for_each_slab(op.shape, width, threads, [&](const Slab& slab) { walk_both(slab, 1); });
}

// With the running statistics, or with a mean and invstd that are there already.
template <class T>
void inference(const BatchNorm& op, int threads) {
  const Params<T> params(op, op.workspace);
  for (int64_t c = 0; c < op.shape.channels; ++c) {
    if (op.mean) {
      params.set(c, affine_of(op, c, static_cast<const T*>(op.mean)[c], static_cast<const T*>(op.invstd)[c]));
      continue;
    }
    const T invstd = T(math::invstd_of(param_of(op, op.running_var, c, 1), op.eps));
    params.set(c, affine_of(op, c, T(param_of(op, op.running_mean, c, 0)), invstd));
  }
  write_y(op, {0, op.shape.channels}, dropout_of(op), params, threads);
}

// Merges the sums of channel c: dweight, dbias, and the channel's terms of dx.
template <class T>
void finish_backward(const BatchNorm& op, const Params<T>& params, int64_t c, const math::Pair* parts) {
  const double invstd = double(static_cast<const T*>(op.invstd)[c]);
  math::Pair sums{0, 0};
  for (int64_t i = 0; i < op.shape.tiles(); ++i) sums = math::merge(sums, parts[i]);
  set_param(op, op.dbias, c, sums.first);
  set_param(op, op.dweight, c, math::weight_gradient(sums, invstd));
  if (op.own) return set_own(op, c, sums.first, sums.second);
  const auto terms = math::GradientTerms<T>::make(sums, invstd, double(op.shape.rows()));
  params.at[kMeanG][c] = plain_nan(terms.mean_g);
  params.at[kSlope][c] = plain_nan(terms.slope);
}

template <class S, class F, class T>
void write_dx(const BatchNorm& op, const PassFlags& passing, const Output& dx, const Output& dresidual,
              Span<T>& span) {
  alignas(64) S buffer[3][kStrip];
  const S* g = read_strip(op.dtype, op.dy, span.begin, span.n, buffer[0]);
  if constexpr (sizeof(S) >= sizeof(float)) {
    if (passing.asks()) {
      S* strip = dresidual.stored ? dresidual.open(span.begin, buffer[0]) : buffer[0];
      drop_strip(g, span.flags, S(passing.scale()), strip, span.n);
      g = strip;
    }
  }
  if (dresidual.stored) dresidual.copy(span.begin, g, span.n);
  if (!op.dx) return;
  const S* x = F::kReadsX ? read_strip(op.dtype, op.x, span.begin, span.n, buffer[1]) : nullptr;
  const bool nontemporal = dx.nontemporal && dx.takes<S>();
  S* strip = nontemporal ? static_cast<S*>(dx.stored) + span.begin : dx.open(span.begin, buffer[2]);
  span.template walk<F>(x, g, strip, static_cast<uint8_t*>(nullptr), nontemporal);
  if (!nontemporal) dx.close(span.begin, strip, span.n);
}

template <class T, bool kRelu, bool kTraining>
void backward(const BatchNorm& op, int threads) {
  using Sums = math::GradientSums<T, kRelu>;
  using F = math::Gradient<T, kRelu, kTraining>;
  PassFlags passing = dropout_of(op);
  passing.mask = op.mask;
  ChannelInputs in{op.shape, op.dtype, op.x, op.dy, passing};
  auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
  const int64_t tiles = op.shape.tiles();
  const Params<T> params(op, op.workspace + 2 * op.shape.channels * tiles);
  for (int64_t c = 0; c < op.shape.channels; ++c) {
    params.set(c, affine_of(op, c, static_cast<const T*>(op.mean)[c], static_cast<const T*>(op.invstd)[c]));
    if (!op.terms) continue;
    params.at[kMeanG][c] = plain_nan(static_cast<const T*>(op.terms)[2 * c]);
    params.at[kSlope][c] = plain_nan(static_cast<const T*>(op.terms)[2 * c + 1]);
  }
  with_stored<T>(op, passing.asks(), [&](auto stored) {
    using S = decltype(stored);
    const Output dx = output_of(op, op.dx), dresidual = output_of(op, op.dresidual);
    const auto walk_both = [&](const Slab& slab, int at_once) {
      if (!op.terms && (op.training || op.dweight || op.dbias)) {
        reduce_channels<Sums, S>(in, slab, params.view(), parts, at_once);
        for (int64_t k = slab.begin; k < slab.end; ++k) finish_backward(op, params, k, parts + k * tiles);
      }
      if (!op.dx && !op.dresidual) return;
      walk_spans<T>(op.shape, slab, passing, params.view(), at_once,
                    [&](Span<T>& span) { write_dx<S, F>(op, passing, dx, dresidual, span); });
    };
    // Of two calls with an exchange between them each walks all channels, in the order of memory and back:
    // the second one begins with what the first one read last.
    const bool walks_once = op.own || op.terms;
    const int64_t bytes = 2 * size_of(op.dtype);
    const int64_t kept = walks_once ? 0 : kept_width(op.shape, bytes, 1, threads);
    if (kept > 0) {
      in.ahead = op.shape.channels * op.shape.positions;
      return for_each_slab(op.shape, kept, threads, [&](const Slab& slab) { walk_both(slab, 1); });
    }
    const int64_t channels = op.shape.channels, width = walks_once ? channels : slab_width(op.shape, bytes);
    for (int64_t c = 0; c < channels; c += width) {
      walk_both({c, c + width < channels ? c + width : channels}, threads);
    }
  });
}

template <class T>
void backward(const BatchNorm& op, int threads) {
  // With a residual the sign of v does not follow from x: the mask has it.
  const bool relu = op.relu && !op.mask;
  if (relu) return op.training ? backward<T, true, true>(op, threads) : backward<T, true, false>(op, threads);
  op.training ? backward<T, false, true>(op, threads) : backward<T, false, false>(op, threads);
}

}  // namespace

// Room for a pair for each tile of each channel, and for the parameters of the channels.
int64_t batch_norm_workspace(const ChannelShape& shape) {
  return shape.channels * (2 * shape.tiles() + kChannelParams);
}

void batch_norm_forward(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? forward<double>(op, threads) : forward<float>(op, threads);
}

void batch_norm_moments(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? moments<double>(op, threads) : moments<float>(op, threads);
}

void batch_norm_inference(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? inference<double>(op, threads) : inference<float>(op, threads);
}

void batch_norm_backward(const BatchNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? backward<double>(op, threads) : backward<float>(op, threads);
}

}  // namespace onepass::ONEPASS_ISA
