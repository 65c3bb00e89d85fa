// channel_rows.h - rows of elements and of flags for channels.h, on the CPU: stored elements to and from the
// arithmetic type, bits to and from flags, the draws of dropout. Everything works on rows in the L1 cache.
//
// A flag is one byte, 1 or 0: whether an element is kept, or passed. A vector of bytes widens to a vector of
// elements cheaply; bits do not.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/convert.h"
#include "loops/channel_shape.h"
#include "math/dropout.h"

namespace onepass::ONEPASS_ISA {

// Elements of a row at most.
constexpr int64_t kChannelRow = 1024;

template <class T>
constexpr bool stored_as(DType dtype) {
  return dtype == (sizeof(T) == sizeof(float) ? DType::kFloat32 : DType::kFloat64);
}

// stored[begin .. begin + n) as T: in place, or widened in the buffer.
template <class T>
inline const T* read_row(DType dtype, const void* stored, int64_t begin, int64_t n, T* buffer) {
  if (stored_as<T>(dtype)) return static_cast<const T*>(stored) + begin;
  load_row(dtype, stored, begin, buffer, n);
  return buffer;
}

// A row to be filled, and stored when it is: the memory itself or a buffer for narrower elements.
template <class T>
inline T* open_row(DType dtype, void* stored, int64_t begin, T* buffer) {
  return stored_as<T>(dtype) ? static_cast<T*>(stored) + begin : buffer;
}

template <class T>
inline void close_row(DType dtype, void* stored, int64_t begin, const T* row, int64_t n) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dtype != DType::kFloat32) store_row(dtype, stored, begin, row, n);
  }
}

// The draws of some blocks, 8 flags each.
constexpr int kBlocksAtOnce = 16;

ONEPASS_WALK inline void draw_blocks(const math::Dropout dropout, const uint64_t* __restrict block,
                                     uint8_t* __restrict kept) {
  alignas(64) uint32_t word[4][kBlocksAtOnce];
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    const PhiloxWords draws = dropout.draws(block[b]);
    for (int w = 0; w < 4; ++w) word[w][b] = draws.word[w];
  }
  uint32_t ties = 0;
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    for (int w = 0; w < 4; ++w) {
      const uint32_t low = word[w][b] & 0xffffu, high = word[w][b] >> 16;
      kept[8 * b + 2 * w] = dropout.keeps(low) ? 1 : 0;
      kept[8 * b + 2 * w + 1] = dropout.keeps(high) ? 1 : 0;
      ties |= uint32_t(dropout.is_tie(low)) | uint32_t(dropout.is_tie(high));
    }
  }
  if (ties == 0) return;
  constexpr int kEach = math::kDrawsPerBlock;
  for (int k = 0; k < kBlocksAtOnce * kEach; ++k) {
    kept[k] = dropout.keeps_element(block[k / kEach] * kEach + uint64_t(k % kEach)) ? 1 : 0;
  }
}

// kept[0 .. n) of the elements from `first` on in logical order.
inline void draw_row(const math::Dropout& dropout, int64_t first, int64_t n, uint8_t* kept) {
  constexpr int64_t kAtOnce = kBlocksAtOnce * math::kDrawsPerBlock;
  uint64_t block[kBlocksAtOnce];
  uint8_t drawn[kAtOnce];
  int64_t skip = first % math::kDrawsPerBlock;
  for (int64_t i = 0; i < n;) {
    for (int b = 0; b < kBlocksAtOnce; ++b) {
      block[b] = uint64_t((first + i) / math::kDrawsPerBlock) + uint64_t(b);
    }
    draw_blocks(dropout, block, drawn);
    const int64_t here = kAtOnce - skip < n - i ? kAtOnce - skip : n - i;
    std::memcpy(kept + i, drawn + skip, size_t(here));
    i += here;
    skip = 0;
  }
}

