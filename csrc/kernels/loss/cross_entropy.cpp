// cross_entropy.cpp - the cross-entropy loss on the CPU: math/cross_entropy.h over loops/classes/rows.h and
// columns.h. CUDA: cross_entropy.cu.
//
// Forward reads the logits once, backward reads them once and writes the gradient: 12 bytes an element in
// float32. Probabilities are read in both, too.

#include "kernels/loss/cross_entropy_panels.h"
#include "kernels/loss/cross_entropy_segments.h"

namespace onepass::ONEPASS_ISA {
namespace {

// Calls run(template arguments as values): how the classes count, and whether entropy is asked for.
template <class Run>
void with_terms(const CrossEntropy& op, const Run& run) {
  const auto with_spread = [&](auto share) {
    op.statistics ? run(share, std::true_type{}) : run(share, std::false_type{});
  };
  switch (op.share()) {
    case Share::kNone:
      return with_spread(std::integral_constant<Share, Share::kNone>{});
    case Share::kEqual:
      return with_spread(std::integral_constant<Share, Share::kEqual>{});
    case Share::kGiven:
      with_spread(std::integral_constant<Share, Share::kGiven>{});
  }
}

template <class T>
UnitTotals totals_of(const CrossEntropy& op, int64_t unit) {
  const UnitTotals totals{op.workspace + unit * UnitTotals::size(op), op.statistics};
  totals.clear(op);
  return totals;
}

// What the walks over units call for each share and with entropy or without stands behind a pointer, so the
// walks are compiled once for all.
template <class S>
using SumSegment = SegmentSums<arithmetic<S>> (*)(const CrossEntropy& op, arithmetic<S> shift, int64_t row,
                                                  int64_t label, int64_t segment, SegmentBuffers<S>& buffers);
template <class T>
using ForwardPanel = void (*)(const LossRows<T>& rows, Panel& panel, PanelBuffers<T>& buffers,
                              const UnitTotals& totals);

template <class S>
void forward_rows(const LossRows<arithmetic<S>>& rows, SumSegment<S> sum, int threads) {
  using T = arithmetic<S>;
  const CrossEntropy& op = rows.op;
  const ClassShape& shape = op.shape;
  const int64_t segments = shape.segments();
  const bool splits = splits_rows(shape, threads);
  auto* parts = reinterpret_cast<SegmentSums<T>*>(op.workspace + shape.units() * UnitTotals::size(op));
  if (splits) {
    for_each_unit(threads, shape.rows() * segments, [&](int64_t i) {
      SegmentBuffers<S> buffers;
      const int64_t r = i / segments;
      const T shift = shift_of_row(op, r, buffers);
      parts[i] = sum(op, shift, r, rows.labels(r).first, i % segments, buffers);
    });
  }
  for_each_unit(splits ? 1 : threads, shape.units(), [&](int64_t unit) {
    SegmentBuffers<S> buffers;
    const UnitTotals totals = totals_of<T>(op, unit);
    const int64_t begin = unit * shape.unit_rows(), end = begin + shape.unit_rows();
    for (int64_t r = begin; r < end && r < shape.rows(); ++r) {
      const T shift = splits ? T(0) : shift_of_row(op, r, buffers);
      forward_row(rows, r, totals, [&](int64_t row, int64_t label, int64_t segment) {
        if (splits) return parts[row * segments + segment];
        return sum(op, shift, row, label, segment, buffers);
      });
    }
  });
}

template <class T>
void forward_columns(const LossRows<T>& rows, ForwardPanel<T> forward_one, int threads) {
  const ClassShape& shape = rows.op.shape;
  for_each_unit(threads, shape.units(), [&](int64_t unit) {
    PanelBuffers<T> buffers;
    const UnitTotals totals = totals_of<T>(rows.op, unit);
    for_panels(shape, unit, [&](Panel& panel) { forward_one(rows, panel, buffers, totals); });
  });
}

// Adds the subtotals of the units in their order, and makes the loss of them.
template <class T>
void conclude(const LossRows<T>& rows) {
  const CrossEntropy& op = rows.op;
  const UnitTotals all{op.totals, op.statistics};
  all.clear(op);
  for (int64_t unit = 0; unit < op.shape.units(); ++unit) {
    const double* part = op.workspace + unit * UnitTotals::size(op);
    for (int64_t k = 0; k < UnitTotals::size(op); ++k) {
      op.totals[k] = k == kLargest ? math::larger(op.totals[k], part[k]) : op.totals[k] + part[k];
    }
  }
  op.totals[kAllWeights] = rows.all_weights;
  if (op.probabilities) op.totals[kWeightSum] = double(op.shape.rows());
  if (op.reduction == Reduction::kNone) return;
  const double sum = op.totals[kLossSum];
  *static_cast<T*>(op.loss) = T(op.reduction == Reduction::kMean ? sum / op.totals[kWeightSum] : sum);
}

template <class S>
void forward(const CrossEntropy& op, int threads) {
  using T = arithmetic<S>;
  const LossRows<T> rows(op);
  with_terms(op, [&](auto share, auto spread) {
    constexpr Share kShare = decltype(share)::value;
    constexpr bool kSpread = decltype(spread)::value;
    using W = Walked<S, kShare>;
    if (op.shape.walks_columns()) return forward_columns<T>(rows, forward_panel<T, kShare, kSpread>, threads);
    forward_rows<W>(rows, segment_sums<kShare, kSpread, W, T>, threads);
  });
  conclude(rows);
}

Output gradient_of(const CrossEntropy& op) {
  // In place the lines are in the cache already.
  const bool nontemporal = op.dx != op.x && op.shape.numel() * size_of(op.dtype) >= kNontemporalLeast;
  return {op.dtype, op.dx, nontemporal};
}

template <class S, Share kShare>
void backward_rows(const LossRows<arithmetic<S>>& rows, int threads) {
  using T = arithmetic<S>;
  const CrossEntropy& op = rows.op;
  const ClassShape& shape = op.shape;
  const Output dx = gradient_of(op);
  const int64_t segments = shape.segments();
  if (splits_rows(shape, threads)) {
    // In place a segment overwrites the label's logit, which the others need: all rows are prepared before.
    auto* prepared = reinterpret_cast<PreparedRow<T>*>(op.workspace);
    for (int64_t r = 0; r < shape.rows(); ++r) prepared[r] = prepare_row(rows, r);
    return for_each_unit(threads, shape.rows() * segments, [&](int64_t i) {
      SegmentBuffers<S> buffers;
      backward_segment<kShare>(op, i / segments, prepared[i / segments], i % segments, dx, buffers);
    });
  }
  for_each_unit(threads, shape.units(), [&](int64_t unit) {
    SegmentBuffers<S> buffers;
    const int64_t begin = unit * shape.unit_rows(), end = begin + shape.unit_rows();
    for (int64_t r = begin; r < end && r < shape.rows(); ++r) {
      const PreparedRow<T> row = prepare_row(rows, r);
      for (int64_t segment = 0; segment < segments; ++segment)
        backward_segment<kShare>(op, r, row, segment, dx, buffers);
    }
  });
}

template <Share kShare, class T>
void backward_columns(const LossRows<T>& rows, int threads) {
  const CrossEntropy& op = rows.op;
  const Output dx = gradient_of(op);
  for_each_unit(threads, op.shape.units(), [&](int64_t unit) {
    PanelBuffers<T> b;
    PanelGradients<T> gradients;
    for_panels(op.shape, unit, [&](Panel& panel) {
      const bool fits = op.shape.classes * panel.stride <= kPanelElements;
      if (!fits) prepare_panel(op, panel, rows, b, gradients);
      for_segments<kShare>(op, panel, b, [&] {
        if (fits) prepare_panel(op, panel, rows, b, gradients);
        walk_panel<kShare>(panel, gradients, b.w, b.rows.label, b.x);
        if (b.rows.has_second) add_second(panel, gradients, b.rows.other, b.x);
        store_panel(panel, dx, b.x, b.work);
      });
    });
  });
}

template <class S>
void backward(const CrossEntropy& op, int threads) {
  const LossRows<arithmetic<S>> rows(op);
  const Share share = op.share();
  const auto run = [&](auto kind) {
    constexpr Share kShare = decltype(kind)::value;
    op.shape.transposes_columns() ? backward_columns<kShare>(rows, threads)
                                  : backward_rows<Walked<S, kShare>, kShare>(rows, threads);
  };
  if (share == Share::kNone) return run(std::integral_constant<Share, Share::kNone>{});
  if (share == Share::kEqual) return run(std::integral_constant<Share, Share::kEqual>{});
  run(std::integral_constant<Share, Share::kGiven>{});
}

// Calls run(S) for the type as which logits are walked.
template <class Run>
void with_logits(DType dtype, const Run& run) {
  if (dtype == DType::kFloat64) return run(double{});
  if (dtype == DType::kBFloat16) return run(BFloat16{});
  run(float{});
}

int threads_of(const ClassShape& shape, int threads) {
  constexpr int64_t kLeastElements = 8 * 1024;
  const int64_t most = shape.numel() / kLeastElements + 1;
  return threads < most ? threads : int(most);
}

}  // namespace

// A subtotal for each unit, and the sums of each segment of rows that are shared out.
int64_t cross_entropy_workspace(const ClassShape& shape, bool statistics, int threads) {
  const int64_t totals = shape.units() * (statistics ? kTotals : kAllWeights);
  return totals + (splits_rows(shape, threads) ? shape.rows() * (shape.segments() + 2) * 5 : 0);
}

void cross_entropy_forward(const CrossEntropy& op, const Launch& launch) {
  with_logits(op.dtype,
              [&](auto logit) { forward<decltype(logit)>(op, threads_of(op.shape, launch.threads)); });
}

void cross_entropy_backward(const CrossEntropy& op, const Launch& launch) {
  with_logits(op.dtype,
              [&](auto logit) { backward<decltype(logit)>(op, threads_of(op.shape, launch.threads)); });
}

namespace {

template <class T>
ONEPASS_WALK void exponential_elements(const T* __restrict x, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = math::exponential(x[i]);
}

}  // namespace

void exponential(DType dtype, const void* x, void* y, int64_t n, const Launch&) {
  if (dtype == DType::kFloat64)
    return exponential_elements(static_cast<const double*>(x), static_cast<double*>(y), n);
  exponential_elements(static_cast<const float*>(x), static_cast<float*>(y), n);
}

}  // namespace onepass::ONEPASS_ISA
