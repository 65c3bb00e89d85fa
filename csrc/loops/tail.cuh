// tail.cuh - what follows the update of V elements on the GPU (tail.h): called by multi_tensor.cuh with the
// parameter still in registers. CPU: tail_rule.h.
#pragma once

#include <type_traits>

#include "core/packs.cuh"
#include "loops/tail.h"
#include "math/ema.h"

namespace onepass::gpu {

// The plain update: nothing follows.
struct NoTail {
  template <int V, class T>
  __device__ __forceinline__ void run(int64_t, const T (&)[V]) const {}
};

// P: stored type of the parameter, T: of the average, and arithmetic.
template <class P, class T>
struct DeviceTail {
  T* ema;  // nullptr: none
  void* grad;
  DType grad_dtype;
  bool zero_grad;
  math::Ema<T> rule;

  // param: elements i .. i + V after the update, not yet rounded to P.
  template <int V>
  __device__ __forceinline__ void run(int64_t i, const T (&param)[V]) const {
    if (ema) {
      const bool aligned = pack_aligned<T, V>(ema + i);
      T average[V];
      load_pack<V>(ema + i, aligned, average);
#pragma unroll
      for (int v = 0; v < V; ++v) rule(average[v], T(widen(narrow<P>(param[v]))));
      store_pack<V>(ema + i, aligned, average);
    }
    if (zero_grad) zero<V>(i);
  }

  template <int V>
  __device__ __forceinline__ void zero(int64_t i) const {
    with_typed(grad_dtype, grad, [&](auto* typed) {
      using G = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
      G* const to = static_cast<G*>(grad) + i;
      const T zeros[V] = {};
      store_pack<V>(to, pack_aligned<G, V>(to), zeros);
    });
  }
};

}  // namespace onepass::gpu
