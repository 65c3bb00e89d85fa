// stored.cuh - loads and stores V elements of a parameter's value as the storage of its list (tensor_list.h)
// keeps it, and makes the draws by which they are rounded, on the GPU. CPU: stored.h.
#pragma once

#include "core/packs.cuh"
#include "loops/tensors/tensor_list.h"
#include "math/draws.h"
#include "math/rounding.h"

namespace onepass::gpu {

// By ?: and not by index, which would put the words into memory.
__device__ __forceinline__ uint32_t word_of(const PhiloxWords& four, int k) {
  return k < 2 ? (k == 0 ? four.word[0] : four.word[1]) : (k == 2 ? four.word[2] : four.word[3]);
}

// draw[v]: the word of element i + v; the draw of the list with rotation r is the low half of
// rotate_right(draw[v], r).
template <int V>
__device__ __forceinline__ void draw_pack(const math::Draws& draws, uint32_t tensor, int64_t i,
                                          uint32_t (&draw)[V]) {
  const DrawPlaces& part = draws.part;
  const int64_t first = part.number(i);
  const bool one_block = V > 1 && first % V == 0 && part.run(i, V) == V;
  PhiloxWords four{};
  math::DrawPlace place = math::draw_place(first / 2);
  if (one_block) four = math::draw_block(draws, tensor, place.block);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    int word = place.word + v / 2;
    const int64_t at = one_block ? first + v : part.number(i + v);
    if (!one_block) {
      place = math::draw_place(at / 2);
      four = math::draw_block(draws, tensor, place.block);
      word = place.word;
    }
    draw[v] = rotate_right(word_of(four, word), place.rotation + (at % 2 != 0 ? 16 : 0));
  }
}

template <class S>
__device__ __forceinline__ S stochastic(float value, uint32_t draw) {
  if constexpr (std::is_same_v<S, __half>) {
    return __ushort_as_half(math::stochastic_float16(value, draw));
  } else {
    return __ushort_as_bfloat16(math::stochastic_bfloat16(value, draw));
  }
}

template <class S>
__device__ __forceinline__ uint16_t raw_bits(S stored) {
  if constexpr (std::is_same_v<S, __half>) {
    return __half_as_ushort(stored);
  } else {
    return __bfloat16_as_ushort(stored);
  }
}

// to[0 .. V) = registers[0 .. V), rounded by the draws; the rounded values are left in registers.
template <int V, class T, class S>
__device__ __forceinline__ void store_stochastic(S* to, bool aligned, T (&registers)[V],
                                                 const uint32_t (&draw)[V], int rotation) {
  if constexpr (sizeof(S) == 2) {
    S raw[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      raw[v] = stochastic<S>(registers[v], rotate_right(draw[v], rotation));
      registers[v] = widen(raw[v]);
    }
    store_raw<V>(to, aligned, raw);
  } else {
    store_pack<V>(to, aligned, registers);
  }
}

// The parameter's value. P: stored type of the parameter; low: list kLow, where the storage has it.
template <class P, class T, int V>
struct StoredPack {
  P* param;
  void* low;
  Storage storage;

  template <class S>
  static __device__ __forceinline__ bool aligned(const S* at) {
    return pack_aligned<S, V>(at);
  }

  __device__ __forceinline__ void load(int64_t i, T (&value)[V]) const {
    if constexpr (sizeof(P) == 2) {
      load_pack<V>(param + i, aligned(param + i), value);
      if (storage == Storage::kMaster) {
        float master[V];
        const float* from = static_cast<const float*>(low) + i;
        load_pack<V>(from, aligned(from), master);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          value[v] = math::master_or_stored(master[v], raw_bits(narrow<P>(master[v])), value[v],
                                            raw_bits(narrow<P>(value[v])));
        }
      } else if (storage == Storage::kKahan) {
        T rest[V];
        const P* from = static_cast<const P*>(low) + i;
        load_pack<V>(from, aligned(from), rest);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const P nearly = narrow<P>(math::nearly_sum(value[v], rest[v]));
          value[v] = math::sum_or_stored(value[v], rest[v], raw_bits(nearly), raw_bits(narrow<P>(value[v])));
        }
      } else if (storage == Storage::kRemainder) {
        uint16_t rest[V];
        const uint16_t* from = static_cast<const uint16_t*>(low) + i;
        load_raw<V>(from, aligned(from), rest);
#pragma unroll
        for (int v = 0; v < V; ++v) value[v] = math::join(uint16_t(bits_of(value[v]) >> 16), rest[v]);
      }
    } else {
      load_pack<V>(param + i, aligned(param + i), value);
    }
  }

  // Leaves in value what the storage keeps of it.
  __device__ __forceinline__ void store(int64_t i, T (&value)[V], const uint32_t (&draw)[V]) const {
    if constexpr (sizeof(P) == 2) {
      if (storage == Storage::kStochastic) {
        return store_stochastic<V>(param + i, aligned(param + i), value, draw, math::list_rotation(0));
      }
      if (storage == Storage::kRemainder) return store_split(i, value);
      store_pack<V>(param + i, aligned(param + i), value);
      if (storage == Storage::kMaster) {
        float* to = static_cast<float*>(low) + i;
        return store_pack<V>(to, aligned(to), value);
      }
      T rest[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const T rounded = widen(narrow<P>(value[v]));
        rest[v] = math::residue(value[v], rounded);
        value[v] = rounded;
      }
      if (storage != Storage::kKahan) return;
      P* to = static_cast<P*>(low) + i;
      store_pack<V>(to, aligned(to), rest);
#pragma unroll
      for (int v = 0; v < V; ++v) value[v] += widen(narrow<P>(rest[v]));
    } else {
      store_pack<V>(param + i, aligned(param + i), value);
    }
  }

 private:
  __device__ __forceinline__ void store_split(int64_t i, const T (&value)[V]) const {
    uint16_t upper[V], rest[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const math::Split both = math::split(value[v]);
      upper[v] = both.stored;
      rest[v] = both.remainder;
    }
    uint16_t* const stored = reinterpret_cast<uint16_t*>(param) + i;
    uint16_t* const remainder = static_cast<uint16_t*>(low) + i;
    store_raw<V>(stored, aligned(stored), upper);
    store_raw<V>(remainder, aligned(remainder), rest);
  }
};

}  // namespace onepass::gpu
