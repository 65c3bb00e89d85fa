// coded.h - an update rule over states in 8 bits (math/codes.h), block by block, on the CPU.
//
// Each step of the work, decoding, the rule and coding, runs over a whole strip: within a block the loads of
// one would wait for the stores of the other, which makes a strip take 1.5 times as long.
#pragma once

#include <cstring>
#include <type_traits>

#include "loops/tensors/code_lanes.h"
#include "loops/tensors/multi_tensor.h"
#include "loops/tensors/stored.h"
#include "math/codes.h"

namespace onepass::ONEPASS_ISA {

static_assert(kUpdateStrip % math::kCodeBlock == 0 && kChunkAlign % math::kCodeBlock == 0,
              "strips and chunks begin with a block");

// Where the codes of some elements are: those of state k in codes[k], the scales of each block side by side.
struct CodedStates {
  uint8_t* codes[kScales - kFirstState];
  float* scales;
};

template <bool kSigned>
ONEPASS_HD void decode_block(const uint8_t* __restrict codes, uint32_t scale, float* __restrict x) {
  constexpr int n = math::kCodeBlock;
  using Code = math::StateCode<kSigned>;
  if (scale & math::kSignBit) {
    for (int l = 0; l < n; ++l) x[l] = Code::decode_flagged(codes[l], scale);
    return;
  }
#if defined(__AVX512BW__)
  for (int l = 0; l < n; l += kCodeLanes) decode_lanes<kSigned>(codes + l, scale, x + l);
#else
  ONEPASS_LANES
  for (int l = 0; l < n; ++l) x[l] = Code::decode(codes[l], scale);
#endif
}

// Returns the scale's bits.
template <bool kSigned>
ONEPASS_HD uint32_t encode_block(const float* __restrict x, const math::BlockDither dither,
                                 uint8_t* __restrict codes) {
  constexpr int n = math::kCodeBlock;
  using Code = math::StateCode<kSigned>;
#if defined(__AVX512BW__)
  const int32_t top = top_of_lanes(x);
#else
  int32_t top = 0;
  ONEPASS_LANES
  for (int l = 0; l < n; ++l) {
    const int32_t magnitude = int32_t(bits_of(x[l]) & ~math::kSignBit);
    top = magnitude > top ? magnitude : top;
  }
#endif
  if (uint32_t(top) >= math::kInfinityBits) {
    uint32_t finite = 0;
    for (int l = 0; l < n; ++l) {
      const uint32_t magnitude = bits_of(x[l]) & ~math::kSignBit;
      if (magnitude < math::kInfinityBits && magnitude > finite) finite = magnitude;
    }
    for (int l = 0; l < n; ++l)
      codes[l] = uint8_t(Code::encode_flagged(x[l], finite, dither.of(uint32_t(l))));
    return finite | math::kSignBit;
  }
#if defined(__AVX512BW__)
  for (int l = 0; l < n; l += kCodeLanes) {
    encode_lanes<kSigned>(x + l, uint32_t(top), dither, uint32_t(l), codes + l);
  }
#else
  ONEPASS_LANES
  for (int l = 0; l < n; ++l) codes[l] = uint8_t(Code::encode(x[l], uint32_t(top), dither.of(uint32_t(l))));
#endif
  return uint32_t(top);
}

// A block at the end of a tensor passes through one of full length: run(codes).
template <class Run>
inline void with_whole_block(uint8_t* codes, int64_t left, const Run& run) {
  if (left >= math::kCodeBlock) return run(codes);
  alignas(64) uint8_t whole[math::kCodeBlock] = {};
  std::memcpy(whole, codes, size_t(left));
  run(whole);
  std::memcpy(codes, whole, size_t(left));
}

// x[0 .. n): state k of a strip. scales: of its first block.
template <int k, int kStates>
ONEPASS_WALK void decode_strip(uint8_t* codes, const float* scales, float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i += math::kCodeBlock, scales += kStates) {
    with_whole_block(codes + i, n - i, [&](const uint8_t* block) ONEPASS_INLINED {
      decode_block<math::is_signed_state(k)>(block, bits_of(scales[k]), x + i);
    });
  }
}

