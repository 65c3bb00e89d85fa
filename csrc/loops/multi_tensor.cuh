// multi_tensor.cuh - one update rule over the elements of many tensors, on the GPU. CPU: multi_tensor.h.
//
// The table of tensors travels by value in the kernel's parameters: no copy, no allocation, nothing a
// captured graph would have to keep alive. Each tensor is cut in chunks, one block a chunk; a block finds its
// tensor by binary search, so one launch takes any number of blocks and as many tensors as the parameters
// hold (hundreds). The first elements up to a 16-byte boundary of the parameter and the last ones that fill
// no pack go one by one, everything between in packs; a list that is misaligned against the parameter loses
// only its own packs.
#pragma once

#include <type_traits>

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/tensor_list.h"

namespace onepass::gpu {

constexpr int kThreads = 256;
constexpr int64_t kMaxChunk = 64 * 1024;
// Enough blocks that the last wave of them is a small part of all.
constexpr int64_t kBlocksPerProcessor = 32;

// P: stored type of parameters, S: of states, T: arithmetic.
template <class P_, class S_, class T_>
struct Types {
  using P = P_;
  using S = S_;
  using T = T_;
  static constexpr int kPack = kPackBytes / int(sizeof(P));
};

// Source: what a Rule is made of, once a block: the Rule itself, or something with `Rule make() const` that
// reads device memory.
template <class Source, int kLists>
struct Slot {
  void* list[kLists];
  int64_t numel;
  uint32_t first_block;
  Source source;
};

template <class Source, int kLists>
struct Table {
  static constexpr int kCapacity = int((kMaxParameterBytes - 64) / sizeof(Slot<Source, kLists>));
  int32_t count;
  DType grad;
  int64_t chunk;
  Slot<Source, kLists> slot[kCapacity];
};

// Elements before the first 16-byte boundary of the parameter, at most numel.
template <class P>
__host__ __device__ __forceinline__ int64_t head_of(const void* param, int64_t numel) {
  const int64_t past = int64_t(reinterpret_cast<uintptr_t>(param) % kPackBytes);
  const int64_t head = (kPackBytes - past) % kPackBytes / int64_t(sizeof(P));
  return head < numel ? head : numel;
}

__host__ __device__ __forceinline__ int64_t blocks_of(int64_t numel, int64_t head, int64_t chunk) {
  const int64_t blocks = (numel - head + chunk - 1) / chunk;
  return blocks > 0 ? blocks : 1;
}

// V elements of one tensor, from element i on.
template <class Types, class Rule, int V>
struct Update {
  static constexpr int kStates = Rule::kStates;
  using P = typename Types::P;
  using S = typename Types::S;
  using T = typename Types::T;

  P* p;
  const void* g;
  S* state[kStates + 1];
  DType grad;
  bool aligned[kFirstState + kStates + 1];

  template <class Slot>
  __device__ __forceinline__ Update(const Slot& slot, DType grad_dtype, int64_t first)
      : p(static_cast<P*>(slot.list[kParam])), g(slot.list[kGrad]), grad(grad_dtype) {
    aligned[kParam] = pack_aligned<P, V>(p + first);
    with_typed(grad, g, [&](auto* typed) {
      using G = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
      aligned[kGrad] = pack_aligned<G, V>(typed + first);
    });
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      state[k] = static_cast<S*>(slot.list[kFirstState + k]);
      aligned[kFirstState + k] = pack_aligned<S, V>(state[k] + first);
    }
  }

  __device__ __forceinline__ void run(const Rule& rule, int64_t i) const {
    T param[V], gradient[V], s[kStates + 1][V];
    load_pack<V>(p + i, aligned[kParam], param);
#pragma unroll
    for (int k = 0; k < kStates; ++k) load_pack<V>(state[k] + i, aligned[kFirstState + k], s[k]);
    with_typed(grad, g, [&](auto* typed) { load_pack<V>(typed + i, aligned[kGrad], gradient); });
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (kStates == 0) rule(param[v], gradient[v]);
      if constexpr (kStates == 1) rule(param[v], gradient[v], s[0][v]);
      if constexpr (kStates == 2) rule(param[v], gradient[v], s[0][v], s[1][v]);
      if constexpr (kStates == 3) rule(param[v], gradient[v], s[0][v], s[1][v], s[2][v]);
    }
    store_pack<V>(p + i, aligned[kParam], param);
#pragma unroll
    for (int k = 0; k < kStates; ++k) store_pack<V>(state[k] + i, aligned[kFirstState + k], s[k]);
  }
};

