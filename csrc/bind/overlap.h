// overlap.h - finds lists that share memory: an update that writes one element of memory twice, or reads a
// gradient that it has already overwritten, would be silently wrong.
#pragma once

#include <cstdint>

#include "bind/scratch.h"
#include "bind/tensor.h"

namespace onepass {

class OverlapCheck {
 public:
  void add(const TensorView& view, int64_t bytes, bool written, const ArgumentName& name) {
    if (bytes == 0) return;
    const auto begin = reinterpret_cast<uintptr_t>(view.data);
    Span& span = spans_.emplace_back();
    span.begin = begin;
    span.end = begin + static_cast<uintptr_t>(bytes);
    span.name = name;
    span.written = written;
  }

  // Throws ShapeError if two spans overlap of which one is written. The answer depends on the addresses
  // alone, so a set of spans that passed once is known by its 64-bit hash: steps of a training loop, whose
  // addresses repeat, sort nothing.
  void run();

 private:
  struct Span {
    uintptr_t begin, end;
    ArgumentName name;
    bool written;
  };
  uint64_t hash() const;

  Scratch<Span, OverlapCheck> spans_;
};

}  // namespace onepass
