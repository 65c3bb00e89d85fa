// draw_places.h - where the draws of a part of a tensor are among the draws of the whole tensor: a shard
// draws what the whole would draw there.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

// Dimension k, the first one outermost, has sizes[k] draws of the part, which are strides[k] draws of the
// whole apart. The last stride is 1. Without dimensions all draws of the part follow each other.
struct DrawPlaces {
  static constexpr int kMost = 6;
  int count = 0;  // of dimensions
  int64_t first = 0;
  int64_t sizes[kMost] = {}, strides[kMost] = {};

  // The place in the whole of the part's draw i.
  ONEPASS_HD int64_t number(int64_t i) const {
    if (count == 0) return first + i;
    int64_t number = first;
    for (int k = count - 1; k >= 0; --k) {
      number += i % sizes[k] * strides[k];
      i /= sizes[k];
    }
    return number;
  }
  // How many draws follow each other from this one on, it included, of n at most.
  ONEPASS_HD int64_t run(int64_t i, int64_t n) const {
    if (count == 0) return n;
    const int64_t left = sizes[count - 1] - i % sizes[count - 1];
    return left < n ? left : n;
  }
};

}  // namespace onepass
