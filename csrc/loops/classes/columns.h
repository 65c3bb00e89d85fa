// columns.h - walks over panels of rows side by side, on the CPU: for classes that lie apart in memory
// (inner > 1), and for rows of so few classes that a walk along them would be all beginnings and ends.
//
// A vector holds one class of several rows. A panel of up to kPanelMostRows rows is copied class by class
// into a buffer of kPanelElements, the only read from memory. Classes that do not fit follow in further
// segments, and the sums so far are raised to each new maximum. A row's result depends on its own logits
// only, whatever panel it is in.
#pragma once

#include "loops/classes/rows.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kPanelStep = 16;
constexpr int64_t kClassesAtOnce = 16;

// Some rows, from `begin` on, and the classes of them that are in the buffer: class `first_class` + c of row
// begin + l at [c * stride + l].
struct Panel {
  const ClassShape& shape;
  int64_t begin, rows, stride;
  int64_t first_class = 0, classes = 0;

  // Lanes that are computed: whole vectors.
  int64_t width() const { return (rows + kPanelStep - 1) / kPanelStep * kPanelStep; }

  // visit(index, lane, n): n rows of class c that follow each other in memory.
  template <class Visit>
  void for_runs(int64_t c, const Visit& visit) const {
    for (int64_t lane = 0; lane < rows;) {
      const int64_t row = begin + lane, left = shape.inner - row % shape.inner;
      const int64_t n = left < rows - lane ? left : rows - lane;
      visit(shape.index(row, first_class + c), lane, n);
      lane += n;
    }
  }
};

template <class T>
ONEPASS_WALK void transpose_panel(const T* __restrict from, int64_t rows, int64_t classes, int64_t stride,
                                  T* __restrict to) {
  for (int64_t l = 0; l < rows; ++l) {
    for (int64_t c = 0; c < classes; ++c) to[c * stride + l] = from[l * classes + c];
  }
}

// buffer: receives the panel's elements; work: a second buffer of that size. Lanes beyond the rows are 0.
template <class T>
inline void load_panel(const Panel& panel, DType dtype, const void* stored, T* buffer, T* work) {
  for (int64_t c = 0; c < panel.classes && panel.rows < panel.width(); ++c) {
    for (int64_t l = panel.rows; l < panel.width(); ++l) buffer[c * panel.stride + l] = T(0);
  }
  if (panel.shape.inner == 1) {
    const int64_t begin = panel.begin * panel.classes, n = panel.rows * panel.classes;
    return transpose_panel(read_strip(dtype, stored, begin, n, work), panel.rows, panel.classes, panel.stride,
                           buffer);
  }
  for (int64_t c = 0; c < panel.classes; ++c) {
    panel.for_runs(c, [&](int64_t index, int64_t lane, int64_t n) {
      load_strip(dtype, stored, index, buffer + c * panel.stride + lane, n);
      // The logits of the next panel lie behind these.
      fetch_elements(dtype, stored, index + n, n);
    });
  }
}

template <class T>
ONEPASS_WALK void transpose_back(const T* __restrict from, int64_t rows, int64_t classes, int64_t stride,
                                 T* __restrict to) {
  for (int64_t l = 0; l < rows; ++l) {
    for (int64_t c = 0; c < classes; ++c) to[l * classes + c] = from[c * stride + l];
  }
}

template <class T>
inline void store_panel(const Panel& panel, const Output& output, const T* buffer, T* work) {
  if (panel.shape.inner == 1) {
    const int64_t begin = panel.begin * panel.classes, n = panel.rows * panel.classes;
    transpose_back(buffer, panel.rows, panel.classes, panel.stride, work);
    for (int64_t i = 0; i < n; i += kStrip) {
      output.copy(begin + i, work + i, kStrip < n - i ? kStrip : n - i);
    }
    return;
  }
  for (int64_t c = 0; c < panel.classes; ++c) {
    panel.for_runs(c, [&](int64_t index, int64_t lane, int64_t n) {
      output.copy(index, buffer + c * panel.stride + lane, n);
    });
  }
}

// One number for each row of a panel.
template <class T>
using PerRow = T[kPanelMostRows];

template <class T>
struct PanelSums {
  alignas(64) PerRow<T> max, rest, distance, weight, spread;
  alignas(64) PerRow<T> segment_max;
  alignas(64) PerRow<T> x_first, x_second;  // of the labels
  alignas(64) PerRow<int32_t> best;         // the first class with the largest logit

  ONEPASS_HD math::SoftmaxSums<T, T> at(int64_t l) const {
    return {{rest[l], distance[l], weight[l], spread[l]}, max[l]};
  }
  ONEPASS_HD void add(int64_t l, const math::TermSums<T>& more) {
    const math::TermSums<T> sums = at(l) + more;
    rest[l] = sums.rest;
    distance[l] = sums.distance;
    weight[l] = sums.weight;
    spread[l] = sums.spread;
  }
};

// Each kPanelStep lanes are walked with all classes, so that sums stay in registers.
template <bool kBest, class T>
ONEPASS_WALK void find_largest(const Panel& panel, const T* __restrict x, PanelSums<T>& sums) {
  for (int64_t begin = 0; begin < panel.width(); begin += kPanelStep) {
    alignas(64) T max[kPanelStep];
    alignas(64) int32_t best[kPanelStep];
    for (int l = 0; l < kPanelStep; ++l) {
      max[l] = sums.segment_max[begin + l];
      best[l] = sums.best[begin + l];
    }
    const T* row = x + begin;
    for (int64_t c = 0; c < panel.classes; ++c, row += panel.stride) {
      const int32_t at = int32_t(panel.first_class + c);
      ONEPASS_LANES
      for (int l = 0; l < kPanelStep; ++l) {
        if constexpr (kBest) best[l] = row[l] > max[l] ? at : best[l];
        max[l] = math::larger(max[l], row[l]);
      }
    }
    for (int l = 0; l < kPanelStep; ++l) {
      sums.segment_max[begin + l] = max[l];
      sums.best[begin + l] = best[l];
    }
  }
}

