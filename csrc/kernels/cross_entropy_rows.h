// cross_entropy_rows.h - what the CPU kernels of cross_entropy.cpp know of single rows: labels, results, totals.
#pragma once

#include "kernels/kernels.h"
#include "loops/class_columns.h"

namespace onepass::ONEPASS_ISA {

// The labels of a row, the one that counts more first; -1: none.
template <class T>
struct RowLabels {
  int64_t first = -1, second = -1;
  double lam_first = 0, lam_second = 0;
  bool counts = false;  // false: the row is ignored
  math::RowTarget<T> target{};
};

template <class T>
struct Rows {
  const CrossEntropy& op;
  double classes, all_weights;
  RowLabels<T> usual;  // without class weights and second labels: of every row that counts

  explicit Rows(const CrossEntropy& call) : op(call), classes(double(op.shape.classes)) {
    all_weights = classes;
    if (op.weight && op.share() == math::Share::kGiven) {
      all_weights = 0;
      for (int64_t c = 0; c < op.shape.classes; ++c) all_weights += weight_of(c);
    }
    usual.counts = true;
    usual.lam_first = 1;
    usual.target = math::RowTarget<T>::make({1, 1}, {}, op.options, classes, all_weights);
  }

  double weight_of(int64_t c) const {
    double value = 1;
    if (op.weight) load_row(op.weight_dtype, op.weight, c, &value, 1);
    return value;
  }
  T logit(int64_t row, int64_t c) const {
    T value = 0;
    load_row(op.dtype, op.x, op.shape.index(row, c), &value, 1);
    return value;
  }

  // -1 for a label that is ignored, or wrong: that is told.
  int64_t checked(int64_t label, int64_t row) const {
    if (label == op.ignore_index) return -1;
    if (label >= 0 && label < op.shape.classes) return label;
    if (op.bad_row) __atomic_store_n(op.bad_row, row, __ATOMIC_RELAXED);
    return -1;
  }

  RowLabels<T> labels(int64_t row) const {
    if (!op.target) {
      RowLabels<T> none;
      none.counts = true;
      if (op.grad) none.target = math::RowTarget<T>::of_probabilities(static_cast<const T*>(op.total)[row]);
      return none;
    }
    const int64_t a = checked(op.target[row], row);
    if (!op.second && !op.weight) {
      RowLabels<T> one = a < 0 ? RowLabels<T>{} : usual;
      one.first = a;
      return one;
    }
    const int64_t b = op.second ? checked(op.second[row], row) : -1;
    const double lam = !op.second  ? 1
                       : op.lams ? double(static_cast<const T*>(op.lams)[row / op.lam_rows])
                                 : op.lam;
    return two_labels(a, a < 0 ? 0 : lam, b, b < 0 ? 0 : 1 - lam);
  }

  RowLabels<T> two_labels(int64_t a, double lam_a, int64_t b, double lam_b) const {
    RowLabels<T> found;
    if (a == b) {
      lam_a += lam_b;
      lam_b = 0;
    }
    const bool swapped = lam_b > lam_a;
    found.first = swapped ? b : a;
    found.second = swapped ? a : b;
    found.lam_first = swapped ? lam_b : lam_a;
    found.lam_second = swapped ? lam_a : lam_b;
    if (found.lam_second == 0) found.second = -1;
    found.counts = found.first >= 0;
    if (!found.counts) return found;
    const math::Label one{found.lam_first, weight_of(found.first)};
    const math::Label other{found.lam_second, found.second < 0 ? 1 : weight_of(found.second)};
    found.target = math::RowTarget<T>::make(one, other, op.options, classes, all_weights);
    return found;
  }

  double correctness(int64_t row, const RowLabels<T>& labels, int64_t best) const {
    if (op.target) {
      return (best == labels.first ? labels.lam_first : 0) + (best == labels.second ? labels.lam_second : 0);
    }
    double value = 0;
    if (best >= 0) load_row(op.probabilities_dtype, op.probabilities, op.shape.index(row, best), &value, 1);
    return value;
  }

  // A row's upstream gradient.
  T gradient(int64_t row) const {
    const T* grad = static_cast<const T*>(op.grad);
    if (op.reduction == Reduction::kNone) return grad[row];
    return op.reduction == Reduction::kSum ? grad[0] : T(double(grad[0]) / op.totals[kWeightSum]);
  }
};

// Sums over the rows of a unit; statistics only if they are wanted.
struct UnitTotals {
  double* at;
  bool statistics;

  static int64_t size(const CrossEntropy& op) { return op.statistics ? kTotals : kAllWeights; }
  void clear(const CrossEntropy& op) const {
    for (int64_t k = 0; k < size(op); ++k) at[k] = k == kLargest ? double(kLowest<float>) : 0;
  }
  void add_loss(double loss, double weight) const {
    at[kLossSum] += loss;
    at[kWeightSum] += weight;
  }
  void add_row(double correct, double entropy, double confidence, double largest) const {
    at[kCounted] += 1;
    at[kCorrect] += correct;
    at[kEntropy] += entropy;
    at[kLargest] = math::larger(at[kLargest], largest);
    if (!(confidence >= 0)) return;
    const int scaled = int(confidence * kBinCount), bin = scaled < kBinCount ? scaled : kBinCount - 1;
    at[kBins + bin] += 1;
    at[kBins + kBinCount + bin] += correct;
    at[kBins + 2 * kBinCount + bin] += confidence;
  }
};

}  // namespace onepass::ONEPASS_ISA