// The way back; the elements behind x[n) up to the end of their block are written. block: the number of the
// first one in the tensor.
template <int k, int kStates>
ONEPASS_WALK void encode_strip(float* __restrict x, int64_t n, int64_t block, uint32_t tensor, uint32_t step,
                               uint8_t* codes, float* scales) {
  for (int64_t i = n; i % math::kCodeBlock != 0; ++i) x[i] = 0;
  for (int64_t i = 0; i < n; i += math::kCodeBlock, scales += kStates, ++block) {
    const auto dither = math::BlockDither::make(tensor, block, step, k);
    with_whole_block(codes + i, n - i, [&](uint8_t* to) ONEPASS_INLINED {
      scales[k] = float_of(encode_block<math::is_signed_state(k)>(x + i, dither, to));
    });
  }
}

// n elements of a tensor, at most a strip, from the beginning of block `block` on.
template <class Rule>
inline void update_coded(const Rule& rule, float* p, const float* g, const CodedStates& at, int64_t block,
                         int64_t n, uint32_t tensor, uint32_t step) {
  constexpr int kStates = Rule::kStates;
  alignas(64) float strip[kStates][kUpdateStrip];
  float* state[kStates];
  for (int k = 0; k < kStates; ++k) state[k] = strip[k];
  const auto each = [](const auto& run) {
    run(std::integral_constant<int, 0>{});
    if constexpr (kStates > 1) run(std::integral_constant<int, 1>{});
    if constexpr (kStates > 2) run(std::integral_constant<int, 2>{});
  };
  each([&](auto k) { decode_strip<k, kStates>(at.codes[k], at.scales, strip[k], n); });
  apply(rule, p, g, state, n);
  each([&](auto k) { encode_strip<k, kStates>(strip[k], n, block, tensor, step, at.codes[k], at.scales); });
}

// The words by which a strip's parameter is rounded, with kStochastic.
inline StripDraws draws_of_strip(const math::Draws& draws, uint32_t tensor, int64_t begin, int64_t n,
                                 uint32_t* words) {
  const StripDraws made{words, !draws_by_words(draws.part)};
  if (made.each) {
    draw_each(draws, tensor, begin, n, words);
  } else {
    draw_words(draws, tensor, draws.part.first + begin, words);
  }
  return made;
}

// Updates the n elements from `begin` on, at most a strip.
template <class Rule>
inline void update_coded_strip(const TensorItem& item, const DType* dtype, const Rule& rule,
                               const math::Draws& draws, Storage storage, int64_t begin, int64_t n) {
  alignas(64) float param[kUpdateStrip], grad[kUpdateStrip];
  const bool in_place = dtype[kParam] == DType::kFloat32;
  float* p = in_place ? static_cast<float*>(item.list[kParam]) + begin : param;
  if (!in_place) load_value(item, dtype, storage, begin, param, n);
  const float* g = static_cast<const float*>(item.list[kGrad]) + begin;
  if (dtype[kGrad] != DType::kFloat32) {
    load_strip(dtype[kGrad], item.list[kGrad], begin, grad, n);
    g = grad;
  }
  const int64_t block = begin / math::kCodeBlock;
  CodedStates at;
  for (int k = 0; k < Rule::kStates; ++k) {
    at.codes[k] = static_cast<uint8_t*>(item.list[kFirstState + k]) + begin;
  }
  at.scales = static_cast<float*>(item.list[kScales]) + block * Rule::kStates;
  update_coded(rule, p, g, at, block, n, item.number, draws.step);
  if (in_place) return;
  alignas(64) uint32_t words[kUpdateStrip];
  StripDraws by{words, false};
  if (storage == Storage::kStochastic) by = draws_of_strip(draws, item.number, begin, n, words);
  store_value(item, dtype, storage, begin, param, n, by);
}

}  // namespace onepass::ONEPASS_ISA
