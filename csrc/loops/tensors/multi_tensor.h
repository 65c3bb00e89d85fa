// multi_tensor.h - one update rule over the elements of many tensors, on the CPU. CUDA: multi_tensor.cuh.
//
// One parallel region for the whole list. The elements of all tensors, numbered through, are cut in chunks,
// the units of work; a chunk may span many small tensors or be part of a large one. Elements are independent,
// so the result has the same bits for any number of threads. Lists stored as the arithmetic type are updated
// in place; narrower ones pass through a strip of kUpdateStrip elements in the L1 cache.
#pragma once

#include <cstdint>

#include "core/convert.h"
#include "loops/common/units.h"
#include "loops/tensors/tensor_list.h"
#include "math/draws.h"
#include "math/rounding.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kUpdateStrip = 512;
// Chunks start at multiples of this many elements of a tensor: whole cache lines for every dtype, and whole
// groups of random draws.
constexpr int64_t kChunkAlign = 256;
constexpr int64_t kMinChunk = 16 * 1024;
constexpr int64_t kMaxChunk = 256 * 1024;
constexpr int64_t kChunksPerThread = 8;

template <class T>
constexpr DType dtype_of = sizeof(T) == sizeof(float) ? DType::kFloat32 : DType::kFloat64;

// rule(p, g, states...) for n elements.
template <class T, class Rule>
inline void apply(const Rule rule, T* __restrict p, const T* __restrict g, T* const* state, int64_t n) {
  if constexpr (Rule::kStates == 0) {
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) rule(p[i], g[i]);
  } else if constexpr (Rule::kStates == 1) {
    T* __restrict s0 = state[0];
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) rule(p[i], g[i], s0[i]);
  } else if constexpr (Rule::kStates == 2) {
    T* __restrict s0 = state[0], * __restrict s1 = state[1];
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) rule(p[i], g[i], s0[i], s1[i]);
  } else {
    static_assert(Rule::kStates == 3);
    T* __restrict s0 = state[0], * __restrict s1 = state[1], * __restrict s2 = state[2];
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) rule(p[i], g[i], s0[i], s1[i], s2[i]);
  }
}

// rule(p, g, states...) for one element, x(k) being that of list k.
template <class Rule, class Element>
ONEPASS_HD void apply_one(const Rule& rule, const Element& x) {
  constexpr int s = kFirstState;
  if constexpr (Rule::kStates == 0) rule(x(kParam), x(kGrad));
  if constexpr (Rule::kStates == 1) rule(x(kParam), x(kGrad), x(s));
  if constexpr (Rule::kStates == 2) rule(x(kParam), x(kGrad), x(s), x(s + 1));
  if constexpr (Rule::kStates == 3) rule(x(kParam), x(kGrad), x(s), x(s + 1), x(s + 2));
}

// Elements begin .. end of one tensor, some of whose lists are not stored as T.
template <class T, class Rule>
ONEPASS_WALK void update_strips(const TensorItem& item, const DType* dtype, const Rule& rule, int64_t begin,
                                int64_t end) {
  constexpr int kLists = kFirstState + Rule::kStates;
  alignas(64) T strip[kLists][kUpdateStrip];
  for (int64_t start = begin; start < end; start += kUpdateStrip) {
    const int64_t n = end - start < kUpdateStrip ? end - start : kUpdateStrip;
    T* at[kLists];
    for (int k = 0; k < kLists; ++k) {
      const bool in_place = dtype[k] == dtype_of<T>;
      at[k] = in_place ? static_cast<T*>(item.list[k]) + start : strip[k];
      if (!in_place) load_strip(dtype[k], item.list[k], start, strip[k], n);
    }
    apply(rule, at[kParam], at[kGrad], at + kFirstState, n);
    if constexpr (sizeof(T) == sizeof(float)) {
      for (int k = 0; k < kLists; ++k) {
        if (k != kGrad && at[k] == strip[k]) store_strip(dtype[k], item.list[k], start, strip[k], n);
      }
    }
  }
}

ONEPASS_HD void to_bfloat16_pair(BFloat16Pair pair, uint16_t* stored, uint32_t draws) {
  const uint32_t both = math::stochastic_bfloat16_pair(pair.first, pair.second, draws);
  std::memcpy(stored, &both, sizeof both);
}

