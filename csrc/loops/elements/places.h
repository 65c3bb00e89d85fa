// places.h - which draw decides on an element of a tensor. The same on both devices (elementwise.h,
// elementwise.cuh).
#pragma once

#include "loops/channels/shape.h"

namespace onepass {

// Where the draws of a part of a tensor are among the draws of the whole: dimension k, the first one
// outermost, has sizes[k] draws of the part, which are strides[k] draws of the whole apart. The last stride
// is 1.
struct DrawPlaces {
  static constexpr int kMost = 4;
  int count = 0;  // of dimensions; 0: the part is the whole
  int64_t first = 0;
  int64_t sizes[kMost] = {}, strides[kMost] = {};

  ONEPASS_HD int64_t number(int64_t draw) const {
    if (count == 0) return draw;
    int64_t number = first;
    for (int k = count - 1; k >= 0; --k) {
      number += draw % sizes[k] * strides[k];
      draw /= sizes[k];
    }
    return number;
  }
  // How many draws follow each other from this one on, it included, of n at most.
  ONEPASS_HD int64_t run(int64_t draw, int64_t n) const {
    if (count == 0) return n;
    const int64_t left = sizes[count - 1] - draw % sizes[count - 1];
    return left < n ? left : n;
  }
};

struct DropoutPlaces {
  ChannelShape shape;
  DrawPlaces of_whole;
  bool planes = false;       // one draw for all positions of a channel of an example
  bool shared = false;       // the first example's draws for all others, too
  uint8_t* table = nullptr;  // draws() flags, where several elements share a draw

  ONEPASS_HD bool has_table() const { return planes || shared; }
  ONEPASS_HD int64_t draws() const {
    return (shared ? 1 : shape.batch) * shape.channels * (planes ? 1 : shape.positions);
  }
  // The number of the draw for the element at `index` in memory.
  ONEPASS_HD int64_t draw_of(int64_t index) const {
    const int64_t of_example = shape.channels * shape.positions;
    const int64_t n = index / of_example, in_example = index % of_example;
    int64_t channel, position;
    if (shape.channels_last) {
      position = in_example / shape.channels;
      channel = in_example % shape.channels;
    } else {
      channel = in_example / shape.positions;
      position = in_example % shape.positions;
    }
    const int64_t plane = (shared ? 0 : n * shape.channels) + channel;
    return planes ? plane : plane * shape.positions + position;
  }
};

}  // namespace onepass
