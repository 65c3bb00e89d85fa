// cross_entropy.h - what the kernels of the cross-entropy loss are given: cross_entropy.cpp and
// cross_entropy.cu.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "loops/classes/shape.h"
#include "math/cross_entropy.h"

namespace onepass {

enum class Reduction { kNone, kMean, kSum };

// What forward adds up over the rows, in double. Statistics from kCounted on.
constexpr int kLossSum = 0, kWeightSum = 1;
constexpr int kAllWeights = 2;  // of the classes: no sum over rows
constexpr int kCounted = 3, kCorrect = 4, kEntropy = 5, kLargest = 6, kBins = 7;
constexpr int kBinCount = 15;  // of [0, 1]: rows, their correctness, their confidence in each
constexpr int kTotals = kBins + 3 * kBinCount;

// One call. nullptr: not there. T is double for float64 logits, else float.
struct CrossEntropy {
  ClassShape shape;
  DType dtype = DType::kFloat32;
  const void* x = nullptr;          // logits
  const int64_t* target = nullptr;  // a label each row, or probabilities
  const int64_t* second = nullptr;
  double lam = 1;                       // of the first label,
  const void* lams = nullptr;           // or T, one each sample,
  int64_t lam_rows = 1;                 // each of this many rows
  const void* probabilities = nullptr;  // lie as x does
  DType probabilities_dtype = DType::kFloat32;
  const void* weight = nullptr;  // one each class
  DType weight_dtype = DType::kFloat32;
  int64_t ignore_index = -100;
  math::LossOptions options;
  Reduction reduction = Reduction::kMean;
  bool statistics = false;

  void* loss = nullptr;  // T: each row's, or one
  void* max = nullptr;   // T each row: written by forward, read by backward
  void* rest = nullptr;
  void* total = nullptr;     // of the weighted probabilities, likewise
  double* totals = nullptr;  // kTotals of them, likewise
  double* workspace = nullptr;
  int64_t* bad_row = nullptr;  // set to a row whose label is none of the classes; on the CPU only

  const void* grad = nullptr;  // T: each row's, or one
  void* dx = nullptr;          // may be x

  math::Share share() const {
    if (probabilities) return math::Share::kGiven;
    if (options.smoothing == 0) return math::Share::kNone;
    return weight ? math::Share::kGiven : math::Share::kEqual;
  }
};

// LossRows are so few that each is shared out among threads.
inline bool splits_rows(const ClassShape& shape, int threads) {
  return threads > 1 && !shape.walks_columns() && shape.segments() > 1 && shape.rows() < 4 * threads;
}

}  // namespace onepass
