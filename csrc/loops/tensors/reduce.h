// reduce.h - one number from each leaf (leaves.h) of one list of many tensors, on the CPU. CUDA: reduce.cuh.
//
// norm: value = add(value, x) for each element, merge(a, b) for two parts, 0 for none. Element i of a leaf
// goes to lane i % kLanes; the lanes are merged pairwise. Reads each element once.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/convert.h"
#include "loops/common/fetch.h"
#include "loops/common/lanes.h"
#include "loops/tensors/leaves.h"
#include "loops/tensors/multi_tensor.h"

namespace onepass::ONEPASS_ISA {

constexpr int kLanes = 32;
constexpr int64_t kMaxLeavesPerUnit = 16;

// kStored: x lies in memory, and is not a strip in the cache.
template <bool kStored, class Norm, class T>
ONEPASS_WALK void add_strip(const Norm norm, double* __restrict lane, const T* __restrict x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (kStored) fetch_ahead(x + i, kLanes * int64_t(sizeof(T)));
    ONEPASS_INDEPENDENT
    for (int l = 0; l < kLanes; ++l) lane[l] = norm.add(lane[l], double(x[i + l]));
  }
  for (int l = 0; i < n; ++i, ++l) lane[l] = norm.add(lane[l], double(x[i]));
}

// Calls strip(values, n, in_place) for stored[begin .. end): once for all of it where it lies, if that is
// float or double, else for each strip, widened in the cache.
template <class Strip>
inline void for_each_strip(DType dtype, const void* stored, int64_t begin, int64_t end, const Strip& strip) {
  const std::true_type in_place;
  if (dtype == DType::kFloat32)
    return strip(static_cast<const float*>(stored) + begin, end - begin, in_place);
  if (dtype == DType::kFloat64)
    return strip(static_cast<const double*>(stored) + begin, end - begin, in_place);
  alignas(64) float values[kUpdateStrip];
  for (int64_t start = begin; start < end; start += kUpdateStrip) {
    const int64_t n = end - start < kUpdateStrip ? end - start : kUpdateStrip;
    fetch_ahead(static_cast<const char*>(stored) + start * size_of(dtype), n * size_of(dtype));
    load_strip(dtype, stored, start, values, n);
    strip(values, n, std::false_type{});
  }
}

template <class Norm>
inline Leaf reduce_leaf(const Norm norm, DType dtype, const void* stored, int64_t begin, int64_t end) {
  alignas(64) double lane[kLanes] = {};
  for_each_strip(dtype, stored, begin, end, [&](auto* x, int64_t n, auto stored_there) {
    add_strip<decltype(stored_there)::value>(norm, lane, x, n);
  });
  Leaf leaf{merge_lanes<kLanes>(lane, [&](double a, double b) { return norm.merge(a, b); }), 0};
  // Only elements that are not finite (or float64 squares beyond its range) make it so: nearly never.
  if (!is_finite(leaf.value)) {
    for_each_strip(dtype, stored, begin, end, [&](auto* x, int64_t n, auto) {
      for (int64_t i = 0; i < n; ++i) leaf.nonfinite += !is_finite(x[i]) ? 1.0 : 0.0;
    });
  }
  return leaf;
}

struct FirstLeaf {
  int64_t number;
};

template <class Norm>
struct ReduceWork {
  const TensorList& list;
  int which;
  const Norm norm;
  Leaf* leaves;
  std::vector<FirstLeaf> first;  // the first leaf of each tensor, and of one that would follow

  void reduce_leaves(int64_t leaf, int64_t last) const {
    int64_t i = tensor_at(first.data(), list.count, &FirstLeaf::number, leaf);
    for (; leaf < last; ++leaf) {
      while (first[size_t(i + 1)].number <= leaf) ++i;
      const TensorItem& item = list.items[i];
      const int64_t begin = (leaf - first[size_t(i)].number) * kLeaf;
      const int64_t end = begin + kLeaf < item.numel ? begin + kLeaf : item.numel;
      leaves[leaf] = reduce_leaf(norm, list.dtype[which], item.list[which], begin, end);
    }
  }
};

// leaves[0 .. leaf_count(list)) of the list `which`.
template <class Norm>
void reduce(const TensorList& list, int which, const Norm& norm, Leaf* leaves, int threads) {
  std::vector<FirstLeaf> first(size_t(list.count) + 1, FirstLeaf{0});
  for (int64_t i = 0; i < list.count; ++i) {
    first[size_t(i + 1)].number = first[size_t(i)].number + leaves_of(list.items[i].numel);
  }
  const int64_t count = first.back().number;
  if (count == 0) return;
  const int64_t share = count / (threads * kChunksPerThread);
  const int64_t per_unit = share < 1 ? 1 : share > kMaxLeavesPerUnit ? kMaxLeavesPerUnit : share;
  const ReduceWork<Norm> work{list, which, norm, leaves, std::move(first)};
  for_each_unit(threads, (count + per_unit - 1) / per_unit, [&](int64_t i) {
    const int64_t leaf = i * per_unit;
    work.reduce_leaves(leaf, leaf + per_unit < count ? leaf + per_unit : count);
  });
}

}  // namespace onepass::ONEPASS_ISA
