// cross_entropy_panels.h - the CPU kernels of cross_entropy.cpp for rows side by side
// (loops/classes/columns.h).
#pragma once

#include "kernels/loss/cross_entropy_rows.h"
#include "loops/common/units.h"

namespace onepass::ONEPASS_ISA {

using math::Share;

// What is known of each row of a panel, a lane each.
template <class T>
struct PanelRows {
  alignas(64) PerRow<T> first, second, share, total, total_less, weight, of_label;
  alignas(64) PerRow<T> grad;
  alignas(64) PerRow<int32_t> label, other;
  alignas(64) PerRow<int32_t> counts;
  alignas(64) PerRow<T> loss, entropy, confidence;
  double lam_first[kPanelMostRows], lam_second[kPanelMostRows];
  bool has_second;
  bool filled_whole = false;

  void fill(const LossRows<T>& rows, const Panel& panel) {
    has_second = false;
    if (rows.op.target && !rows.op.second && !rows.op.weight && fill_usual(rows, panel)) return;
    filled_whole = false;
    for (int64_t l = 0; l < panel.width(); ++l) {
      const RowLabels<T> labels = l < panel.rows ? rows.labels(panel.begin + l) : RowLabels<T>{};
      first[l] = labels.target.first;
      second[l] = labels.target.second;
      share[l] = labels.target.share;
      total[l] = labels.target.total;
      total_less[l] = labels.target.total_less;
      weight[l] = labels.target.weight;
      of_label[l] = labels.target.of_label;
      label[l] = int32_t(labels.first);
      other[l] = int32_t(labels.second);
      counts[l] = labels.counts ? 1 : 0;
      lam_first[l] = labels.lam_first;
      lam_second[l] = labels.lam_second;
      has_second |= labels.second >= 0;
    }
  }
  // The same without class weights and second labels, in wide code. Returns false if a label is none of the
  // classes.
  bool fill_usual(const LossRows<T>& rows, const Panel& panel) {
    const int64_t classes = rows.op.shape.classes, ignored = rows.op.ignore_index;
    const int64_t* target = rows.op.target + panel.begin;
    int32_t wrong = 0, missing = 0;
    ONEPASS_INDEPENDENT
    for (int64_t l = 0; l < panel.rows; ++l) {
      const bool inside = uint64_t(target[l]) < uint64_t(classes), counted = target[l] != ignored;
      label[l] = inside & counted ? int32_t(target[l]) : -1;
      wrong |= counted & !inside ? 1 : 0;
      missing |= inside & counted ? 0 : 1;
    }
    for (int64_t l = panel.rows; l < panel.width(); ++l) label[l] = -1;
    const bool whole = missing == 0 && panel.rows == panel.stride;
    // Where all rows count, their values are the same in every panel.
    if (!whole || !filled_whole) fill_counted(rows.usual.target, panel.width());
    filled_whole = whole;
    return wrong == 0;
  }
  void fill_counted(const math::RowTarget<T>& usual, int64_t width) {
    for (int64_t l = 0; l < width; ++l) {
      const bool counted = label[l] >= 0;
      first[l] = counted ? usual.first : T(0);
      second[l] = T(0);
      share[l] = counted ? usual.share : T(0);
      total[l] = counted ? usual.total : T(0);
      total_less[l] = counted ? usual.total_less : T(0);
      weight[l] = counted ? usual.weight : T(0);
      of_label[l] = counted ? usual.of_label : T(0);
      other[l] = -1;
      counts[l] = counted ? 1 : 0;
      lam_first[l] = 1;
      lam_second[l] = 0;
    }
  }
  math::RowTarget<T> target(int64_t l) const {
    return {first[l], second[l], share[l], total[l], total_less[l], weight[l], of_label[l]};
  }
  // With probabilities the row's sums take the place of labels.
  void take_probabilities(const T* totals, int64_t width) {
    for (int64_t l = 0; l < width; ++l) {
      const auto all = math::RowTarget<T>::of_probabilities(totals[l]);
      share[l] = all.share;
      total[l] = total_less[l] = all.total;
      weight[l] = all.weight;
    }
  }
};

template <class T>
struct PanelBuffers {
  alignas(64) T x[kPanelElements];
  alignas(64) T w[kPanelElements];
  alignas(64) T work[kPanelElements];
  PanelSums<T> sums;
  PanelRows<T> rows;
};

// The weights of a segment of a panel: see segment_weights.
template <class T>
inline void load_weights(const CrossEntropy& op, const Panel& panel, PanelBuffers<T>& b) {
  const double smoothing = op.options.smoothing;
  const T share = T(smoothing / double(op.shape.classes));
  if (op.probabilities) load_panel(panel, op.probabilities_dtype, op.probabilities, b.x, b.work);
  T weight = 1;
  for (int64_t c = 0; c < panel.classes; ++c) {
    if (op.weight) load_strip(op.weight_dtype, op.weight, panel.first_class + c, &weight, 1);
    T* w = b.w + c * panel.stride;
    for (int64_t l = 0; l < panel.width(); ++l) w[l] = weight;
    if (op.probabilities)
      smooth_classes(b.x + c * panel.stride, w, T(1 - smoothing), share, w, panel.width());
  }
}

template <bool kSpread, class T>
ONEPASS_WALK void finish_panel(PanelSums<T>& sums, PanelRows<T>& rows, T z_loss, int64_t width) {
  ONEPASS_INDEPENDENT
  for (int64_t l = 0; l < width; ++l) {
    const auto settled = math::settled(sums.at(l));
    sums.rest[l] = settled.rest;
    sums.spread[l] = settled.spread;
    const T max = sums.max[l], x_t = rows.label[l] >= 0 ? sums.x_first[l] : max;
    const auto row = math::RowSoftmax<T>::make(max, sums.rest[l], x_t, rows.label[l] >= 0);
    const T loss =
        math::row_loss(row, rows.target(l), x_t, sums.x_second[l], sums.distance[l], sums.weight[l], z_loss);
    rows.loss[l] = rows.counts[l] != 0 ? loss : T(0);
    if constexpr (kSpread) {
      rows.confidence[l] = row.confidence();
      rows.entropy[l] = row.entropy(sums.spread[l], x_t);
    }
  }
}

// Calls visit() with each segment of a panel in b.x, and its weights in b.w.
template <Share kShare, class T, class Visit>
inline void for_segments(const CrossEntropy& op, Panel& panel, PanelBuffers<T>& b, const Visit& visit) {
  const int64_t most = kPanelElements / panel.stride;
  for (panel.first_class = 0; panel.first_class < op.shape.classes; panel.first_class += most) {
    const int64_t left = op.shape.classes - panel.first_class;
    panel.classes = left < most ? left : most;
    if (kShare == Share::kGiven) load_weights(op, panel, b);
    load_panel(panel, op.dtype, op.x, b.x, b.work);
    visit();
  }
}

// Element i goes to lane i % 16, in double: fixed bits.
template <class T>
ONEPASS_WALK double sum_counted(const T* __restrict lane, const int32_t* __restrict counts, int64_t n) {
  alignas(64) double sum[kPanelStep] = {};
  int64_t i = 0;
  for (; i + kPanelStep <= n; i += kPanelStep) {
    ONEPASS_LANES
    for (int l = 0; l < kPanelStep; ++l) sum[l] += counts[i + l] != 0 ? double(lane[i + l]) : 0.0;
  }
  for (int l = 0; i + l < n; ++l) sum[l] += counts[i + l] != 0 ? double(lane[i + l]) : 0.0;
  return sum_lanes<kPanelStep>(sum);
}

template <class T>
void add_statistics(const LossRows<T>& known, const Panel& panel, const PanelBuffers<T>& b,
                    const UnitTotals& totals) {
  const PanelRows<T>& rows = b.rows;
  for (int64_t l = 0; l < panel.rows; ++l) {
    if (rows.counts[l] == 0) continue;
    RowLabels<T> labels;
    labels.first = rows.label[l];
    labels.second = rows.other[l];
    labels.lam_first = rows.lam_first[l];
    labels.lam_second = rows.lam_second[l];
    totals.add_row(known.correctness(panel.begin + l, labels, b.sums.best[l]), double(rows.entropy[l]),
                   double(rows.confidence[l]), double(b.sums.max[l]));
  }
}

template <class T, Share kShare, bool kSpread>
inline void forward_panel(const LossRows<T>& known, Panel& panel, PanelBuffers<T>& b,
                          const UnitTotals& totals) {
  const CrossEntropy& op = known.op;
  const int64_t width = panel.width();
  PanelSums<T>& sums = b.sums;
  PanelRows<T>& rows = b.rows;
  rows.fill(known, panel);
  for (int64_t l = 0; l < width; ++l) {
    sums.max[l] = sums.segment_max[l] = kLowest<T>;
    sums.rest[l] = sums.distance[l] = sums.weight[l] = sums.spread[l] = sums.x_first[l] = sums.x_second[l] =
        0;
    sums.best[l] = -1;
  }
  for_segments<kShare>(op, panel, b, [&] {
    find_largest<kSpread>(panel, b.x, sums);
    raise_panel(sums, width);
    add_panel<kShare, kSpread>(panel, b.x, b.w, rows.label, sums);
    if (rows.has_second) pick_labels(panel, b.x, rows.other, sums.x_second);
  });
  if (op.probabilities) rows.take_probabilities(sums.weight, width);
  finish_panel<kSpread>(sums, rows, T(op.options.z_loss), width);
  const auto keep = [&](void* kept, const T* lane) {
    if (kept) std::memcpy(static_cast<T*>(kept) + panel.begin, lane, size_t(panel.rows) * sizeof(T));
  };
  keep(op.max, sums.max);
  keep(op.rest, sums.rest);
  keep(op.total, sums.weight);
  if (op.reduction == Reduction::kNone) keep(op.loss, rows.loss);
  totals.add_loss(sum_counted(rows.loss, rows.counts, panel.rows),
                  sum_counted(rows.weight, rows.counts, panel.rows));
  if (kSpread) add_statistics(known, panel, b, totals);
}

// visit(panel) for the panels of a unit.
template <class Visit>
inline void for_panels(const ClassShape& shape, int64_t unit, const Visit& visit) {
  const int64_t begin = unit * shape.unit_rows(), most = begin + shape.unit_rows();
  const int64_t end = most < shape.rows() ? most : shape.rows(), step = shape.panel_rows();
  for (int64_t r = begin; r < end; r += step) {
    Panel panel{shape, r, step < end - r ? step : end - r, step};
    visit(panel);
  }
}

template <class T>
ONEPASS_WALK void fill_gradients(const PanelSums<T>& sums, const PanelRows<T>& rows, T z_loss, int64_t width,
                                 PanelGradients<T>& gradients) {
  ONEPASS_INDEPENDENT
  for (int64_t l = 0; l < width; ++l) {
    const auto row =
        math::RowSoftmax<T>::make(sums.max[l], sums.rest[l], sums.x_first[l], rows.label[l] >= 0);
    const auto made = math::RowGradient<T>::make(row, rows.target(l), rows.grad[l], z_loss);
    const bool counts = rows.counts[l] != 0;
    gradients.exp_shift[l] = made.exp.shift;
    gradients.exp_least[l] = made.exp.least;
    gradients.max[l] = made.max;
    gradients.scale[l] = counts ? made.scale : T(0);
    gradients.share[l] = counts ? made.share : T(0);
    gradients.first[l] = made.first;
    gradients.second[l] = made.second;
  }
}

// Makes the factors of the gradients of a panel's rows from what forward kept. The labels' logits are in the
// buffer if all classes are; else they are looked up.
template <class T>
inline void prepare_panel(const CrossEntropy& op, const Panel& panel, const LossRows<T>& known,
                          PanelBuffers<T>& b, PanelGradients<T>& gradients) {
  PanelRows<T>& rows = b.rows;
  PanelSums<T>& sums = b.sums;
  rows.fill(known, panel);
  for (int64_t l = panel.rows; l < panel.width(); ++l) {
    sums.max[l] = rows.grad[l] = T(0);
    sums.rest[l] = T(1);
  }
  std::memcpy(sums.max, static_cast<const T*>(op.max) + panel.begin, size_t(panel.rows) * sizeof(T));
  std::memcpy(sums.rest, static_cast<const T*>(op.rest) + panel.begin, size_t(panel.rows) * sizeof(T));
  std::memcpy(sums.x_first, sums.max, size_t(panel.width()) * sizeof(T));
  if (panel.classes > 0) {
    pick_labels(panel, b.x, rows.label, sums.x_first);
  } else {
    for (int64_t l = 0; l < panel.rows; ++l) {
      if (rows.label[l] >= 0) sums.x_first[l] = known.logit(panel.begin + l, rows.label[l]);
    }
  }
  for (int64_t l = 0; l < panel.rows; ++l) rows.grad[l] = known.gradient(panel.begin + l);
  fill_gradients(sums, rows, T(op.options.z_loss), panel.width(), gradients);
}

}  // namespace onepass::ONEPASS_ISA