// The same where all lists are bfloat16: no strip in between, two elements to a 32-bit word. words: nullptr,
// or the draws by which results are rounded, a word for each two elements (math/draws.h).
template <bool kStochastic, class Rule>
ONEPASS_WALK void update_bfloat16_pairs(const TensorItem& item, const Rule rule, int64_t begin, int64_t end,
                                        const uint32_t* __restrict words) {
  constexpr int kLists = kFirstState + Rule::kStates;
  uint16_t* at[kLists];
  for (int k = 0; k < kLists; ++k) at[k] = static_cast<uint16_t*>(item.list[k]) + begin;
  const int64_t n = end - begin;
  const auto rotated = [=](int64_t pair, int k) {
    return rotate_right(words[pair], math::list_rotation(k == kParam ? 0 : k - 1));
  };
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n / 2; ++i) {
    BFloat16Pair x[kLists];
    for (int k = 0; k < kLists; ++k) x[k] = from_bfloat16_pair(at[k] + 2 * i);
    apply_one(rule, [&](int k) -> float& { return x[k].first; });
    apply_one(rule, [&](int k) -> float& { return x[k].second; });
    for (int k = 0; k < kLists; ++k) {
      if (k == kGrad) continue;
      if constexpr (kStochastic) {
        to_bfloat16_pair(x[k], at[k] + 2 * i, rotated(i, k));
      } else {
        to_bfloat16_pair(x[k], at[k] + 2 * i);
      }
    }
  }
  if (n % 2 != 0) {
    float x[kLists];
    for (int k = 0; k < kLists; ++k) x[k] = from_bfloat16(at[k][n - 1]);
    apply_one(rule, [&](int k) -> float& { return x[k]; });
    for (int k = 0; k < kLists; ++k) {
      if (k == kGrad) continue;
      at[k][n - 1] = kStochastic ? math::stochastic_bfloat16(x[k], rotated(n / 2, k))
                                 : uint16_t(round_to_high_half(x[k]) >> 16);
    }
  }
}

template <class Rule>
inline void update_bfloat16(const TensorItem& item, const Rule& rule, int64_t begin, int64_t end,
                            const uint32_t* words) {
  if (words) return update_bfloat16_pairs<true>(item, rule, begin, end, words);
  update_bfloat16_pairs<false>(item, rule, begin, end, words);
}

template <class T, class Rule>
ONEPASS_WALK void update_range(const TensorItem& item, const DType* dtype, const Rule& rule, int64_t begin,
                               int64_t end) {
  constexpr int kLists = kFirstState + Rule::kStates;
  if constexpr (sizeof(T) == sizeof(float)) {
    bool all_bfloat16 = true;
    for (int k = 0; k < kLists; ++k) all_bfloat16 = all_bfloat16 && dtype[k] == DType::kBFloat16;
    if (all_bfloat16) return update_bfloat16(item, rule, begin, end, nullptr);
  }
  T* at[kLists];
  for (int k = 0; k < kLists; ++k) {
    if (dtype[k] != dtype_of<T>) return update_strips<T>(item, dtype, rule, begin, end);
    at[k] = static_cast<T*>(item.list[k]) + begin;
  }
  apply(rule, at[kParam], at[kGrad], at + kFirstState, end - begin);
}

// What the walk below runs: an update, a functor (item, dtype, begin, end) that brings elements begin .. end
// of one tensor up to date. This one is a rule with nothing else; step.h has the one with all that a step
// does.
template <class T, class Rule>
struct RuleUpdate {
  Rule rule;
  void operator()(const TensorItem& item, const DType* dtype, int64_t begin, int64_t end) const {
    update_range<T>(item, dtype, rule, begin, end);
  }
};

// A multiple of align, which divides kMinChunk.
inline int64_t chunk_size(int64_t numel, int threads, int64_t align) {
  const int64_t even = numel / (threads * kChunksPerThread) / align * align;
  return even < kMinChunk ? kMinChunk : even > kMaxChunk ? kMaxChunk : even;
}

// What the threads of one call share. MakeUpdate: rule index -> update.
template <class MakeUpdate>
struct MultiTensorWork {
  const TensorList& list;
  const MakeUpdate& make_update;
  int64_t align;

  // Where a cut at element x of the list falls in a tensor: on a multiple of align, the same for both sides.
  int64_t cut(const TensorItem& item, int64_t x) const {
    const int64_t offset = x - item.begin;
    if (offset <= 0) return 0;
    return offset >= item.numel ? item.numel : offset / align * align;
  }

  void update_chunk(int64_t first, int64_t last) const {
    int64_t i = tensor_at(list.items, list.count, &TensorItem::begin, first);
    int64_t made = -1;
    auto update = make_update(list.items[i].rule);
    for (; i < list.count && list.items[i].begin < last; ++i) {
      const TensorItem& item = list.items[i];
      if (made != item.rule) update = make_update(made = item.rule);
      const int64_t begin = cut(item, first), end = cut(item, last);
      if (begin < end) update(item, list.dtype, begin, end);
    }
  }
};

// Runs the updates of make_update(rule index) over all elements. align: chunks of a tensor begin at multiples
// of it.
template <class MakeUpdate>
void for_each_chunk(const TensorList& list, int threads, int64_t align, const MakeUpdate& make_update) {
  if (list.numel == 0) return;
  const int64_t chunk = chunk_size(list.numel, threads, align);
  const int64_t chunks = (list.numel + chunk - 1) / chunk;
  const MultiTensorWork<MakeUpdate> work{list, make_update, align};
  for_each_unit(threads, chunks, [&](int64_t i) {
    const int64_t first = i * chunk;
    work.update_chunk(first, first + chunk < list.numel ? first + chunk : list.numel);
  });
}

// make_rule(rule index) -> Rule.
template <class T, class MakeRule>
void multi_tensor(const TensorList& list, int threads, const MakeRule& make_rule) {
  using Rule = decltype(make_rule(0));
  for_each_chunk(list, threads, kChunkAlign, [&](int64_t i) { return RuleUpdate<T, Rule>{make_rule(i)}; });
}

}  // namespace onepass::ONEPASS_ISA
