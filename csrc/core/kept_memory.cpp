#include "core/kept_memory.h"

#include <memory>

namespace onepass {
namespace {

constexpr size_t kAlignment = 64;

struct Kept {
  std::unique_ptr<char[]> memory;
  int64_t bytes = 0;
};

Kept& kept() {
  thread_local Kept memory;
  return memory;
}

}  // namespace

void* kept_memory(int64_t bytes) {
  Kept& own = kept();
  if (own.bytes < bytes) {
    own.bytes = 0;
    own.memory.reset();
    own.memory.reset(new char[size_t(bytes) + kAlignment]);
    own.bytes = bytes;
  }
  void* begin = own.memory.get();
  size_t space = size_t(own.bytes) + kAlignment;
  return std::align(kAlignment, size_t(own.bytes), begin, space);
}

void trim_kept_memory(int64_t bytes) {
  Kept& own = kept();
  if (own.bytes <= bytes) return;
  own.bytes = 0;
  own.memory.reset();
}

}  // namespace onepass
