// rows.h - sums over a row, or over a segment of it, and a formula made of them for each element, on the CPU.
// CUDA: rows.cuh.
//
// Element i of a segment goes to lane i % kSegmentLanes, in T. Lanes are merged pairwise, the last ones in
// double, and segments of at most a strip in double, one after the other: the order depends on the width
// only.
#pragma once

#include "loops/common/lanes.h"
#include "loops/common/strips.h"
#include "loops/rows/shape.h"
#include "math/moments.h"

namespace onepass::ONEPASS_ISA {

constexpr int kSegmentLanes = 32;
constexpr int kDoubleLanes = 8;

template <class T>
inline double sum_segment_lanes(const T* lane) {
  alignas(64) T half[kSegmentLanes / 2], quarter[kDoubleLanes];
  static_assert(kSegmentLanes == 4 * kDoubleLanes);
  ONEPASS_LANES
  for (int l = 0; l < kSegmentLanes / 2; ++l) half[l] = lane[l] + lane[l + kSegmentLanes / 2];
  ONEPASS_LANES
  for (int l = 0; l < kDoubleLanes; ++l) quarter[l] = half[l] + half[l + kDoubleLanes];
  return sum_lanes<kDoubleLanes>(quarter);
}

// The shift of a segment: the mean of its first elements.
template <class Sums, class T>
inline Sums shifted(const T* x, int64_t n) {
  if (n >= kSegmentLanes) return Sums::around(sum_segment_lanes(x), kSegmentLanes);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]);
  return Sums::around(sum, double(n));
}

template <class Sums, class T>
ONEPASS_HD math::Pair add_elements(const Sums& sums, const T* __restrict x, const T* __restrict dy,
                                   const T* __restrict w, int64_t n) {
  alignas(64) T s1[kSegmentLanes] = {}, s2[kSegmentLanes] = {};
  int64_t i = 0;
  for (; i + kSegmentLanes <= n; i += kSegmentLanes) {
    ONEPASS_LANES
    for (int l = 0; l < kSegmentLanes; ++l) {
      sums.add(x[i + l], Sums::kGrad ? dy[i + l] : T(0), Sums::kGrad ? w[i + l] : T(0), s1[l], s2[l]);
    }
  }
  if (i == n) return sums.part(double(n), sum_segment_lanes(s1), sum_segment_lanes(s2));
  // In copies: the lanes of the loop above stay in registers only while no index of theirs is a variable.
  constexpr int kPart = 8;
  alignas(64) T t1[kSegmentLanes], t2[kSegmentLanes];
  ONEPASS_LANES
  for (int l = 0; l < kSegmentLanes; ++l) {
    t1[l] = s1[l];
    t2[l] = s2[l];
  }
  int lane = 0;
  for (; i + kPart <= n; i += kPart, lane += kPart) {
    ONEPASS_LANES
    for (int l = 0; l < kPart; ++l) {
      sums.add(x[i + l], Sums::kGrad ? dy[i + l] : T(0), Sums::kGrad ? w[i + l] : T(0), t1[lane + l],
               t2[lane + l]);
    }
  }
  for (; i < n; ++i, ++lane) {
    sums.add(x[i], Sums::kGrad ? dy[i] : T(0), Sums::kGrad ? w[i] : T(0), t1[lane], t2[lane]);
  }
  return sums.part(double(n), sum_segment_lanes(t1), sum_segment_lanes(t2));
}

// The two sums of n elements. dy and w are read with Sums::kGrad only.
template <class Sums, class T>
ONEPASS_WALK math::Pair reduce_strip(const Sums sums, const T* __restrict x, const T* __restrict dy,
                                     const T* __restrict w, int64_t n) {
  return add_elements(sums, x, dy, w, n);
}

// The same for some short rows of `width`, to parts[0 .. rows). make(r): the sums of row r, without a shift.
template <class T, class Make>
ONEPASS_WALK void reduce_rows(const Make& make, const T* __restrict x, const T* __restrict dy,
                              const T* __restrict w, int64_t width, int64_t rows, math::Pair* parts) {
  using Sums = decltype(make(0, x));
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * width;
    parts[r] = add_elements(make(r, row), row, Sums::kGrad ? dy + r * width : dy, w, width);
  }
}

// y = formula(x, w, b) for some short rows of `width`. make(r): the formula of row r.
template <class T, class Make>
ONEPASS_WALK void walk_rows(const Make& make, const T* __restrict x, const T* __restrict w,
                            const T* __restrict b, T* __restrict y, int64_t width, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    const auto formula = make(r);
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < width; ++i) y[i] = formula(x[i], w[i], formula.kReadsBias ? b[i] : T(0));
  }
}

