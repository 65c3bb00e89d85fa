// multi_tensor.cuh - one update rule over the elements of many tensors, on the GPU. CPU: multi_tensor.h.
//
// The table of tensors travels by value in the kernel's parameters: no copy, no allocation, nothing a
// captured graph would have to keep alive. Each tensor is cut in chunks, one block a chunk; a block finds its
// tensor by binary search, so one launch takes any number of blocks and as many tensors as the parameters
// hold (hundreds). The first elements up to a 16-byte boundary of the parameter and the last ones that fill
// no pack go one by one, everything between in packs; a list that is misaligned against the parameter loses
// only its own packs. step.cuh has the kernel for all that a step does in the same pass.
#pragma once

#include <type_traits>

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/tensors/tensor_list.h"

namespace onepass::gpu {

constexpr int kThreads = 256;
constexpr int64_t kMaxChunk = 64 * 1024;
// Enough blocks that the last wave of them is a small part of all.
constexpr int64_t kBlocksPerProcessor = 32;

// P: stored type of parameters, S: stored type of states, T: arithmetic type.
template <class P_, class S_, class T_>
struct Types {
  using P = P_;
  using S = S_;
  using T = T_;
  static constexpr int kPack = kPackBytes / int(sizeof(P));
};

// Source: what a Rule is made of, once a block: the Rule itself, or something with `Rule make() const` that
// reads device memory.
template <class Source_, int kLists_>
struct Slot {
  using Source = Source_;
  static constexpr int kLists = kLists_;
  void* list[kLists];
  int64_t numel;
  uint32_t first_block;
  Source source;
};

template <class Slot>
struct Table {
  static constexpr int kCapacity = int((kMaxParameterBytes - 64) / sizeof(Slot));
  int32_t count;
  DType grad;
  int64_t chunk;
  Slot slot[kCapacity];
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

template <class Rule, class T, int V>
__device__ __forceinline__ void apply(const Rule& rule, T (&param)[V], const T (&grad)[V],
                                      T (&s)[Rule::kStates + 1][V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if constexpr (Rule::kStates == 0) rule(param[v], grad[v]);
    if constexpr (Rule::kStates == 1) rule(param[v], grad[v], s[0][v]);
    if constexpr (Rule::kStates == 2) rule(param[v], grad[v], s[0][v], s[1][v]);
    if constexpr (Rule::kStates == 3) rule(param[v], grad[v], s[0][v], s[1][v], s[2][v]);
  }
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
    apply(rule, param, gradient, s);
    store_pack<V>(p + i, aligned[kParam], param);
#pragma unroll
    for (int k = 0; k < kStates; ++k) store_pack<V>(state[k] + i, aligned[kFirstState + k], s[k]);
  }
};

// The last slot whose blocks begin at or before this one.
template <class Table>
__device__ __forceinline__ int slot_of_block(const Table& table, uint32_t block) {
  using Slot = std::decay_t<decltype(table.slot[0])>;
  return tensor_at(table.slot, table.count, &Slot::first_block, block);
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

// What one block walks of a tensor: packs, and before and after them single elements.
struct BlockRange {
  int64_t begin, packs_begin, packs_end, end;
};

template <class Types, class Slot>
__device__ __forceinline__ BlockRange range_of_block(const Slot& slot, int64_t chunk) {
  constexpr int V = Types::kPack;
  const int64_t head = head_of<typename Types::P>(slot.list[kParam], slot.numel);
  const int64_t block = blockIdx.x - slot.first_block;
  const bool is_last = block + 1 == blocks_of(slot.numel, head, chunk);
  const int64_t packs_begin = head + block * chunk;
  const int64_t end = is_last ? slot.numel : packs_begin + chunk;
  return {block == 0 ? 0 : packs_begin, packs_begin, packs_begin + (end - packs_begin) / V * V, end};
}

// Calls pack(i) for each pack and single(i) for each other element that is this thread's.
template <int V, class ForPack, class ForSingle>
__device__ __forceinline__ void walk(const BlockRange& part, const ForPack& pack, const ForSingle& single) {
  for (int64_t i = part.packs_begin + int64_t(threadIdx.x) * V; i < part.packs_end; i += kThreads * V)
    pack(i);
  const int64_t before = part.packs_begin - part.begin, after = part.end - part.packs_end;
  for (int64_t k = threadIdx.x; k < before + after; k += kThreads) {
    single(k < before ? part.begin + k : part.packs_end + (k - before));
  }
}

template <class Types, class Rule, class Source>
__global__ void __launch_bounds__(kThreads)
    multi_tensor_kernel(const __grid_constant__ Table<Slot<Source, kFirstState + Rule::kStates>> table) {
  constexpr int V = Types::kPack;
  const auto& slot = table.slot[slot_of_block(table, blockIdx.x)];
  const BlockRange part = range_of_block<Types>(slot, table.chunk);
  const Rule rule = rule_of<Rule>(slot.source);
  const Update<Types, Rule, V> packs(slot, table.grad, part.packs_begin);
  const Update<Types, Rule, 1> singles(slot, table.grad, part.begin);
  walk<V>(part, [&](int64_t i) { packs.run(rule, i); }, [&](int64_t i) { singles.run(rule, i); });
}

// A whole number of packs for each thread of a block.
inline int64_t chunk_size(int64_t numel, int processors, int pack) {
  const int64_t unit = int64_t(kThreads) * pack;
  const int64_t even = (numel / (processors * kBlocksPerProcessor) + unit - 1) / unit * unit;
  return even < unit ? unit : even > kMaxChunk ? kMaxChunk : even;
}

// Cuts the list in tables and calls start(table, blocks) for each. lists: the lists of a slot, by their
// number in an item. fill(slot, item): the rest of a slot.
template <class Types, class Slot, class Fill, class Start>
void for_each_table(const TensorList& list, const int (&lists)[Slot::kLists], int64_t chunk, const Fill& fill,
                    const Start& start) {
  Table<Slot> table;
  table.grad = list.dtype[kGrad];
  table.chunk = chunk;
  table.count = 0;
  uint32_t blocks = 0;
  const auto flush = [&] {
    if (table.count > 0) cuda_check(start(table, dim3(blocks)), "multi_tensor");
    table.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i < list.count; ++i) {
    const TensorItem& item = list.items[i];
    if (item.numel == 0) continue;
    Slot& slot = table.slot[table.count++];
    for (int k = 0; k < Slot::kLists; ++k) slot.list[k] = item.list[lists[k]];
    slot.numel = item.numel;
    slot.first_block = blocks;
    fill(slot, item);
    const int64_t head = head_of<typename Types::P>(item.list[kParam], item.numel);
    blocks += uint32_t(blocks_of(item.numel, head, chunk));
    if (table.count == Table<Slot>::kCapacity) flush();
  }
  flush();
}

// make_source(rule index) -> Source. Launches on `stream` of the current device.
template <class Types, class Rule, class MakeSource>
void multi_tensor(const TensorList& list, int device, cudaStream_t stream, const MakeSource& make_source) {
  using Source = std::decay_t<decltype(make_source(0))>;
  using TensorSlot = Slot<Source, kFirstState + Rule::kStates>;
  int lists[TensorSlot::kLists];
  for (int k = 0; k < TensorSlot::kLists; ++k) lists[k] = k;
  const int64_t chunk = chunk_size(list.numel, multiprocessor_count(device), Types::kPack);
  for_each_table<Types, TensorSlot>(
      list, lists, chunk,
      [&](TensorSlot& slot, const TensorItem& item) { slot.source = make_source(item.rule); },
      [&](const auto& table, dim3 blocks) {
        return launch(multi_tensor_kernel<Types, Rule, Source>, blocks, dim3(kThreads), 0, stream, table);
      });
}

// Calls run(Types) for the parameter and state dtypes of a list.
template <class Run>
void with_types(const TensorList& list, const Run& run) {
  const bool wide_state = list.dtype[kFirstState] == DType::kFloat32;
  switch (list.dtype[kParam]) {
    case DType::kFloat32:
      return list.dtype[kFirstState] == DType::kBFloat16 ? run(Types<float, __nv_bfloat16, float>{})
                                                         : run(Types<float, float, float>{});
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
