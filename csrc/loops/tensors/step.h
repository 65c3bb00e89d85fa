// step.h - an update rule with all that a step does in the same pass (tail.h, Storage), on the CPU: what
// multi_tensor.h runs in place of the plain rule. CUDA: step.cuh.
//
// Where all lists are stored as the arithmetic type and nothing is measured, everything happens in one loop
// over registers. Else strip by strip: what comes before and after the update finds the strip in the L1
// cache.
#pragma once

#include <cstring>

#include "loops/tensors/coded.h"
#include "loops/tensors/leaves.h"
#include "loops/tensors/measure.h"
#include "loops/tensors/multi_tensor.h"
#include "loops/tensors/stored.h"
#include "loops/tensors/tail.h"

namespace onepass::ONEPASS_ISA {

static_assert(kUpdateStrip % math::kDrawGroup == 0 && kChunkAlign % math::kDrawGroup == 0 &&
                  kLeaf % kChunkAlign == 0,
              "strips begin with a group of draws");

// The update of for_each_chunk: a rule with its tail.
template <class T, class Rule>
struct StepUpdate {
  Rule rule;
  RuleTail<T> own;
  Storage storage;
  bool coded;
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

// A longer strip, so that the work done once a strip is hidden. The parameter's old value fits the L1 cache.
constexpr int64_t kMeasuredStrip = 2048;

// Updates and measures a strip in one loop: memory would wait while a second loop measures. before: receives
// the parameter's old value, for LeafMeasure.
template <class T, class Rule>
ONEPASS_WALK void update_measured(const TensorItem& item, const StepUpdate<T, Rule> step, int64_t begin,
                                  int64_t n, T* __restrict before, StripSums<T>& result) {
  // A local variable stays in registers: stores through pointers cannot reach it.
  StripSums<T> sums;
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
ONEPASS_WALK void average_strip(const math::Ema<T> rule, T* __restrict ema, const T* __restrict param,
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

// A strip whose parameter or states are not simply rounded to nearest.
template <class Rule>
ONEPASS_WALK void update_stored_strip(const TensorItem& item, const DType* dtype,
                                      const StepUpdate<float, Rule>& step, int64_t begin, int64_t n) {
  constexpr int kLists = kFirstState + Rule::kStates;
  const bool stochastic = step.storage == Storage::kStochastic;
  alignas(64) float strip[kLists][kUpdateStrip];
  alignas(64) uint32_t words[kUpdateStrip];
  const StripDraws draws{words, stochastic && !draws_by_words(step.own.draws.part)};
  if (draws.each) {
    draw_each(step.own.draws, item.number, begin, n, words);
  } else if (stochastic) {
    draw_words(step.own.draws, item.number, step.own.draws.part.first + begin, words);
  }
  load_value(item, dtype, step.storage, begin, strip[kParam], n);
  for (int k = kGrad; k < kLists; ++k) load_strip(dtype[k], item.list[k], begin, strip[k], n);
  float* state[Rule::kStates + 1];
  for (int k = 0; k < Rule::kStates; ++k) state[k] = strip[kFirstState + k];
  apply(step.rule, strip[kParam], strip[kGrad], state, n);
  for (int k = kFirstState; k < kLists; ++k) {
    if (dtype[k] == DType::kFloat32) {
      std::memcpy(static_cast<float*>(item.list[k]) + begin, strip[k], size_t(n) * sizeof(float));
    } else if (stochastic) {
      store_strip_stochastic(dtype[k], item.list[k], begin, strip[k], n, draws, math::list_rotation(k - 1));
    } else {
      store_strip(dtype[k], item.list[k], begin, strip[k], n);
    }
  }
  store_value(item, dtype, step.storage, begin, strip[kParam], n, draws);
}

// begin .. end is at most a strip, and begin is a multiple of kDrawGroup.
template <class T, class Rule>
inline void update_strip(const TensorItem& item, const DType* dtype, const StepUpdate<T, Rule>& step,
                         int64_t begin, int64_t end) {
  if constexpr (sizeof(T) == sizeof(float) && Rule::kStates > 0) {
    if (step.coded) {
      return update_coded_strip(item, dtype, step.rule, step.own.draws, step.storage, begin, end - begin);
    }
  }
  if (step.storage == Storage::kNearest) return update_range<T>(item, dtype, step.rule, begin, end);
  if constexpr (sizeof(T) == sizeof(float)) {
    const DrawPlaces& part = step.own.draws.part;
    if (step.storage == Storage::kStochastic && draws_by_words(part) &&
        all_stored_as<T, Rule>(dtype, DType::kBFloat16)) {
      alignas(64) uint32_t words[kUpdateStrip / 2];
      draw_words(step.own.draws, item.number, part.first + begin, words);
      return update_bfloat16(item, step.rule, begin, end, words);
    }
    update_stored_strip(item, dtype, step, begin, end - begin);
  }
}

// The n elements from begin on as T: where they lie, if they are stored as T, else widened into the strip.
template <class T>
inline const T* strip_of(DType dtype, const void* stored, int64_t begin, T* strip, int64_t n) {
  if (dtype == dtype_of<T>) return static_cast<const T*>(stored) + begin;
  load_strip(dtype, stored, begin, strip, n);
  return strip;
}

// Strip by strip, all lists being stored as T.
template <class T, class Rule>
inline void step_measured_strips(const TensorItem& item, const StepUpdate<T, Rule>& step, int64_t begin,
                                 int64_t end, LeafMeasure& measure) {
  alignas(64) T before[kMeasuredStrip];
  for (int64_t start = begin; start < end; start += kMeasuredStrip) {
    const int64_t n = end - start < kMeasuredStrip ? end - start : kMeasuredStrip;
    StripSums<T> sums;
    update_measured(item, step, start, n, before, sums);
    const T* param = static_cast<const T*>(item.list[kParam]) + start;
    measure.add_sums(sums, before, param, static_cast<const T*>(item.list[kGrad]) + start, n);
    if (step.tail.ema) average_strip(step.own.average, static_cast<T*>(item.list[kEma]) + start, param, n);
    if (step.tail.zero_grad) zero_elements(item, dtype_of<T>, start, start + n);
  }
}

// Strip by strip. measure: nullptr, or the sums of the leaf that these strips belong to.
template <class T, class Rule>
ONEPASS_WALK void step_strips(const TensorItem& item, const DType* dtype, const StepUpdate<T, Rule>& step,
                              int64_t begin, int64_t end, LeafMeasure* measure) {
  alignas(64) T before[kUpdateStrip], value[kUpdateStrip], grad_strip[kUpdateStrip];
  const bool in_place = dtype[kParam] == dtype_of<T>;
  for (int64_t start = begin; start < end; start += kUpdateStrip) {
    const int64_t stop = end - start < kUpdateStrip ? end : start + kUpdateStrip, n = stop - start;
    if (measure) load_value(item, dtype, step.storage, start, before, n);
    if (!step.tail.skipped) update_strip(item, dtype, step, start, stop);
    const T* after = in_place ? static_cast<const T*>(item.list[kParam]) + start : value;
    if (!in_place && (measure || step.tail.ema)) load_value(item, dtype, step.storage, start, value, n);
    if (step.tail.ema && !step.tail.skipped) {
      average_strip(step.own.average, static_cast<T*>(item.list[kEma]) + start, after, n);
    }
    if (measure)
      measure->add_strip(before, after, strip_of(dtype[kGrad], item.list[kGrad], start, grad_strip, n), n);
    if (step.tail.zero_grad) zero_elements(item, dtype[kGrad], start, stop);
  }
}

template <class T, class Rule>
inline void StepUpdate<T, Rule>::operator()(const TensorItem& item, const DType* dtype, int64_t begin,
                                            int64_t end) const {
  const bool in_place = !coded && all_stored_as<T, Rule>(dtype, dtype_of<T>);
  if (tail.statistics) {
    for (int64_t leaf = begin; leaf < end; leaf += kLeaf) {
      const int64_t stop = end - leaf < kLeaf ? end : leaf + kLeaf;
      LeafMeasure measure;
      if (in_place && !tail.skipped) {
        step_measured_strips(item, *this, leaf, stop, measure);
      } else {
        step_strips(item, dtype, *this, leaf, stop, &measure);
      }
      StatisticsRow& row = tail.statistics[item.first_leaf + leaf / kLeaf];
      row = {measure.result(), own.group};
      if (tail.skipped) row.sum.lost = 0;  // nothing was to be updated
    }
    return;
  }
  if (storage != Storage::kNearest || !in_place) {
    return step_strips(item, dtype, *this, begin, end, nullptr);
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
  const bool plain =
      !tail.ema && !tail.zero_grad && !tail.statistics && list.storage == Storage::kNearest && !list.coded;
  if (plain) return multi_tensor<T>(list, threads, make_rule);
  using Rule = decltype(make_rule(0));
  for_each_chunk(list, threads, tail.statistics ? kLeaf : kChunkAlign, [&](int64_t i) {
    return StepUpdate<T, Rule>{make_rule(i), make_tail(i), list.storage, list.coded, tail};
  });
}

}  // namespace onepass::ONEPASS_ISA
