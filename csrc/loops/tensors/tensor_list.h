// tensor_list.h - many tensors as one piece of work: what the loops of tensors/ walk over on both devices.
//
// A tensor has memory in several lists (param, grad, states ...), the same number of elements in each, and
// names its rule: tensors of different param groups or step counts share one list. The elements of all
// tensors are numbered through, 0 .. numel, so that work is shared out by size and not by tensor.
#pragma once

#include <cstdint>

#include "core/compiler.h"
#include "core/dtype.h"

namespace onepass {

constexpr int kParam = 0;
constexpr int kGrad = 1;
constexpr int kFirstState = 2;
constexpr int kMaxLists = 8;
// The scales of states in 8 bits, float32: for each block (math/codes.h) one of each state.
constexpr int kScales = kMaxLists - 3;
// The digits of a parameter that its own 16 bits cannot hold, see Storage.
constexpr int kLow = kMaxLists - 2;
// The moving average of the parameter, where a step keeps one: in the arithmetic type, whatever the others.
constexpr int kEma = kMaxLists - 1;

// How parameters (and states, where it says so) narrower than the arithmetic are kept between steps. The
// value of a parameter, which the next step begins with, is what the lists kParam and kLow hold together.
enum class Storage : uint8_t {
  kNearest,     // rounded to nearest even
  kStochastic,  // rounded stochastically, states of 16 bits, too (math/rounding.h, math/draws.h)
  kKahan,       // kLow: the rounding error, in the parameter's dtype
  kRemainder,   // kLow: the lower 16 bits of a float32 whose upper ones, rounded, are a bfloat16 parameter
  kMaster,      // kLow: a float32, of which a float16 parameter is a rounded copy
};

constexpr bool has_low(Storage storage) { return storage >= Storage::kKahan; }

struct TensorItem {
  void* list[kMaxLists];  // kParam, kGrad, the states of the rule, kScales, kLow, kEma; the rest is unused
  int64_t numel;
  int64_t begin;  // elements of all tensors before this one
  int64_t rule;   // index into the rules that travel with the list
  int64_t first_leaf =
      0;  // leaves (leaves.h) of all tensors before this one; only where a kernel asks for them
  uint32_t number =
      0;  // the tensor's number in its optimizer, so that its random draws differ from those of others
};

struct TensorList {
  const TensorItem* items;
  int64_t count;
  int64_t numel;  // elements of all tensors together
  DType dtype[kMaxLists];
  Storage storage = Storage::kNearest;
  bool coded = false;  // the states are codes, uint8, with scales; their dtype says nothing
};

// Which of `count` tensors a piece of work belongs to: the last one that begins at or before it, and the
// first one if none does. begin: the member of Tensor, or of its Base, that says where a tensor does. A
// member and not a function: nvcc then compiles it like the same loop written out in a kernel.
template <class Tensor, class Base, class Index, class Place>
ONEPASS_HD Index tensor_at(const Tensor* tensors, Index count, Place Base::* begin, Place place) {
  Index low = 0, high = count;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (tensors[middle].*begin <= place ? low : high) = middle;
  }
  return low;
}

}  // namespace onepass
