// places.h - which draw decides on an element of a tensor. The same on both devices (elementwise.h,
// elementwise.cuh).
#pragma once

#include "core/draw_places.h"
#include "loops/channels/shape.h"

namespace onepass {

struct DropoutPlaces {
  ChannelShape shape;
  DrawPlaces of_whole;       // without dimensions: the draws are those of the whole tensor
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
