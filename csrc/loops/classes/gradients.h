// gradients.h - walks along rows of classes that follow each other in memory (rows.h), from
// logits to gradients, on the CPU.
#pragma once

#include "loops/classes/rows.h"

namespace onepass::ONEPASS_ISA {

// The gradient of a class that is no label; without kSoftmax of a row whose logits do not matter.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_HD void walk_class(const math::RowGradient<T>& row, const S& x, T w, S& out) {
  narrow(row.template at<kSoftmax, kShare != math::Share::kNone>(widen(x), w), out);
}

template <bool kSoftmax, math::Share kShare, class T>
ONEPASS_HD void walk_pair(const math::RowGradient<T>& row, const BFloat16* x, BFloat16* out) {
  const BFloat16Pair pair = from_bfloat16_pair(&x->bits);
  const auto gradient = [&](T x_c) ONEPASS_INLINED {
    return row.template at<kSoftmax, kShare != math::Share::kNone>(x_c, T(1));
  };
  to_bfloat16_pair({gradient(pair.first), gradient(pair.second)}, &out->bits);
}

// Of n classes; w: their weights, not read without Share::kGiven. x and out may be the same memory.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_HD void walk_run(const math::RowGradient<T>& row, const S* x, const T* w, S* out, int64_t n) {
  constexpr bool kGiven = kShare == math::Share::kGiven;
  int64_t paired = 0;
  if constexpr (kPaired<S>) {
    static_assert(!kGiven, "Walked");
    paired = n / 2 * 2;
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n / 2; ++i) walk_pair<kSoftmax, kShare>(row, x + 2 * i, out + 2 * i);
  }
  ONEPASS_INDEPENDENT
  for (int64_t i = paired; i < n; ++i) {
    walk_class<kSoftmax, kShare>(row, x[i], kGiven ? w[i] : T(1), out[i]);
  }
}

template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_WALK void walk_classes(const math::RowGradient<T> row, const S* x, const T* w, S* out, int64_t n) {
  walk_run<kSoftmax, kShare>(row, x, w, out, n);
}

// The gradients of a row's labels, ready to be stored, and at which of some classes; elsewhere there is none.
template <class S>
struct LabelGradients {
  int64_t at[2];
  S value[2];

  // Those among classes begin .. begin + n - 1, to out[0 .. n).
  void store(int64_t begin, int64_t n, S* out) const {
    for (int k = 0; k < 2; ++k) {
      const int64_t i = at[k] - begin;
      if (i >= 0 && i < n) out[i] = value[k];
    }
  }
};

// The same with the labels from class `begin` on, past the caches: whole lines.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_WALK void stream_classes(const math::RowGradient<T> row, const LabelGradients<S>& labels,
                                 int64_t begin, const S* __restrict x, const T* __restrict w,
                                 S* __restrict out, int64_t n) {
  stream_blocks(out, n, [&](int64_t i, S* __restrict block, auto count) ONEPASS_INLINED {
    fetch_ahead(x + i, count * int64_t(sizeof(S)));
    walk_run<kSoftmax, kShare>(row, x + i, w + i, block, count);
    labels.store(begin + i, count, block);
  });
}

}  // namespace onepass::ONEPASS_ISA
