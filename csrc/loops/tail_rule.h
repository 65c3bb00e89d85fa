// tail_rule.h - an update rule with its tail (tail.h), on the CPU: what multi_tensor.h runs in place of the
// plain rule. Where all lists are stored as the arithmetic type everything happens in one loop over
// registers; else a row of the parameter is averaged, and of the gradient zeroed, while it is in the L1
// cache.
#pragma once

#include <cstring>

#include "loops/multi_tensor.h"
#include "loops/tail.h"
#include "math/ema.h"

namespace onepass::ONEPASS_ISA {

template <class Rule_, class T>
struct TailRule {
  using Rule = Rule_;
  Rule rule;
  math::Ema<T> ema;
  bool has_ema, zero_grad;
};

template <bool kHasEma, bool kZeroGrad, class T, class Rule>
ONEPASS_WALK void update_with_tail(const TensorItem& item, const TailRule<Rule, T> tail, int64_t begin,
                                   int64_t end) {
  constexpr int kLists = kFirstState + Rule::kStates;
  T* at[kLists];
  for (int k = 0; k < kLists; ++k) at[k] = static_cast<T*>(item.list[k]) + begin;
  T* ema = kHasEma ? static_cast<T*>(item.list[kEma]) + begin : nullptr;
  const int64_t n = end - begin;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    T x[kLists];
    for (int k = 0; k < kLists; ++k) x[k] = at[k][i];
    apply_one(tail.rule, [&](int k) -> T& { return x[k]; });
    for (int k = 0; k < kLists; ++k) {
      if (k != kGrad) at[k][i] = x[k];
    }
    if (kHasEma) tail.ema(ema[i], x[kParam]);
    if (kZeroGrad) at[kGrad][i] = T(0);
  }
}

template <class T>
ONEPASS_WALK void average_row(const math::Ema<T> rule, T* __restrict ema, const T* __restrict param,
                              int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) rule(ema[i], param[i]);
}

inline void zero_elements(const TensorItem& item, DType grad, int64_t begin, int64_t end) {
  const int64_t size = size_of(grad);
  std::memset(static_cast<char*>(item.list[kGrad]) + begin * size, 0, size_t((end - begin) * size));
}

// Row by row: the plain update, then what follows it.
template <class T, class Rule>
inline void update_rows_with_tail(const TensorItem& item, const DType* dtype, const TailRule<Rule, T>& tail,
                                  int64_t begin, int64_t end) {
  for (int64_t start = begin; start < end; start += kRow) {
    const int64_t stop = end - start < kRow ? end : start + kRow;
    update_range<T>(item, dtype, tail.rule, start, stop);
    if (tail.has_ema) {
      // The parameter as it is stored: what the model computes with is what is averaged.
      alignas(64) T param[kRow];
      load_row(dtype[kParam], item.list[kParam], start, param, stop - start);
      average_row(tail.ema, static_cast<T*>(item.list[kEma]) + start, param, stop - start);
    }
    if (tail.zero_grad) zero_elements(item, dtype[kGrad], start, stop);
  }
}

template <class T, class Rule>
inline void update_range(const TensorItem& item, const DType* dtype, const TailRule<Rule, T>& tail,
                         int64_t begin, int64_t end) {
  for (int k = 0; k < kFirstState + Rule::kStates; ++k) {
    if (dtype[k] != dtype_of<T>) return update_rows_with_tail(item, dtype, tail, begin, end);
  }
  if (tail.has_ema && tail.zero_grad) return update_with_tail<true, true>(item, tail, begin, end);
  if (tail.has_ema) return update_with_tail<true, false>(item, tail, begin, end);
  update_with_tail<false, true>(item, tail, begin, end);
}

// multi_tensor with or without a tail. make_rule(i) -> Rule, decay(i) of the moving average.
template <class T, class MakeRule, class Decay>
void multi_tensor(const TensorList& list, int threads, const Tail& tail, const MakeRule& make_rule,
                  const Decay& decay) {
  if (!tail.ema && !tail.zero_grad) return multi_tensor<T>(list, threads, make_rule);
  using Rule = decltype(make_rule(0));
  multi_tensor<T>(list, threads, [&](int64_t i) {
    return TailRule<Rule, T>{make_rule(i), math::Ema<T>::make(decay(i)), tail.ema, tail.zero_grad};
  });
}

}  // namespace onepass::ONEPASS_ISA