// Draws for a run of positions of several channels, which lie apart in logical order: blocks are collected
// from all channels until they are worth drawing. kept[k * width + i] is position k of channel i.
class BlockDraws {
 public:
  BlockDraws(const math::Dropout& dropout, int64_t width) : dropout_(dropout), width_(width) {}
  // n elements from `first` on, one channel's, to be written from `to` on.
  void add(int64_t first, int64_t n, uint8_t* to) {
    constexpr int64_t kEach = math::kDrawsPerBlock;
    for (int64_t block = first / kEach; block * kEach < first + n; ++block) {
      const int64_t offset = block * kEach - first;
      block_[count_] = uint64_t(block);
      target_[count_] = {to + offset * width_, offset < 0 ? int(-offset) : 0,
                         n - offset < kEach ? int(n - offset) : int(kEach)};
      if (++count_ == kBlocksAtOnce) flush();
    }
  }
  void flush() {
    uint8_t drawn[kBlocksAtOnce * math::kDrawsPerBlock];
    for (int b = count_; b < kBlocksAtOnce; ++b) block_[b] = 0;
    if (count_ > 0) draw_blocks(dropout_, block_, drawn);
    for (int b = 0; b < count_; ++b) {
      const Target& target = target_[b];
      for (int k = target.begin; k < target.end; ++k) {
        target.to[k * width_] = drawn[b * math::kDrawsPerBlock + k];
      }
    }
    count_ = 0;
  }

 private:
  struct Target {
    uint8_t* to;  // of the block's first draw, which may lie before the run
    int begin, end;
  };
  const math::Dropout& dropout_;
  int64_t width_;
  int count_ = 0;
  uint64_t block_[kBlocksAtOnce];
  Target target_[kBlocksAtOnce];
};

// Eight bits as eight bytes and back; x86 and ARM are little-endian.
ONEPASS_HD uint64_t flags_of_byte(uint8_t bits) {
  const uint64_t spread = (uint64_t(bits) * 0x0101010101010101ull) & 0x8040201008040201ull;
  return ((spread + 0x7f7f7f7f7f7f7f7full) >> 7) & 0x0101010101010101ull;
}
ONEPASS_HD uint8_t byte_of_flags(uint64_t flags) { return uint8_t((flags * 0x0102040810204080ull) >> 56); }

// flags[0 .. n) of bits begin .. begin + n.
inline void unpack_bits(const uint8_t* bits, int64_t begin, int64_t n, uint8_t* flags) {
  int64_t i = 0;
  for (; i < n && (begin + i) % 8 != 0; ++i) flags[i] = bits[(begin + i) / 8] >> ((begin + i) % 8) & 1;
  for (; i + 8 <= n; i += 8) {
    const uint64_t eight = flags_of_byte(bits[(begin + i) / 8]);
    std::memcpy(flags + i, &eight, 8);
  }
  for (; i < n; ++i) flags[i] = bits[(begin + i) / 8] >> ((begin + i) % 8) & 1;
}

// The reverse. Bytes that are not filled whole may be shared with another thread: their bits are added, and
// the caller has set them to 0.
inline void pack_bits(const uint8_t* flags, int64_t begin, int64_t n, uint8_t* bits) {
  const auto add = [&](int64_t i) {
    const uint8_t bit = uint8_t(flags[i] << ((begin + i) % 8));
    __atomic_fetch_or(bits + (begin + i) / 8, bit, __ATOMIC_RELAXED);
  };
  int64_t i = 0;
  for (; i < n && (begin + i) % 8 != 0; ++i) add(i);
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, flags + i, 8);
    bits[(begin + i) / 8] = byte_of_flags(eight);
  }
  for (; i < n; ++i) add(i);
}

template <class T>
ONEPASS_WALK void flag_positive(const T* __restrict values, int64_t n, uint8_t* __restrict flags) {
  for (int64_t i = 0; i < n; ++i) flags[i] = values[i] <= 0 ? 0 : 1;
}

template <class T>
ONEPASS_WALK void drop_row(const T* from, const uint8_t* __restrict kept, T scale, T* to, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) to[i] = math::drop(from[i], kept[i] != 0, scale);
}

}  // namespace onepass::ONEPASS_ISA
