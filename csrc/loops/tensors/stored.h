// stored.h - loads and stores strips of a parameter's value as the storage of its list (tensor_list.h) keeps
// it, and draws the words by which it is rounded, on the CPU. CUDA: stored.cuh.
#pragma once

#include <cstring>

#include "loops/draws/philox_blocks.h"
#include "loops/tensors/multi_tensor.h"
#include "math/draws.h"
#include "math/rounding.h"

namespace onepass::ONEPASS_ISA {

// Whether draw_words takes the part's elements: its strips begin with a group of draws. Else draw_each.
inline bool draws_by_words(const DrawPlaces& part) {
  return part.count == 0 && part.first % math::kDrawGroup == 0;
}

// words[j]: the draws of elements begin + 2j and begin + 2j + 1, the earlier one's in its low half. begin is
// a multiple of kDrawGroup; words has room for kUpdateStrip elements. All groups of a strip are drawn side by
// side.
ONEPASS_WALK inline void draw_words(const math::Draws draws, uint32_t tensor, int64_t begin,
                                    uint32_t* __restrict words) {
  constexpr int kGroups = kUpdateStrip / math::kDrawGroup, kBlocks = kGroups * math::kDrawBlocks;
  const int64_t block = begin / math::kDrawGroup * math::kDrawBlocks;
  alignas(64) uint64_t number[kBlocks];
  alignas(64) uint32_t drawn[kBlocks * 4];
  for (int b = 0; b < kBlocks; ++b) number[b] = uint64_t(block + b);
  draw_numbered<kBlocks / kBlockLanes>(number, draws.step, tensor, draws.seed, drawn);
  for (int g = 0; g < kGroups; ++g) {
    for (int j = 0; j < math::kDrawWords; ++j) {
      const uint32_t word = drawn[g * math::kDrawWords + j];
      words[g * math::kDrawLanes + j] = word;
      words[g * math::kDrawLanes + math::kDrawWords + j] = rotate_right(word, math::kSecondRotation);
    }
  }
}

// each[i]: the word of element begin + i of a part, turned so that its draw is in the low half; n is at most
// kUpdateStrip.
inline void draw_each(const math::Draws& draws, uint32_t tensor, int64_t begin, int64_t n, uint32_t* each) {
  alignas(64) uint32_t words[kUpdateStrip / 2];
  int64_t drawn = -1;  // the element that the words begin with
  for (int64_t done = 0; done < n;) {
    const int64_t stop = done + draws.part.run(begin + done, n - done);
    for (int64_t place = draws.part.number(begin + done); done < stop; ++done, ++place) {
      if (drawn < 0 || place < drawn || place >= drawn + kUpdateStrip) {
        drawn = place / math::kDrawGroup * math::kDrawGroup;
        draw_words(draws, tensor, drawn, words);
      }
      each[done] = rotate_right(words[(place - drawn) / 2], place % 2 != 0 ? 16 : 0);
    }
  }
}

// The words of a strip: two elements share one, or each has its own.
struct StripDraws {
  const uint32_t* words;
  bool each;
  ONEPASS_HD uint32_t draw(int64_t i, int rotation) const {
    return each ? rotate_right(words[i], rotation)
                : rotate_right(words[i / 2], rotation + (i % 2 != 0 ? 16 : 0));
  }
};

// values[0 .. n) = the parameter's value from element begin on; n is at most kUpdateStrip.
template <class T>
inline void load_value(const TensorItem& item, const DType* dtype, Storage storage, int64_t begin,
                       T* __restrict values, int64_t n) {
  load_strip(dtype[kParam], item.list[kParam], begin, values, n);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (storage == Storage::kMaster) {
      const uint16_t* stored = static_cast<const uint16_t*>(item.list[kParam]) + begin;
      const float* master = static_cast<const float*>(item.list[kLow]) + begin;
      for (int64_t i = 0; i < n; ++i) {
        values[i] = math::master_or_stored(master[i], to_float16(master[i]), values[i], stored[i]);
      }
    } else if (storage == Storage::kRemainder) {
      const uint16_t* stored = static_cast<const uint16_t*>(item.list[kParam]) + begin;
      const uint16_t* remainder = static_cast<const uint16_t*>(item.list[kLow]) + begin;
      for (int64_t i = 0; i < n; ++i) values[i] = math::join(stored[i], remainder[i]);
    } else if (storage == Storage::kKahan) {
      alignas(64) T low[kUpdateStrip];
      load_strip(dtype[kLow], item.list[kLow], begin, low, n);
      const uint16_t* stored = static_cast<const uint16_t*>(item.list[kParam]) + begin;
      const auto add_low = [&](const auto& narrow) {
        for (int64_t i = 0; i < n; ++i) {
          const uint16_t nearly = narrow(math::nearly_sum(values[i], low[i]));
          values[i] = math::sum_or_stored(values[i], low[i], nearly, stored[i]);
        }
      };
      if (dtype[kParam] == DType::kFloat16) {
        add_low([](float value) { return to_float16(value); });
      } else {
        add_low([](float value) { return to_bfloat16(value); });
      }
    }
  }
}

// draws: those from this element on; rotation: the list's.
inline void store_strip_stochastic(DType dtype, void* stored, int64_t begin, const float* __restrict values,
                                   int64_t n, const StripDraws& draws, int rotation) {
  uint16_t* to = static_cast<uint16_t*>(stored) + begin;
  const auto draw = [=](int64_t i) { return draws.draw(i, rotation); };
  if (dtype == DType::kFloat16) {
    for (int64_t i = 0; i < n; ++i) to[i] = math::stochastic_float16(values[i], draw(i));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = math::stochastic_bfloat16(values[i], draw(i));
  }
}

// Stores values[0 .. n) as the parameter's value from element begin on, and leaves in values what the storage
// keeps of them. draws: as above, read with kStochastic only.
inline void store_value(const TensorItem& item, const DType* dtype, Storage storage, int64_t begin,
                        float* __restrict values, int64_t n, const StripDraws& draws) {
  void* param = item.list[kParam];
  if (dtype[kParam] == DType::kFloat32) {  // with states of 16 bits
    std::memcpy(static_cast<float*>(param) + begin, values, size_t(n) * sizeof(float));
    return;
  }
  switch (storage) {
    case Storage::kNearest:
      store_strip(dtype[kParam], param, begin, values, n);
      break;
    case Storage::kStochastic:
      store_strip_stochastic(dtype[kParam], param, begin, values, n, draws, math::list_rotation(0));
      break;
    case Storage::kKahan: {
      store_strip(dtype[kParam], param, begin, values, n);
      alignas(64) float low[kUpdateStrip];
      load_strip(dtype[kParam], param, begin, low, n);
      for (int64_t i = 0; i < n; ++i) low[i] = math::residue(values[i], low[i]);
      store_strip(dtype[kLow], item.list[kLow], begin, low, n);
      break;
    }
    case Storage::kRemainder: {
      uint16_t* stored = static_cast<uint16_t*>(param) + begin;
      uint16_t* remainder = static_cast<uint16_t*>(item.list[kLow]) + begin;
      for (int64_t i = 0; i < n; ++i) {
        const math::Split both = math::split(values[i]);
        stored[i] = both.stored;
        remainder[i] = both.remainder;
      }
      break;
    }
    case Storage::kMaster:
      std::memcpy(static_cast<float*>(item.list[kLow]) + begin, values, size_t(n) * sizeof(float));
      store_strip(dtype[kParam], param, begin, values, n);
      break;
  }
}

}  // namespace onepass::ONEPASS_ISA
