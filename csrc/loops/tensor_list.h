// tensor_list.h - many tensors as one piece of work: what the multi_tensor loops of both devices walk over.
//
// A tensor has memory in several lists (param, grad, states ...), the same number of elements in each, and
// names its rule: tensors of different param groups or step counts share one list. The elements of all
// tensors are numbered through, 0 .. numel, so that work is shared out by size and not by tensor.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace onepass {

constexpr int kParam = 0;
constexpr int kGrad = 1;
constexpr int kFirstState = 2;
constexpr int kMaxLists = 6;
// The moving average of the parameter, where a step keeps one: in the arithmetic type, whatever the others.
constexpr int kEma = kMaxLists - 1;

struct TensorItem {
  void* list[kMaxLists];  // kParam, kGrad, then the states of the rule, and kEma; the rest is unused
  int64_t numel;
  int64_t begin;  // elements of all tensors before this one
  int64_t rule;   // index into the rules that travel with the list
};

struct TensorList {
  const TensorItem* items;
  int64_t count;
  int64_t numel;  // of all tensors together
  DType dtype[kMaxLists];
};

}  // namespace onepass
