// step.h - an update rule with all that a step does beside it (tail.h, Storage), on the CPU: what
// multi_tensor.h runs in place of the plain rule. CUDA: step.cuh.
//
// Where all lists are stored as the arithmetic type and nothing is measured, everything happens in one loop
// over registers. Else row by row: what comes before and after the update finds the row in the L1 cache.
#pragma once

#include <cstring>

#include "loops/tensors/leaves.h"
#include "loops/tensors/measure.h"
#include "loops/tensors/multi_tensor.h"
#include "loops/tensors/stored.h"
#include "loops/tensors/tail.h"

namespace onepass::ONEPASS_ISA {

static_assert(kRow % math::kDrawGroup == 0 && kChunkAlign % math::kDrawGroup == 0 && kLeaf % kChunkAlign == 0,
              "rows begin with a group of draws");

// The update of for_each_chunk: a rule with its tail.
template <class T, class Rule>
struct StepUpdate {
  Rule rule;
  RuleTail<T> own;
  Storage storage;
  Tail tail;
  void operator()(const TensorItem& item, const DType* dtype, int64_t begin, int64_t end) const;
};

template <bool kHasEma, bool kZeroGrad, class T, class Rule>
ONEPASS_WALK void update_with_tail(const TensorItem& item, const StepUpdate<T, Rule> step, int64_t begin,
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
    apply_one(step.rule, [&](int k) -> T& { return x[k]; });
    for (int k = 0; k < kLists; ++k) {
      if (k != kGrad) at[k][i] = x[k];
    }
    if (kHasEma) step.own.average(ema[i], x[kParam]);
    if (kZeroGrad) at[kGrad][i] = T(0);
  }
}

// Long, since what is done once a row would show. The parameter as it was has room in the L1 cache.
constexpr int64_t kMeasuredRow = 2048;

// A row that is measured in the same loop: measuring it afterwards would let memory wait. before: the
// parameter as it was, for LeafMeasure.
template <class T, class Rule>
ONEPASS_WALK void update_measured(const TensorItem& item, const StepUpdate<T, Rule> step, int64_t begin,
                                  int64_t n, T* __restrict before, RowSums<T>& result) {
  // A local one stays in registers: stores through pointers cannot reach it.
  RowSums<T> sums;
  constexpr int kLists = kFirstState + Rule::kStates;
  T* at[kLists];
  for (int k = 0; k < kLists; ++k) at[k] = static_cast<T*>(item.list[k]) + begin;
  const auto one = [&](int64_t i, int l) ONEPASS_INLINED {
    T x[kLists];
    for (int k = 0; k < kLists; ++k) x[k] = at[k][i];
    const T old = x[kParam], g = x[kGrad];
    before[i] = old;
    apply_one(step.rule, [&](int k) -> T& { return x[k]; });
    for (int k = 0; k < kLists; ++k) {
      if (k != kGrad) at[k][i] = x[k];
    }
    add_element(sums, l, old, x[kParam], g);
  };
  int64_t i = 0;
  for (; i + kMeasureLanes <= n; i += kMeasureLanes) {
    ONEPASS_INDEPENDENT
    for (int l = 0; l < kMeasureLanes; ++l) one(i + l, l);
  }
  for (int l = 0; i < n; ++i, ++l) one(i, l);
  result = sums;
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

template <class T, class Rule>
inline bool all_stored_as(const DType* dtype, DType wanted) {
  bool all = true;
  for (int k = 0; k < kFirstState + Rule::kStates; ++k) all = all && dtype[k] == wanted;
  return all;
}

// One row whose parameter or states are not simply rounded to nearest.
template <class Rule>
ONEPASS_WALK void update_stored_row(const TensorItem& item, const DType* dtype,
                                    const StepUpdate<float, Rule>& step, int64_t begin, int64_t n) {
  constexpr int kLists = kFirstState + Rule::kStates;
  const bool stochastic = step.storage == Storage::kStochastic;
  alignas(64) float row[kLists][kRow];
  alignas(64) uint32_t words[kRow / 2];
  if (stochastic) draw_row(step.own.draws, item.number, begin, words);
  load_value(item, dtype, step.storage, begin, row[kParam], n);
  for (int k = kGrad; k < kLists; ++k) load_row(dtype[k], item.list[k], begin, row[k], n);
  float* state[Rule::kStates + 1];
  for (int k = 0; k < Rule::kStates; ++k) state[k] = row[kFirstState + k];
  apply(step.rule, row[kParam], row[kGrad], state, n);
  for (int k = kFirstState; k < kLists; ++k) {
    if (dtype[k] == DType::kFloat32) {
      std::memcpy(static_cast<float*>(item.list[k]) + begin, row[k], size_t(n) * sizeof(float));
    } else if (stochastic) {
      store_row_stochastic(dtype[k], item.list[k], begin, row[k], n, words, math::list_rotation(k - 1));
    } else {
      store_row(dtype[k], item.list[k], begin, row[k], n);
    }
  }
  store_value(item, dtype, step.storage, begin, row[kParam], n, words);
}

// begin .. end is at most a row, and its place in the tensor is a multiple of kDrawGroup.
template <class T, class Rule>
inline void update_row(const TensorItem& item, const DType* dtype, const StepUpdate<T, Rule>& step,
                       int64_t begin, int64_t end) {
  if (step.storage == Storage::kNearest) return update_range<T>(item, dtype, step.rule, begin, end);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (step.storage == Storage::kStochastic && all_stored_as<T, Rule>(dtype, DType::kBFloat16)) {
      alignas(64) uint32_t words[kRow / 2];
      draw_row(step.own.draws, item.number, begin, words);
      return update_bfloat16(item, step.rule, begin, end, words);
    }
    update_stored_row(item, dtype, step, begin, end - begin);
  }
}