// y = formula(x, w, b) for n elements.
template <class F, class T>
ONEPASS_WALK void walk_row(const F formula, const T* __restrict x, const T* __restrict w,
                           const T* __restrict b, T* __restrict y, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) y[i] = formula(x[i], w[i], F::kReadsBias ? b[i] : T(0));
}

// The same past the caches: whole lines.
template <class F, class T>
ONEPASS_WALK void walk_row_nontemporal(const F formula, const T* __restrict x, const T* __restrict w,
                                       const T* __restrict b, T* __restrict y, int64_t n) {
  fill_nontemporal(y, n, [&](int64_t begin, T* __restrict block, auto count) ONEPASS_INLINED {
    constexpr int64_t kCount = count;
    ONEPASS_INDEPENDENT
    for (int64_t k = 0; k < kCount; ++k) {
      const int64_t i = begin + k;
      block[k] = formula(x[i], w[i], F::kReadsBias ? b[i] : T(0));
    }
  });
}

// What a walk of the gradient reads and adds to; dw is nullptr where no columns are summed.
template <class T>
struct GradientRow {
  const T* x;
  const T* dy;
  const T* w;
  const T* other;
  T* dw;
  T* db;

  GradientRow from(int64_t i) const {
    return {x + i, dy + i, w + i, other ? other + i : other, dw ? dw + i : dw, db ? db + i : db};
  }
};

// out = formula(x, dy, w, other); kColumns: adds the terms of dw and db.
template <class F, bool kColumns, class T>
ONEPASS_WALK void walk_gradient(const F formula, const GradientRow<T> row, T* __restrict out, int64_t n) {
  const T* __restrict x = row.x, * __restrict dy = row.dy, * __restrict w = row.w, * __restrict other = row.other;
  T* __restrict dw = row.dw, * __restrict db = row.db;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    T none = T(0);
    if constexpr (kColumns) formula.add(x[i], dy[i], dw[i], F::kCentres ? db[i] : none);
    out[i] = formula(x[i], dy[i], w[i], F::kReadsOther ? other[i] : none);
  }
}

// The same for some short rows of `width`. make(r): the formula of row r.
template <bool kColumns, class T, class Make>
ONEPASS_WALK void walk_gradients(const Make& make, const GradientRow<T> first, T* __restrict out,
                                 int64_t width, int64_t rows) {
  const T* __restrict x = first.x, * __restrict dy = first.dy, * __restrict w = first.w,
                    * __restrict other = first.other;
  T* __restrict dw = first.dw, * __restrict db = first.db;
  for (int64_t r = 0; r < rows; ++r) {
    const auto formula = make(r);
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = r * width + i;
      T none = T(0);
      if constexpr (kColumns) formula.add(x[at], dy[at], dw[i], formula.kCentres ? db[i] : none);
      out[at] = formula(x[at], dy[at], w[i], formula.kReadsOther ? other[at] : none);
    }
  }
}

// The same past the caches: whole lines.
template <class F, bool kColumns, class T>
ONEPASS_WALK void walk_gradient_nontemporal(const F formula, const GradientRow<T> row, T* __restrict out,
                                            int64_t n) {
  const T* __restrict x = row.x, * __restrict dy = row.dy, * __restrict w = row.w, * __restrict other = row.other;
  T* __restrict dw = row.dw, * __restrict db = row.db;
  fill_nontemporal(out, n, [&](int64_t begin, T* __restrict block, auto count) ONEPASS_INLINED {
    constexpr int64_t kCount = count;
    ONEPASS_INDEPENDENT
    for (int64_t k = 0; k < kCount; ++k) {
      const int64_t i = begin + k;
      T none = T(0);
      if constexpr (kColumns) formula.add(x[i], dy[i], dw[i], F::kCentres ? db[i] : none);
      block[k] = formula(x[i], dy[i], w[i], F::kReadsOther ? other[i] : none);
    }
  });
}

// h = formula(x, kept, residual). kDrops: kept is read; else all are kept.
template <bool kDrops, class F, class T>
ONEPASS_WALK void add_residual(const F formula, const T* x, const uint8_t* __restrict kept, const T* residual,
                               T* __restrict h, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) h[i] = formula(x[i], kDrops ? kept[i] != 0 : true, residual[i]);
}

// columns[c] = sum over parts, in their order, of parts[part * stride + c].
template <class T>
ONEPASS_WALK void sum_parts(const T* __restrict parts, int64_t count, int64_t stride, int64_t n,
                            double* __restrict columns) {
  for (int64_t c = 0; c < n; ++c) columns[c] = 0;
  for (int64_t part = 0; part < count; ++part) {
    ONEPASS_INDEPENDENT
    for (int64_t c = 0; c < n; ++c) columns[c] += double(parts[part * stride + c]);
  }
}

}  // namespace onepass::ONEPASS_ISA
