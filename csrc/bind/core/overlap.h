// overlap.h - finds lists that share memory: an update that writes one element of memory twice, or reads a
// gradient that it has already overwritten, would be silently wrong.
#pragma once

#include <cstdint>

#include "bind/core/scratch.h"
#include "bind/core/tensor.h"

namespace onepass {

class OverlapCheck {
 public:
  void add(const TensorView& view, int64_t bytes, bool written, const ArgumentName& name) {
    if (bytes == 0) return;
    function_ = name.function;
    Span& span = spans_.emplace_back();
    span.begin = reinterpret_cast<uintptr_t>(view.data);
    span.bytes = uint64_t(bytes);
    span.written = written;
    span.list = name.list;
    span.index = int32_t(name.index);
    span.group = int32_t(name.group);
  }

  // Throws ValueError if two spans overlap and one of them is written. The answer depends only on the
  // addresses, so a set of spans that passed is remembered by its 64-bit hash: the steps of a training loop,
  // whose addresses repeat, sort nothing.
  void run();

 private:
  // A span is small, because a step over 1,000 parameters makes up to 7,000 of them and reads them once.
  struct Span {
    uintptr_t begin;
    uint64_t bytes : 63, written : 1;
    const char* list;
    int32_t index, group;

    uintptr_t end() const { return begin + bytes; }
  };
  uint64_t hash() const;
  ArgumentName name_of(const Span& span) const { return {function_, span.list, span.index, span.group}; }

  const char* function_ = nullptr;
  Scratch<Span, OverlapCheck> spans_;
};

}  // namespace onepass
