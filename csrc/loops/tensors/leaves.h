// leaves.h - how a reduction over many tensors is cut, the same on both devices (reduce.h, reduce.cuh).
//
// Each tensor is cut in leaves of kLeaf elements from its first one on. A leaf is reduced in an order that
// depends on nothing but its length, and leaves are put together in their order: the result has the same bits
// for any number of threads, wherever the tensors lie.
#pragma once

#include <cstdint>

#include "core/compiler.h"
#include "loops/tensors/tensor_list.h"

namespace onepass {

constexpr int64_t kLeaf = 16 * 1024;

// What one leaf came to. Two doubles, so that leaves are rows of a float64 tensor.
struct Leaf {
  double value;
  double nonfinite;  // elements that are infinite or nan
};

ONEPASS_HD constexpr int64_t leaves_of(int64_t numel) { return (numel + kLeaf - 1) / kLeaf; }

inline int64_t leaf_count(const TensorList& list) {
  int64_t count = 0;
  for (int64_t i = 0; i < list.count; ++i) count += leaves_of(list.items[i].numel);
  return count;
}

}  // namespace onepass