// The n elements from begin on as T: where they lie, if they are that, else widened into the row.
template <class T>
inline const T* row_of(DType dtype, const void* stored, int64_t begin, T* row, int64_t n) {
  if (dtype == dtype_of<T>) return static_cast<const T*>(stored) + begin;
  load_row(dtype, stored, begin, row, n);
  return row;
}

// Row by row, all lists being stored as T.
template <class T, class Rule>
inline void step_measured_rows(const TensorItem& item, const StepUpdate<T, Rule>& step, int64_t begin,
                               int64_t end, LeafMeasure& measure) {
  alignas(64) T before[kMeasuredRow];
  for (int64_t start = begin; start < end; start += kMeasuredRow) {
    const int64_t n = end - start < kMeasuredRow ? end - start : kMeasuredRow;
    RowSums<T> sums;
    update_measured(item, step, start, n, before, sums);
    const T* param = static_cast<const T*>(item.list[kParam]) + start;
    measure.add_sums(sums, before, param, static_cast<const T*>(item.list[kGrad]) + start, n);
    if (step.tail.ema) average_row(step.own.average, static_cast<T*>(item.list[kEma]) + start, param, n);
    if (step.tail.zero_grad) zero_elements(item, dtype_of<T>, start, start + n);
  }
}

// Row by row; measure: nullptr, or what the leaf that these rows belong to comes to.
template <class T, class Rule>
ONEPASS_WALK void step_rows(const TensorItem& item, const DType* dtype, const StepUpdate<T, Rule>& step,
                            int64_t begin, int64_t end, LeafMeasure* measure) {
  alignas(64) T before[kRow], value[kRow], grad_row[kRow];
  const bool in_place = dtype[kParam] == dtype_of<T>;
  for (int64_t start = begin; start < end; start += kRow) {
    const int64_t stop = end - start < kRow ? end : start + kRow, n = stop - start;
    if (measure) load_value(item, dtype, step.storage, start, before, n);
    if (!step.tail.skipped) update_row(item, dtype, step, start, stop);
    const T* after = in_place ? static_cast<const T*>(item.list[kParam]) + start : value;
    if (!in_place && (measure || step.tail.ema)) load_value(item, dtype, step.storage, start, value, n);
    if (step.tail.ema && !step.tail.skipped) {
      average_row(step.own.average, static_cast<T*>(item.list[kEma]) + start, after, n);
    }
    if (measure)
      measure->add_row(before, after, row_of(dtype[kGrad], item.list[kGrad], start, grad_row, n), n);
    if (step.tail.zero_grad) zero_elements(item, dtype[kGrad], start, stop);
  }
}

template <class T, class Rule>
inline void StepUpdate<T, Rule>::operator()(const TensorItem& item, const DType* dtype, int64_t begin,
                                            int64_t end) const {
  const bool in_place = all_stored_as<T, Rule>(dtype, dtype_of<T>);
  if (tail.statistics) {
    for (int64_t leaf = begin; leaf < end; leaf += kLeaf) {
      const int64_t stop = end - leaf < kLeaf ? end : leaf + kLeaf;
      LeafMeasure measure;
      if (in_place && !tail.skipped) {
        step_measured_rows(item, *this, leaf, stop, measure);
      } else {
        step_rows(item, dtype, *this, leaf, stop, &measure);
      }
      StatisticsRow& row = tail.statistics[item.first_leaf + leaf / kLeaf];
      row = {measure.result(), own.group};
      if (tail.skipped) row.sum.lost = 0;  // nothing was to be updated
    }
    return;
  }
  if (storage != Storage::kNearest || !in_place) {
    return step_rows(item, dtype, *this, begin, end, nullptr);
  }
  if (tail.ema && tail.zero_grad) return update_with_tail<true, true>(item, *this, begin, end);
  if (tail.ema) return update_with_tail<true, false>(item, *this, begin, end);
  update_with_tail<false, true>(item, *this, begin, end);
}

// multi_tensor with all that a step does, as far as it is asked for. make_rule(rule index) -> Rule;
// make_tail(rule index) -> RuleTail<T>.
template <class T, class MakeRule, class MakeTail>
void multi_tensor_step(const TensorList& list, int threads, const Tail& tail, const MakeRule& make_rule,
                       const MakeTail& make_tail) {
  const bool plain = !tail.ema && !tail.zero_grad && !tail.statistics && list.storage == Storage::kNearest;
  if (plain) return multi_tensor<T>(list, threads, make_rule);
  using Rule = decltype(make_rule(0));
  for_each_chunk(list, threads, tail.statistics ? kLeaf : kChunkAlign, [&](int64_t i) {
    return StepUpdate<T, Rule>{make_rule(i), make_tail(i), list.storage, tail};
  });
}

}  // namespace onepass::ONEPASS_ISA
