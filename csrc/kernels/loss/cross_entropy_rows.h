// cross_entropy_rows.h - what the CPU kernels of cross_entropy.cpp know about single rows: labels, results,
// totals.
#pragma once

#include "kernels/kernels.h"
#include "loops/classes/columns.h"

namespace onepass::ONEPASS_ISA {

using math::RowLabels;

template <class T>
struct LossRows {
  const CrossEntropy& op;
  double classes, all_weights;
  T grad_of_all = 0;   // with a reduction
  RowLabels<T> usual;  // of every row that counts, without class weights and second labels

  explicit LossRows(const CrossEntropy& call) : op(call), classes(double(op.shape.classes)) {
    all_weights = classes;
    if (op.weight && op.share() == math::Share::kGiven) {
      all_weights = 0;
      for (int64_t c = 0; c < op.shape.classes; ++c) all_weights += weight_of(c);
    }
    if (op.grad && op.reduction != Reduction::kNone) {
      const double grad = double(*static_cast<const T*>(op.grad));
      grad_of_all = T(op.reduction == Reduction::kSum ? grad : grad / op.totals[kWeightSum]);
    }
    usual.counts = true;
    usual.lam_first = 1;
    usual.target = math::RowTarget<T>::make({1, 1}, {}, op.options, classes, all_weights);
  }

  double weight_of(int64_t c) const {
    double value = 1;
    if (op.weight) load_strip(op.weight_dtype, op.weight, c, &value, 1);
    return value;
  }
  T logit(int64_t row, int64_t c) const {
    T value = 0;
    load_strip(op.dtype, op.x, op.shape.index(row, c), &value, 1);
    return value;
  }

  // The label, or -1 if it is ignored. A wrong label is reported by bad_row and counts as ignored.
  int64_t checked(int64_t label, int64_t row) const {
    if (label == op.ignore_index) return -1;
    if (label >= 0 && label < op.shape.classes) return label;
    if (op.bad_row) __atomic_store_n(op.bad_row, row, __ATOMIC_RELAXED);
    return -1;
  }

  RowLabels<T> labels(int64_t row) const {
    if (!op.target) {
      return RowLabels<T>::of_probabilities(op.grad ? static_cast<const T*>(op.total)[row] : T(1));
    }
    const int64_t a = checked(op.target[row], row);
    if (!op.second && !op.weight) {
      RowLabels<T> one = a < 0 ? RowLabels<T>{} : usual;
      one.first = a;
      return one;
    }
    const int64_t b = op.second ? checked(op.second[row], row) : -1;
    const double lam = !op.second ? 1
                       : op.lams  ? double(static_cast<const T*>(op.lams)[row / op.lam_rows])
                                  : op.lam;
    return RowLabels<T>::make(a, lam, b, 1 - lam, op.options, classes, all_weights,
                              [this](int64_t c) { return weight_of(c); });
  }

  double correctness(int64_t row, const RowLabels<T>& labels, int64_t best) const {
    if (op.target) return labels.correctness(best);
    double value = 0;
    if (best >= 0) load_strip(op.probabilities_dtype, op.probabilities, op.shape.index(row, best), &value, 1);
    return value;
  }

  // A row's upstream gradient.
  T gradient(int64_t row) const {
    return op.reduction == Reduction::kNone ? static_cast<const T*>(op.grad)[row] : grad_of_all;
  }
};

// Sums over the rows of a unit; statistics only if they are asked for.
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
