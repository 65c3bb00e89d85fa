// merge_ranks.cpp - the numbers of all ranks put together, on the CPU: statistics in forward, sums in
// backward. CUDA: merge_ranks.cu.
//
// Each rank merges all ranks' numbers (RankNumbers) in the order of the ranks, in double, so all ranks have
// the same bits.

#include "kernels/kernels.h"
#include "kernels/norm/parameters.h"

namespace onepass::ONEPASS_ISA {
namespace {

// The ranks' parts of a channel are merged as those of the tiles of a batch. A rank without elements has a
// count of 0.
template <class T>
void merge_moments(const BatchNorm& op) {
  const RankNumbers at{op.shape.channels};
  const auto count = [&](int64_t r) { return op.gathered[r * op.stride + RankNumbers::kCount]; };
  double total = 0;
  for (int64_t r = 0; r < op.ranks; ++r) total += count(r);
  *op.total = total;
  const double factor = factor_of(op);
  for (int64_t c = 0; c < at.channels; ++c) {
    if (total == 0) {  // nothing to move the running statistics by
      static_cast<T*>(op.mean)[c] = 0;
      static_cast<T*>(op.invstd)[c] = T(math::invstd_of(0, op.eps));
      continue;
    }
    const auto part = [&](int64_t r) {
      const double* sent = op.gathered + r * op.stride;
      return math::Pair{sent[at.first(c)], sent[at.second(c)]};
    };
    double mean = 0, m2 = 0;
    for (int64_t r = 0; r < op.ranks; ++r) mean += math::mean_term(part(r), count(r));
    mean /= total;
    for (int64_t r = 0; r < op.ranks; ++r) m2 += math::m2_term(part(r), count(r), mean);
    use_moments<T>(op, factor, c, {mean, m2}, total);
  }
}

template <class T>
void merge_gradients(const BatchNorm& op) {
  const RankNumbers at{op.shape.channels};
  T* terms = static_cast<T*>(op.terms);
  for (int64_t c = 0; c < at.channels; ++c) {
    math::Pair sums{0, 0};
    for (int64_t r = 0; r < op.ranks; ++r) {
      const double* sent = op.gathered + r * op.stride;
      sums = math::merge(sums, {sent[at.first(c)], sent[at.second(c)]});
    }
    const double invstd = double(static_cast<const T*>(op.invstd)[c]);
    const auto made = math::GradientTerms<T>::make(sums, invstd, *op.total);
    terms[2 * c] = made.mean_g;
    terms[2 * c + 1] = made.slope;
  }
}

}  // namespace

void batch_norm_merge_moments(const BatchNorm& op, const Launch&) {
  op.dtype == DType::kFloat64 ? merge_moments<double>(op) : merge_moments<float>(op);
}

void batch_norm_merge_gradients(const BatchNorm& op, const Launch&) {
  op.dtype == DType::kFloat64 ? merge_gradients<double>(op) : merge_gradients<float>(op);
}

}  // namespace onepass::ONEPASS_ISA
