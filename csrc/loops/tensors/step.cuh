// step.cuh - an update rule with all that a step does in the same pass (tail.h, Storage), on the GPU: the
// walk of multi_tensor.cuh. CPU: step.h.
//
// One kernel serves all combinations. What a step does is known at run time and the same for every thread of
// a launch, and the kernel waits for memory, not for the branches.
#pragma once

#include "loops/tensors/leaves.h"
#include "loops/tensors/measure.cuh"
#include "loops/tensors/multi_tensor.cuh"
#include "loops/tensors/stored.cuh"
#include "loops/tensors/tail.h"

namespace onepass::gpu {

static_assert(kThreads == kReduceThreads, "blocks are merged by block.cuh");

template <class Source, int kStates>
struct StepSlot : Slot<Source, kFirstState + kStates + 2> {
  static constexpr int kLowList = kFirstState + kStates;
  static constexpr int kEmaList = kLowList + 1;
  int64_t first_leaf;
  uint32_t number;
};

// What the elements of one tensor have in common. T: arithmetic type, and stored type of the average.
template <class T>
struct StepOfTensor {
  RuleTail<T> own;
  uint32_t number;
  DType grad;
  Storage storage;
  bool has_ema, zero_grad, measured, skipped;
};

// V elements of one tensor, from element i on.
template <class Types, class Rule, int V>
struct StepPack {
  static constexpr int kStates = Rule::kStates;
  using P = typename Types::P;
  using S = typename Types::S;
  using T = typename Types::T;

  StoredPack<P, T, V> value_at;
  void* g;
  S* state[kStates + 1];
  T* ema;

  template <class Slot>
  __device__ __forceinline__ StepPack(const Slot& slot, Storage storage)
      : value_at{static_cast<P*>(slot.list[kParam]), slot.list[Slot::kLowList], storage},
        g(slot.list[kGrad]),
        ema(static_cast<T*>(slot.list[Slot::kEmaList])) {
#pragma unroll
    for (int k = 0; k < kStates; ++k) state[k] = static_cast<S*>(slot.list[kFirstState + k]);
  }

  __device__ __forceinline__ void run(const Rule& rule, const StepOfTensor<T>& step, int64_t i,
                                      ThreadMeasure& measure) const {
    if (!step.skipped || step.measured) {
      T value[V], before[V], gradient[V];
      value_at.load(i, value);
      with_typed(step.grad, g, [&](auto* typed) {
        using G = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        load_pack<V>(typed + i, pack_aligned<G, V>(typed + i), gradient);
      });
#pragma unroll
      for (int v = 0; v < V; ++v) before[v] = value[v];
      if (!step.skipped) update(rule, step, i, value, gradient);
      if (step.measured) {
#pragma unroll
        for (int v = 0; v < V; ++v) measure.add(before[v], value[v], gradient[v]);
      }
    }
    if (step.zero_grad) zero(step.grad, i);
  }

 private:
  __device__ __forceinline__ void update(const Rule& rule, const StepOfTensor<T>& step, int64_t i,
                                         T (&value)[V], const T (&gradient)[V]) const {
    T s[kStates + 1][V];
    uint32_t draw[V] = {};
    const bool stochastic = sizeof(T) == sizeof(float) && step.storage == Storage::kStochastic;
    if (stochastic) draw_pack<V>(step.own.draws, step.number, i, draw);
#pragma unroll
    for (int k = 0; k < kStates; ++k) load_pack<V>(state[k] + i, pack_aligned<S, V>(state[k] + i), s[k]);
    apply(rule, value, gradient, s);
    value_at.store(i, value, draw);
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      const bool aligned = pack_aligned<S, V>(state[k] + i);
      if (stochastic) {
        store_stochastic<V>(state[k] + i, aligned, s[k], draw, math::list_rotation(k + 1));
      } else {
        store_pack<V>(state[k] + i, aligned, s[k]);
      }
    }
    if (!step.has_ema) return;
    const bool aligned = pack_aligned<T, V>(ema + i);
    T average[V];
    load_pack<V>(ema + i, aligned, average);
#pragma unroll
    for (int v = 0; v < V; ++v) step.own.average(average[v], value[v]);
    store_pack<V>(ema + i, aligned, average);
  }