// Raises the sums from max to segment_max, the maximum that includes this segment.
template <class T>
ONEPASS_WALK void raise_panel(PanelSums<T>& sums, int64_t width) {
  ONEPASS_INDEPENDENT
  for (int64_t l = 0; l < width; ++l) {
    const auto to = math::raised(sums.at(l), sums.segment_max[l]);
    sums.max[l] = to.max;
    sums.rest[l] = to.rest;
    sums.distance[l] = to.distance;
    sums.spread[l] = to.spread;
  }
}

// Sums of some classes of kPanelStep rows.
template <class T>
using StepSums = TermLanes<T, int(kPanelStep)>;

// Adds a segment to the sums, and finds the logits of the first labels.
// w: as x, not read without Share::kGiven. label: class of each row, -1 for none. kClassesAtOnce classes are
// summed before they are added to what was: rounding errors grow with the root of the classes then, and not
// with them.
template <math::Share kShare, bool kSpread, class T>
ONEPASS_WALK void add_panel(const Panel& panel, const T* __restrict x, const T* __restrict w,
                            const int32_t* __restrict label, PanelSums<T>& sums) {
  constexpr bool kGiven = kShare == math::Share::kGiven;
  for (int64_t begin = 0; begin < panel.width(); begin += kPanelStep) {
    alignas(64) T shift[kPanelStep];
    alignas(64) int32_t own[kPanelStep];
    alignas(64) T picked[kPanelStep];
    ONEPASS_LANES
    for (int l = 0; l < kPanelStep; ++l) {
      shift[l] = math::shift_of(sums.max[begin + l]);
      own[l] = label[begin + l];
      picked[l] = sums.x_first[begin + l];
    }
    const T *row = x + begin, *weights = w + begin;
    StepSums<T> all;
    for (int64_t c = 0; c < panel.classes;) {
      StepSums<T> some;
      const int64_t end = c + kClassesAtOnce < panel.classes ? c + kClassesAtOnce : panel.classes;
      for (; c < end; ++c, row += panel.stride, weights += panel.stride) {
        const int32_t at = int32_t(panel.first_class + c);
        ONEPASS_LANES
        for (int l = 0; l < kPanelStep; ++l) {
          const math::SoftmaxTerm<T, kShare, kSpread> term{shift[l]};
          const T kept = own[l] == at ? T(0) : T(1);
          picked[l] = own[l] == at ? row[l] : picked[l];
          math::TermSums<T> terms = some.at(l);
          term.add(row[l], kGiven ? weights[l] : T(0), kept, terms);
          some.set(l, terms);
        }
      }
      ONEPASS_LANES
      for (int l = 0; l < kPanelStep; ++l) all.set(l, all.at(l) + some.at(l));
    }
    ONEPASS_LANES
    for (int l = 0; l < kPanelStep; ++l) {
      sums.x_first[begin + l] = picked[l];
      math::TermSums<T> more = all.at(l);
      if (kShare == math::Share::kEqual) more.weight = T(panel.classes);
      sums.add(begin + l, more);
    }
  }
}

// picked = the labels' logits, of those labels that are in the buffer.
template <class T>
ONEPASS_WALK void pick_labels(const Panel& panel, const T* __restrict x, const int32_t* __restrict label,
                              T* __restrict picked) {
  const int32_t first = int32_t(panel.first_class), classes = int32_t(panel.classes),
                stride = int32_t(panel.stride);
  ONEPASS_INDEPENDENT
  for (int32_t l = 0; l < int32_t(panel.rows); ++l) {
    const int32_t c = label[l] - first;
    const bool inside = uint32_t(c) < uint32_t(classes);
    const T found = x[(inside ? c : 0) * stride + l];
    picked[l] = inside ? found : picked[l];
  }
}

template <class T>
struct PanelGradients {
  alignas(64) PerRow<T> exp_shift, exp_least;  // of math::ScaledExp
  alignas(64) PerRow<T> max, scale, share, first, second;
};

template <math::Share kShare, class T>
ONEPASS_WALK void walk_panel(const Panel& panel, const PanelGradients<T>& rows, const T* __restrict w,
                             const int32_t* __restrict label, T* x) {
  const int64_t width = panel.width();
  for (int64_t c = 0; c < panel.classes; ++c, x += panel.stride, w += panel.stride) {
    const int32_t at = int32_t(panel.first_class + c);
    ONEPASS_INDEPENDENT
    for (int64_t l = 0; l < width; ++l) {
      const math::RowGradient<T> row{
          {rows.exp_shift[l], rows.exp_least[l]}, rows.max[l], rows.scale[l], rows.share[l], T(0), T(0)};
      const T all =
          row.template at<kShare != math::Share::kNone>(x[l], kShare == math::Share::kGiven ? w[l] : T(1));
      x[l] = label[l] == at ? rows.first[l] : all;
    }
  }
}

// Adds the gradients of the second labels.
template <class T>
ONEPASS_WALK void add_second(const Panel& panel, const PanelGradients<T>& rows,
                             const int32_t* __restrict label, T* dx) {
  for (int64_t c = 0; c < panel.classes; ++c, dx += panel.stride) {
    const int32_t at = int32_t(panel.first_class + c);
    ONEPASS_INDEPENDENT
    for (int64_t l = 0; l < panel.rows; ++l) dx[l] += label[l] == at ? rows.second[l] : T(0);
  }
}

}  // namespace onepass::ONEPASS_ISA
