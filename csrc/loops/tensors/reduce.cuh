// reduce.cuh - one number from each leaf (leaves.h) of one list of many tensors, on the GPU. CPU: reduce.h.
//
// A block reduces a leaf: thread t takes packs t, t + kReduceThreads, ...; threads are merged
// pairwise, first within warps. Packs are counted from the tensor's first element, aligned or not, so that
// the order does not depend on the address. combine() then merges all leaves in one block.
#pragma once

#include "core/bits.h"
#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/common/block.cuh"
#include "loops/tensors/leaves.h"

namespace onepass::gpu {

constexpr int kReducePack = 8;

struct LeafSlot {
  const void* data;
  int64_t numel;
  uint32_t first_block;
};

struct LeafTable {
  static constexpr int kCapacity = int((kMaxParameterBytes - 64) / sizeof(LeafSlot));
  int32_t count;
  DType dtype;
  Leaf* leaves;  // of block 0
  LeafSlot slot[kCapacity];
};

// Calls visit(x) for the elements of [begin, end) that are this thread's.
template <class S, class Visit>
__device__ __forceinline__ void for_own_elements(const S* data, int64_t begin, int64_t end,
                                                 const Visit& visit) {
  constexpr int V = kReducePack;
  using T = arithmetic<S>;
  const bool aligned = pack_aligned<S, V>(data + begin);
  for (int64_t i = begin + int64_t(threadIdx.x) * V; i < end; i += kReduceThreads * V) {
    if (i + V <= end) {
      T x[V];
      load_pack<V>(data + i, aligned, x);
#pragma unroll
      for (int v = 0; v < V; ++v) visit(x[v]);
    } else {
      for (int64_t k = i; k < end; ++k) visit(widen(data[k]));
    }
  }
}

template <class Norm>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const __grid_constant__ LeafTable table, const Norm norm) {
  const LeafSlot& slot =
      table.slot[tensor_at(table.slot, table.count, &LeafSlot::first_block, uint32_t(blockIdx.x))];
  const int64_t begin = int64_t(blockIdx.x - slot.first_block) * kLeaf;
  const int64_t end = begin + kLeaf < slot.numel ? begin + kLeaf : slot.numel;
  double value = 0, nonfinite = 0;
  with_typed(table.dtype, slot.data, [&](auto* data) {
    for_own_elements(data, begin, end, [&](auto x) { value = norm.add(value, double(x)); });
    if (!is_finite(value)) {
      for_own_elements(data, begin, end, [&](auto x) { nonfinite += !is_finite(x) ? 1 : 0; });
    }
  });
  value = merge_block(value, [&](double a, double b) { return norm.merge(a, b); });
  nonfinite = merge_block(nonfinite, [](double a, double b) { return a + b; });
  if (threadIdx.x == 0) table.leaves[blockIdx.x] = Leaf{value, nonfinite};
}

// Merges all leaves; the result is in thread 0 of a block of kReduceThreads.
template <class Norm>
__device__ __forceinline__ Leaf combine(const Norm& norm, const Leaf* leaves, int64_t count) {
  double value = 0, nonfinite = 0;
  for (int64_t i = threadIdx.x; i < count; i += kReduceThreads) {
    value = norm.merge(value, leaves[i].value);
    nonfinite += leaves[i].nonfinite;
  }
  value = merge_block(value, [&](double a, double b) { return norm.merge(a, b); });
  nonfinite = merge_block(nonfinite, [](double a, double b) { return a + b; });
  return Leaf{value, nonfinite};
}

// leaves[0 .. leaf_count(list)) of the list `which`. Launches on `stream` of the current device.
template <class Norm>
void reduce(const TensorList& list, int which, const Norm& norm, Leaf* leaves, cudaStream_t stream) {
  LeafTable table;
  table.dtype = list.dtype[which];
  table.leaves = leaves;
  table.count = 0;
  uint32_t blocks = 0;
  const auto flush = [&] {
    if (table.count == 0) return;
    cuda_check(launch(reduce_kernel<Norm>, dim3(blocks), dim3(kReduceThreads), 0, stream, table, norm),
               "reduce");
    table.leaves += blocks;
    table.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i < list.count; ++i) {
    const TensorItem& item = list.items[i];
    if (item.numel == 0) continue;
    table.slot[table.count++] = {item.list[which], item.numel, blocks};
    blocks += uint32_t(leaves_of(item.numel));
    if (table.count == LeafTable::kCapacity) flush();
  }
  flush();
}

}  // namespace onepass::gpu
