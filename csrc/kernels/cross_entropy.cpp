// cross_entropy.cpp - the cross-entropy loss on the CPU: math/cross_entropy.h over loops/class_rows.h and
// loops/class_columns.h. CUDA: cross_entropy.cu.
//
// Forward reads the logits once, backward reads them once and writes the gradient: 12 bytes an element in
// float32. Probabilities are read in both, too.

#include "kernels/cross_entropy_tiles.h"

namespace onepass::ONEPASS_ISA {
namespace {

// Calls run(template arguments as values) for how the classes count and whether entropy is wanted.
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

// The weights w_c of a leaf of a row: the classes', or what probabilities and classes' make.
template <class T>
const T* leaf_weights(const CrossEntropy& op, int64_t row, int64_t c, int64_t n, T* buffer, T* work) {
  const T* w = buffer;
  if (op.weight) {
    w = read_row(op.weight_dtype, op.weight, c, n, buffer);
  } else {
    for (int64_t i = 0; i < n; ++i) buffer[i] = 1;
  }
  if (!op.probabilities) return w;
  const T* y = read_row(op.probabilities_dtype, op.probabilities, op.shape.index(row, c), n, work);
  const double smoothing = op.options.smoothing;
  smooth_classes(y, w, T(1 - smoothing), T(smoothing / double(op.shape.classes)), work, n);
  return work;
}

template <class T>
struct LeafBuffers {
  alignas(64) T x[kClassLeaf];
  alignas(64) T w[kClassLeaf];
  alignas(64) T work[kClassLeaf];
};

// The logit around which the sums of a row are formed.
template <class T>
T shift_of_row(const CrossEntropy& op, int64_t row, LeafBuffers<T>& b) {
  const int64_t n = op.shape.classes < kClassLeaf ? op.shape.classes : kClassLeaf;
  return largest_class(read_row(op.dtype, op.x, op.shape.index(row, 0), n, b.x), n);
}

template <class T, Share kShare, bool kSpread>
LeafSums<T> leaf_sums(const CrossEntropy& op, T shift, int64_t row, int64_t label, int64_t leaf,
                      LeafBuffers<T>& b) {
  const int64_t c = leaf * kClassLeaf, rest = op.shape.classes - c, n = rest < kClassLeaf ? rest : kClassLeaf;
  const T* x = read_row(op.dtype, op.x, op.shape.index(row, c), n, b.x);
  const T* w = kShare == Share::kGiven ? leaf_weights(op, row, c, n, b.w, b.work) : x;
  return reduce_leaf<T, kShare, kSpread>(shift, x, w, n, label - c);
}

// Stores what follows from the sums of a row, and adds it to the totals. best: the class with the largest
// logit.
template <class T, class Best>
void finish_row(const Rows<T>& rows, int64_t r, RowLabels<T> labels, const LeafSums<T>& sums,
                const UnitTotals& totals, const Best& best) {
  const CrossEntropy& op = rows.op;
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
int64_t find_class(const Rows<T>& rows, int64_t r, T logit, int64_t begin) {
  for (int64_t c = begin; c < rows.op.shape.classes; ++c) {
    if (rows.logit(r, c) == logit) return c;
  }
  return -1;
}

template <class T>
UnitTotals totals_of(const CrossEntropy& op, int64_t unit) {
  const UnitTotals totals{op.workspace + unit * UnitTotals::size(op), op.statistics};
  totals.clear(op);
  return totals;
}

// leaf_of(row, label, leaf): the sums of a leaf.
template <class T, class LeafOf>
void forward_row(const Rows<T>& rows, int64_t r, const UnitTotals& totals, const LeafOf& leaf_of) {
  const RowLabels<T> labels = rows.labels(r);
  LeafSums<T> sums = leaf_of(r, labels.first, 0);
  int64_t best_leaf = 0;
  for (int64_t leaf = 1; leaf < rows.op.shape.leaves(); ++leaf) {
    const LeafSums<T> next = leaf_of(r, labels.first, leaf);
    if (next.max > sums.max) best_leaf = leaf;
    sums = math::merge(sums, next);
  }
  finish_row(rows, r, labels, sums, totals,
             [&] { return find_class(rows, r, sums.max, best_leaf * kClassLeaf); });
}

template <class T, Share kShare, bool kSpread>
void forward_rows(const Rows<T>& rows, int threads) {
  const CrossEntropy& op = rows.op;
  const ClassShape& shape = op.shape;
  const int64_t leaves = shape.leaves();
  const bool splits = splits_rows(shape, threads);
  auto* parts = reinterpret_cast<LeafSums<T>*>(op.workspace + shape.units() * UnitTotals::size(op));
  if (splits) {
    for_each_unit(threads, shape.rows() * leaves, [&](int64_t i) {
      LeafBuffers<T> buffers;
      const int64_t r = i / leaves;
      const T shift = shift_of_row(op, r, buffers);
      parts[i] = leaf_sums<T, kShare, kSpread>(op, shift, r, rows.labels(r).first, i % leaves, buffers);
    });
  }
  for_each_unit(splits ? 1 : threads, shape.units(), [&](int64_t unit) {
    LeafBuffers<T> buffers;
    const UnitTotals totals = totals_of<T>(op, unit);
    const int64_t begin = unit * shape.unit_rows(), end = begin + shape.unit_rows();
    for (int64_t r = begin; r < end && r < shape.rows(); ++r) {
      const T shift = splits ? T(0) : shift_of_row(op, r, buffers);
      forward_row(rows, r, totals, [&](int64_t row, int64_t label, int64_t leaf) {
        if (splits) return parts[row * leaves + leaf];
        return leaf_sums<T, kShare, kSpread>(op, shift, row, label, leaf, buffers);
      });
    }
  });
}

template <class T, Share kShare, bool kSpread>
void forward_columns(const Rows<T>& rows, int threads) {
  const ClassShape& shape = rows.op.shape;
  for_each_unit(threads, shape.units(), [&](int64_t unit) {
    TileBuffers<T> buffers;
    const UnitTotals totals = totals_of<T>(rows.op, unit);
    for_tiles(shape, unit,
              [&](Tile& tile) { forward_tile<T, kShare, kSpread>(rows, tile, buffers, totals); });
  });
}

// The units' subtotals put together in their order, and the loss they make.
template <class T>
void conclude(const Rows<T>& rows) {
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

template <class T>
void forward(const CrossEntropy& op, int threads) {
  const Rows<T> rows(op);
  with_terms(op, [&](auto share, auto spread) {
    constexpr Share kShare = decltype(share)::value;
    constexpr bool kSpread = decltype(spread)::value;
    if (op.shape.walks_columns()) return forward_columns<T, kShare, kSpread>(rows, threads);
    forward_rows<T, kShare, kSpread>(rows, threads);
  });
  conclude(rows);
}

Output gradient_of(const CrossEntropy& op) {
  // In place the lines are in the cache already.
  const bool streams = op.dx != op.x && op.shape.numel() * size_of(op.dtype) >= kStreamedBytes;
  return {op.dtype, op.dx, streams};
}

// A row's gradient but for its logits: what a leaf needs.
template <class T>
struct PreparedRow {
  RowLabels<T> labels;
  math::RowGradient<T> gradient;
};

template <class T>
PreparedRow<T> prepare_row(const Rows<T>& rows, int64_t r) {
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

template <Share kShare, class T>
void backward_leaf(const CrossEntropy& op, int64_t r, const PreparedRow<T>& row, int64_t leaf,
                   const Output& dx, LeafBuffers<T>& b) {
  const int64_t begin = leaf * kClassLeaf, left = op.shape.classes - begin;
  const int64_t count = left < kClassLeaf ? left : kClassLeaf;
  const T* weights = kShare == Share::kGiven ? leaf_weights(op, r, begin, count, b.w, b.work) : nullptr;
  for (int64_t i = 0; i < count; i += kChannelRow) {
    const int64_t n = kChannelRow < count - i ? kChannelRow : count - i, c = begin + i;
    const int64_t index = op.shape.index(r, c);
    const T* x = read_row(op.dtype, op.x, index, n, b.x);
    T* out = dx.open(index, b.x + kChannelRow);
    walk_classes<kShare>(row.gradient, x, weights ? weights + i : x, out, n);
    const int64_t first = row.labels.first - c, second = row.labels.second - c;
    if (row.labels.first >= 0 && first >= 0 && first < n) out[first] = row.gradient.first;
    if (row.labels.second >= 0 && second >= 0 && second < n) out[second] += row.gradient.second;
    dx.close(index, out, n);
  }
}

template <Share kShare, class T>
void backward_rows(const Rows<T>& rows, int threads) {
  const CrossEntropy& op = rows.op;
  const ClassShape& shape = op.shape;
  const Output dx = gradient_of(op);
  const int64_t leaves = shape.leaves();
  if (splits_rows(shape, threads)) {
    // In place a leaf overwrites the label's logit, which the others need: all rows are prepared before.
    auto* prepared = reinterpret_cast<PreparedRow<T>*>(op.workspace);
    for (int64_t r = 0; r < shape.rows(); ++r) prepared[r] = prepare_row(rows, r);
    return for_each_unit(threads, shape.rows() * leaves, [&](int64_t i) {
      LeafBuffers<T> buffers;
      backward_leaf<kShare>(op, i / leaves, prepared[i / leaves], i % leaves, dx, buffers);
    });
  }
  for_each_unit(threads, shape.units(), [&](int64_t unit) {
    LeafBuffers<T> buffers;
    const int64_t begin = unit * shape.unit_rows(), end = begin + shape.unit_rows();
    for (int64_t r = begin; r < end && r < shape.rows(); ++r) {
      const PreparedRow<T> row = prepare_row(rows, r);
      for (int64_t leaf = 0; leaf < leaves; ++leaf) backward_leaf<kShare>(op, r, row, leaf, dx, buffers);
    }
  });
}

template <Share kShare, class T>
void backward_columns(const Rows<T>& rows, int threads) {
  const CrossEntropy& op = rows.op;
  const Output dx = gradient_of(op);
  for_each_unit(threads, op.shape.units(), [&](int64_t unit) {
    TileBuffers<T> b;
    TileGradients<T> gradients;
    for_tiles(op.shape, unit, [&](Tile& tile) {
      const bool fits = op.shape.classes * tile.stride <= kTileElements;
      if (!fits) prepare_tile(op, tile, rows, b, gradients);
      for_leaves<kShare>(op, tile, b, [&] {
        if (fits) prepare_tile(op, tile, rows, b, gradients);
        walk_tile<kShare>(tile, gradients, b.w, b.rows.label, b.x);
        if (b.rows.has_second) add_second(tile, gradients, b.rows.other, b.x);
        store_tile(tile, dx, b.x, b.work);
      });
    });
  });
}

template <class T>
void backward(const CrossEntropy& op, int threads) {
  const Rows<T> rows(op);
  const Share share = op.share();
  const auto run = [&](auto kind) {
    constexpr Share kShare = decltype(kind)::value;
    op.shape.walks_columns() ? backward_columns<kShare>(rows, threads) : backward_rows<kShare>(rows, threads);
  };
  if (share == Share::kNone) return run(std::integral_constant<Share, Share::kNone>{});
  if (share == Share::kEqual) return run(std::integral_constant<Share, Share::kEqual>{});
  run(std::integral_constant<Share, Share::kGiven>{});
}

int threads_of(const ClassShape& shape, int threads) {
  constexpr int64_t kLeastElements = 8 * 1024;
  const int64_t most = shape.numel() / kLeastElements + 1;
  return threads < most ? threads : int(most);
}

}  // namespace

void cross_entropy_forward(const CrossEntropy& op, const Launch& launch) {
  const int threads = threads_of(op.shape, launch.threads);
  op.dtype == DType::kFloat64 ? forward<double>(op, threads) : forward<float>(op, threads);
}

void cross_entropy_backward(const CrossEntropy& op, const Launch& launch) {
  const int threads = threads_of(op.shape, launch.threads);
  op.dtype == DType::kFloat64 ? backward<double>(op, threads) : backward<float>(op, threads);
}

namespace {

template <class T>
ONEPASS_WALK void exponential_row(const T* __restrict x, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = math::exponential(x[i]);
}

}  // namespace

void exponential(DType dtype, const void* x, void* y, int64_t n, const Launch&) {
  if (dtype == DType::kFloat64)
    return exponential_row(static_cast<const double*>(x), static_cast<double*>(y), n);
  exponential_row(static_cast<const float*>(x), static_cast<float*>(y), n);
}

}  // namespace onepass::ONEPASS_ISA
