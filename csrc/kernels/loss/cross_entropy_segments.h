// cross_entropy_segments.h - the CPU kernels of cross_entropy.cpp for rows of classes that follow each other
// (loops/classes/rows.h).
//
// S: the type as which logits are walked (core/convert.h); T: the arithmetic type.
#pragma once

#include "kernels/loss/cross_entropy_rows.h"
#include "loops/classes/gradients.h"

namespace onepass::ONEPASS_ISA {

using math::Share;

// The weights w_c of a segment of a row: those of the classes, or made of them and of probabilities.
template <class T>
const T* segment_weights(const CrossEntropy& op, int64_t row, int64_t c, int64_t n, T* buffer, T* work) {
  const T* w = buffer;
  if (op.weight) {
    w = read_strip(op.weight_dtype, op.weight, c, n, buffer);
  } else {
    for (int64_t i = 0; i < n; ++i) buffer[i] = 1;
  }
  if (!op.probabilities) return w;
  const T* y = read_strip(op.probabilities_dtype, op.probabilities, op.shape.index(row, c), n, work);
  const double smoothing = op.options.smoothing;
  smooth_classes(y, w, T(1 - smoothing), T(smoothing / double(op.shape.classes)), work, n);
  return work;
}

template <class S>
struct SegmentBuffers {
  alignas(64) S x[kClassSegment];
  alignas(64) arithmetic<S> w[kClassSegment];
  alignas(64) arithmetic<S> work[kClassSegment];
};

// The logit around which the sums of a row are formed.
template <class S>
arithmetic<S> shift_of_row(const CrossEntropy& op, int64_t row, SegmentBuffers<S>& b) {
  const int64_t n = op.shape.classes < kClassSegment ? op.shape.classes : kClassSegment;
  return largest_class(read_strip(op.dtype, op.x, op.shape.index(row, 0), n, b.x), n);
}

template <Share kShare, bool kSpread, class S, class T>
SegmentSums<T> segment_sums(const CrossEntropy& op, T shift, int64_t row, int64_t label, int64_t segment,
                            SegmentBuffers<S>& b) {
  const int64_t c = segment * kClassSegment, rest = op.shape.classes - c,
                n = rest < kClassSegment ? rest : kClassSegment;
  const S* x = read_strip(op.dtype, op.x, op.shape.index(row, c), n, b.x);
  const T* w = kShare == Share::kGiven ? segment_weights(op, row, c, n, b.w, b.work) : b.w;
  return reduce_segment<kShare, kSpread>(shift, x, w, n, label - c);
}

// Stores what follows from the sums of a row, and adds it to the totals. best: the class with the largest
// logit.
template <class T, class Best>
void finish_row(const LossRows<T>& rows, int64_t r, RowLabels<T> labels, const SegmentSums<T>& all,
                const UnitTotals& totals, const Best& best) {
  const CrossEntropy& op = rows.op;
  const SegmentSums<T> sums = math::settled(all);
  static_cast<T*>(op.max)[r] = sums.max;
  static_cast<T*>(op.rest)[r] = T(sums.rest);
  if (op.total) static_cast<T*>(op.total)[r] = T(sums.weight);
  T loss = 0;
  if (labels.counts) {
    const bool has_label = labels.first >= 0;
    const T x_t = has_label ? rows.logit(r, labels.first) : sums.max;
    const T x_u = labels.second >= 0 ? rows.logit(r, labels.second) : sums.max;
    if (!has_label) labels.target = math::RowTarget<T>::of_probabilities(T(sums.weight));
    const auto row = math::RowSoftmax<T>::make(sums.max, T(sums.rest), x_t, has_label);
    loss =
        math::row_loss(row, labels.target, x_t, x_u, T(sums.distance), T(sums.weight), T(op.options.z_loss));
    totals.add_loss(double(loss), double(labels.target.weight));
    if (totals.statistics) {
      totals.add_row(rows.correctness(r, labels, best()), double(row.entropy(T(sums.spread), x_t)),
                     double(row.confidence()), double(row.max));
    }
  }
  if (op.reduction == Reduction::kNone) static_cast<T*>(op.loss)[r] = loss;
}

// The first class of a row that has this logit, from class `begin` on.
template <class T>
int64_t find_class(const LossRows<T>& rows, int64_t r, T logit, int64_t begin) {
  for (int64_t c = begin; c < rows.op.shape.classes; ++c) {
    if (rows.logit(r, c) == logit) return c;
  }
  return -1;
}

// segment_of(row, label, segment): the sums of a segment.
template <class T, class LeafOf>
void forward_row(const LossRows<T>& rows, int64_t r, const UnitTotals& totals, const LeafOf& segment_of) {
  const RowLabels<T> labels = rows.labels(r);
  SegmentSums<T> sums = segment_of(r, labels.first, 0);
  int64_t best_segment = 0;
  for (int64_t segment = 1; segment < rows.op.shape.segments(); ++segment) {
    const SegmentSums<T> next = segment_of(r, labels.first, segment);
    if (next.max > sums.max) best_segment = segment;
    sums = math::merge(sums, next);
  }
  finish_row(rows, r, labels, sums, totals,
             [&] { return find_class(rows, r, sums.max, best_segment * kClassSegment); });
}

// What a segment needs for the gradient of a row besides the logits.
template <class T>
struct PreparedRow {
  RowLabels<T> labels;
  math::RowGradient<T> gradient;
};

// The rows that are shared out are prepared in the workspace (cross_entropy_workspace); each has two segments
// at least.
static_assert(sizeof(PreparedRow<double>) <= (2 + 2) * 5 * sizeof(double), "the workspace is too small");

template <class T>
PreparedRow<T> prepare_row(const LossRows<T>& rows, int64_t r) {
  const CrossEntropy& op = rows.op;
  PreparedRow<T> row{rows.labels(r), math::RowGradient<T>::none()};
  if (!row.labels.counts) return row;
  const bool has_label = row.labels.first >= 0;
  const T max = static_cast<const T*>(op.max)[r], rest = static_cast<const T*>(op.rest)[r];
  const T x_t = has_label ? rows.logit(r, row.labels.first) : max;
  const auto softmax = math::RowSoftmax<T>::make(max, rest, x_t, has_label);
  row.gradient =
      math::RowGradient<T>::make(softmax, row.labels.target, rows.gradient(r), T(op.options.z_loss));
  return row;
}

// The gradients of a row's labels, counted from class `begin` on, whose n logits are at x. Called before any
// logit is overwritten.
template <Share kShare, class S, class T>
LabelGradients<S> gradients_of_labels(const PreparedRow<T>& row, int64_t begin, const S* x, const T* w,
                                      int64_t n) {
  LabelGradients<S> labels{{row.labels.first - begin, row.labels.second - begin}, {}};
  if (row.labels.first < 0) labels.at[0] = -1;
  if (row.labels.second < 0) labels.at[1] = -1;
  narrow(row.gradient.first, labels.value[0]);
  const int64_t second = labels.at[1];
  if (second < 0 || second >= n) return labels;
  const T weight = kShare == Share::kGiven ? w[second] : T(1);
  const T all = row.gradient.template at<kShare != Share::kNone>(widen(x[second]), weight);
  narrow(all + row.gradient.second, labels.value[1]);
  return labels;
}

// Writes the gradients of n classes from x to out. nontemporal: past the caches.
template <bool kSoftmax, Share kShare, class S, class T>
void walk_segment(const math::RowGradient<T>& row, const LabelGradients<S>& labels, const S* x, const T* w,
                  S* out, int64_t n, bool nontemporal) {
  const auto plain = [&](int64_t begin, int64_t end) {
    walk_classes<kSoftmax, kShare>(row, x + begin, w + begin, out + begin, end - begin);
    labels.store(begin, end - begin, out + begin);
  };
  if (!nontemporal) return plain(0, n);
  split_at_lines(out, n, plain, [&](int64_t begin, int64_t end) {
    walk_classes_nontemporal<kSoftmax, kShare>(row, labels, begin, x + begin, w + begin, out + begin,
                                               end - begin);
  });
}

template <Share kShare, class S, class T>
ONEPASS_CALLED void backward_segment(const CrossEntropy& op, int64_t r, const PreparedRow<T>& row,
                                     int64_t segment, const Output& dx, SegmentBuffers<S>& b) {
  const int64_t begin = segment * kClassSegment, left = op.shape.classes - begin,
                index = op.shape.index(r, begin);
  const int64_t n = left < kClassSegment ? left : kClassSegment;
  const T* w = kShare == Share::kGiven ? segment_weights(op, r, begin, n, b.w, b.work) : b.w;
  const S* x = read_strip(op.dtype, op.x, index, n, b.x);
  const bool direct = dx.template takes<S>();
  S* out = direct ? static_cast<S*>(dx.stored) + index : b.x;
  const LabelGradients<S> labels = gradients_of_labels<kShare>(row, begin, x, w, n);
  const bool nontemporal = direct && dx.nontemporal;
  row.gradient.has_softmax() ? walk_segment<true, kShare>(row.gradient, labels, x, w, out, n, nontemporal)
                             : walk_segment<false, kShare>(row.gradient, labels, x, w, out, n, nontemporal);
  if (direct) return;
  for (int64_t i = 0; i < n; i += kStrip) {
    dx.close(index + i, out + i, kStrip < n - i ? kStrip : n - i);
  }
}

}  // namespace onepass::ONEPASS_ISA
