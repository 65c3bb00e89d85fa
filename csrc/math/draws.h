// draws.h - the random bits by which one tensor's elements are rounded in one step: 16 for each stored value,
// from Philox by seed, step, tensor and the element's position in the memory of the whole tensor only.
//
// 256 elements share 16 Philox blocks, a byte an element: each 32-bit word serves four elements by its four
// rotations, so that the high bytes of their draws are four different bytes and the low one is another's high
// one. Each draw by itself is uniform over 2^16 values; two that share a byte have a correlation of 1/256.
// The states of an element take the other rotations of the same word: the draws that the parameters of the
// other three elements have.
//
// Source: philox.h; the sharing of bytes is onepass's own (docs/decisions.md).
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "core/draw_places.h"
#include "core/philox.h"

namespace onepass::math {

struct Draws {
  uint64_t seed = 0;
  uint32_t step = 0;
  DrawPlaces part;  // of the whole tensor that the elements are
};

constexpr int kDrawGroup = 256;              // elements
constexpr int kDrawLanes = kDrawGroup / 2;   // 32-bit words, each of two neighbouring elements
constexpr int kDrawWords = kDrawLanes / 2;   // of them random, the others rotations
constexpr int kDrawBlocks = kDrawWords / 4;  // Philox blocks
constexpr int kSecondRotation = 8;           // of the lanes from kDrawWords on

// The rotation of the parameter (list 0) and of states 0, 1, 2 (lists 1, 2, 3).
ONEPASS_HD constexpr int list_rotation(int list) {
  return list == 0 ? 0 : list == 1 ? 16 : list == 2 ? 8 : 24;
}

ONEPASS_HD PhiloxWords draw_block(const Draws& draws, uint32_t tensor, int64_t block) {
  return philox({{uint32_t(block), uint32_t(block >> 32), draws.step, tensor}}, draws.seed);
}

// Where the lane of elements 2 lane and 2 lane + 1 takes its word.
struct DrawPlace {
  int64_t block;
  int word;
  int rotation;
};

ONEPASS_HD DrawPlace draw_place(int64_t lane) {
  const int64_t group = lane / kDrawLanes;
  const int within = int(lane % kDrawLanes), word = within % kDrawWords;
  return {group * kDrawBlocks + word / 4, word % 4, within < kDrawWords ? 0 : kSecondRotation};
}

}  // namespace onepass::math