  __device__ __forceinline__ void zero(DType grad, int64_t i) const {
    with_typed(grad, g, [&](auto* typed) {
      using G = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
      G* const to = static_cast<G*>(g) + i;
      const T zeros[V] = {};
      store_pack<V>(to, pack_aligned<G, V>(to), zeros);
    });
  }
};

// Source: has `Rule make() const` and `RuleTail<T> tail<T>() const`.
template <class Types, class Rule, class Source>
__global__ void __launch_bounds__(kThreads)
    step_kernel(const __grid_constant__ Table<StepSlot<Source, Rule::kStates>> table, const Tail tail,
                const Storage storage) {
  using T = typename Types::T;
  constexpr int V = Types::kPack;
  const auto& slot = table.slot[slot_of_block(table, blockIdx.x)];
  const bool skipped = tail.control && tail.control->skip != 0;
  if (skipped && !tail.zero_grad && !tail.statistics) return;
  const StepOfTensor<T> step{
      slot.source.template tail<T>(), slot.number, table.grad, storage, tail.ema, tail.zero_grad,
      tail.statistics != nullptr,     skipped};
  const Rule rule = rule_of<Rule>(slot.source);
  const StepPack<Types, Rule, V> packs(slot, storage);
  const StepPack<Types, Rule, 1> singles(slot, storage);
  ThreadMeasure measure;
  walk<V>(
      range_of_block<Types>(slot, table.chunk), [&](int64_t i) { packs.run(rule, step, i, measure); },
      [&](int64_t i) { singles.run(rule, step, i, measure); });
  if (!tail.statistics) return;
  math::Statistics sum = measure.merge();
  if (threadIdx.x != 0) return;
  if (skipped) sum.lost = 0;  // nothing was to be updated
  const double group = step.own.group;
  const int64_t leaf = blockIdx.x - slot.first_block;
  StatisticsRow* const rows = tail.statistics + slot.first_leaf;
  rows[leaf] = {sum, group};
  // A tensor whose first elements are before the first chunk may have one block less than it has leaves.
  const int64_t head = head_of<typename Types::P>(slot.list[kParam], slot.numel);
  const int64_t blocks = blocks_of(slot.numel, head, table.chunk);
  if (leaf + 1 == blocks && blocks < leaves_of(slot.numel)) rows[leaf + 1] = {{}, group};
}

// make_source(rule index) -> Source. Launches on `stream` of the current device.
template <class Types, class Rule, class MakeSource>
void multi_tensor_step(const TensorList& list, const Tail& tail, int device, cudaStream_t stream,
                       const MakeSource& make_source) {
  using Source = std::decay_t<decltype(make_source(0))>;
  using TensorSlot = StepSlot<Source, Rule::kStates>;
  int lists[TensorSlot::kLists];
  for (int k = 0; k < TensorSlot::kLowList; ++k) lists[k] = k;
  lists[TensorSlot::kLowList] = kLow;
  lists[TensorSlot::kEmaList] = kEma;
  // Statistics have the same bits whatever the number of processors.
  const int64_t chunk =
      tail.statistics ? kLeaf : chunk_size(list.numel, multiprocessor_count(device), Types::kPack);
  for_each_table<Types, TensorSlot>(
      list, lists, chunk,
      [&](TensorSlot& slot, const TensorItem& item) {
        slot.source = make_source(item.rule);
        slot.first_leaf = item.first_leaf;
        slot.number = item.number;
      },
      [&](const auto& table, dim3 blocks) {
        return launch(step_kernel<Types, Rule, Source>, blocks, dim3(kThreads), 0, stream, table, tail,
                      list.storage);
      });
}

}  // namespace onepass::gpu