template <class Source, int kLists>
__device__ __forceinline__ int slot_of_block(const Table<Source, kLists>& table, uint32_t block) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.slot[middle].first_block <= block ? low : high) = middle;
  }
  return low;
}

template <class Rule, class Source>
__device__ __forceinline__ Rule rule_of(const Source& source) {
  if constexpr (std::is_same_v<Rule, Source>) {
    return source;
  } else {
    KERNEL_SMEM(Rule, made);
    if (threadIdx.x == 0) made = source.make();
    __syncthreads();
    return made;
  }
}

template <class Types, class Rule, class Source>
__global__ void __launch_bounds__(kThreads)
    multi_tensor_kernel(const __grid_constant__ Table<Source, kFirstState + Rule::kStates> table) {
  constexpr int V = Types::kPack;
  const auto& slot = table.slot[slot_of_block(table, blockIdx.x)];
  const Rule rule = rule_of<Rule>(slot.source);

  const int64_t head = head_of<typename Types::P>(slot.list[kParam], slot.numel);
  const int64_t block = blockIdx.x - slot.first_block;
  const bool is_last = block + 1 == blocks_of(slot.numel, head, table.chunk);
  const int64_t packs_begin = head + block * table.chunk;
  const int64_t begin = block == 0 ? 0 : packs_begin;
  const int64_t end = is_last ? slot.numel : packs_begin + table.chunk;
  const int64_t packs_end = packs_begin + (end - packs_begin) / V * V;

  const Update<Types, Rule, V> packs(slot, table.grad, packs_begin);
  for (int64_t i = packs_begin + int64_t(threadIdx.x) * V; i < packs_end; i += kThreads * V)
    packs.run(rule, i);

  const Update<Types, Rule, 1> singles(slot, table.grad, begin);
  const int64_t before = packs_begin - begin, after = end - packs_end;
  for (int64_t k = threadIdx.x; k < before + after; k += kThreads) {
    singles.run(rule, k < before ? begin + k : packs_end + (k - before));
  }
}

// A whole number of packs for each thread of a block.
inline int64_t chunk_size(int64_t numel, int processors, int pack) {
  const int64_t unit = int64_t(kThreads) * pack;
  const int64_t even = (numel / (processors * kBlocksPerProcessor) + unit - 1) / unit * unit;
  return even < unit ? unit : even > kMaxChunk ? kMaxChunk : even;
}

// make_source(rule index) -> Source. Launches on `stream` of the current device.
template <class Types, class Rule, class MakeSource>
void multi_tensor(const TensorList& list, int device, cudaStream_t stream, const MakeSource& make_source) {
  using Source = std::decay_t<decltype(make_source(0))>;
  constexpr int kLists = kFirstState + Rule::kStates;
  using Tensors = Table<Source, kLists>;
  Tensors table;
  table.grad = list.dtype[kGrad];
  table.chunk = chunk_size(list.numel, multiprocessor_count(device), Types::kPack);
  table.count = 0;
  uint32_t blocks = 0;
  const auto flush = [&] {
    if (table.count == 0) return;
    cuda_check(
        launch(multi_tensor_kernel<Types, Rule, Source>, dim3(blocks), dim3(kThreads), 0, stream, table),
        "multi_tensor");
    table.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i < list.count; ++i) {
    const TensorItem& item = list.items[i];
    if (item.numel == 0) continue;
    auto& slot = table.slot[table.count++];
    for (int k = 0; k < kLists; ++k) slot.list[k] = item.list[k];
    slot.numel = item.numel;
    slot.first_block = blocks;
    slot.source = make_source(item.rule);
    const int64_t head = head_of<typename Types::P>(item.list[kParam], item.numel);
    blocks += uint32_t(blocks_of(item.numel, head, table.chunk));
    if (table.count == Tensors::kCapacity) flush();
  }
  flush();
}

// Calls run(Types) for the parameter and state dtypes of a list.
template <class Run>
void with_types(const TensorList& list, const Run& run) {
  const bool wide_state = list.dtype[kFirstState] == DType::kFloat32;
  switch (list.dtype[kParam]) {
    case DType::kFloat32:
      return run(Types<float, float, float>{});
    case DType::kFloat64:
      return run(Types<double, double, double>{});
    case DType::kBFloat16:
      return wide_state ? run(Types<__nv_bfloat16, float, float>{})
                        : run(Types<__nv_bfloat16, __nv_bfloat16, float>{});
    case DType::kFloat16:
      break;
  }
  wide_state ? run(Types<__half, float, float>{}) : run(Types<__half, __half, float>{});
}

}  // namespace onepass::gpu
