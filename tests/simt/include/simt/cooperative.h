// cooperative.h - cooperative groups: the block, and tiles of up to a warp.
#pragma once

#include "simt/builtins_sync.h"

namespace simt {

SIMT_RAW inline unsigned thread_id() { return machine.self->id; }

}  // namespace simt

namespace cooperative_groups {

struct thread_block {
  void sync(SIMT_HERE) const { simt::sync_block(1, "thread_block::sync", at); }
  unsigned thread_rank() const { return simt::thread_id(); }
  unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
  dim3 group_index() const { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
};

inline thread_block this_thread_block() { return {}; }

template <unsigned Size>
struct thread_block_tile {
  static_assert(Size <= simt::kWarp && (Size & (Size - 1)) == 0,
                "a tile is a power of two of up to 32 threads");

  static constexpr unsigned size() { return Size; }
  unsigned thread_rank() const { return simt::thread_id() % Size; }
  unsigned meta_group_rank() const { return simt::thread_id() / Size; }

  void sync(SIMT_HERE) const { simt::vote("tile::sync", mask(), false, at); }
  unsigned ballot(int predicate, SIMT_HERE) const {
    return simt::vote("tile::ballot", mask(), predicate != 0, at) >> first_lane();
  }
  template <class T>
  T shfl(T value, int source, SIMT_HERE) const {
    return simt::shuffle_lanes<simt::Shuffle::kIndex>("tile::shfl", mask(), value, source, Size, at);
  }
  template <class T>
  T shfl_down(T value, unsigned delta, SIMT_HERE) const {
    return simt::shuffle_lanes<simt::Shuffle::kDown>("tile::shfl_down", mask(), value, int(delta), Size, at);
  }
  template <class T>
  T shfl_xor(T value, int lane_mask, SIMT_HERE) const {
    return simt::shuffle_lanes<simt::Shuffle::kXor>("tile::shfl_xor", mask(), value, lane_mask, Size, at);
  }

 private:
  static unsigned first_lane() { return simt::thread_id() % simt::kWarp / Size * Size; }
  static unsigned mask() { return (simt::kFullMask >> (simt::kWarp - Size)) << first_lane(); }
};

template <unsigned Size>
thread_block_tile<Size> tiled_partition(const thread_block&) {
  return {};
}

}  // namespace cooperative_groups
