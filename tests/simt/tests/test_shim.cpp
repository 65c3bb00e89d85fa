// test_shim.cpp - CUDA's device functions as the simulator makes them: shuffles, votes, tiles, arithmetic.
#include <limits>

#include "harness.h"

using onepass::gpu::launch;

namespace {

enum Kind { kIndex, kUp, kDown, kXor };

template <Kind kind>
__global__ void shuffle_kernel(const int* argument, int width, int* out) {
  const int value = int(threadIdx.x) * 10;
  const int a = argument[threadIdx.x];
  if constexpr (kind == kIndex) out[threadIdx.x] = __shfl_sync(~0u, value, a, width);
  if constexpr (kind == kUp) out[threadIdx.x] = __shfl_up_sync(~0u, value, a, width);
  if constexpr (kind == kDown) out[threadIdx.x] = __shfl_down_sync(~0u, value, a, width);
  if constexpr (kind == kXor) out[threadIdx.x] = __shfl_xor_sync(~0u, value, a, width);
}

// The pseudo-code of shfl.sync in the PTX manual, with its names; c as the CUDA headers pass it.
int ptx_source_lane(Kind kind, int lane, int b, int width) {
  const int bval = b & 31;
  const int cval = kind == kUp ? 0 : 31;
  const int mask = 32 - width;
  const int max_lane = (lane & mask) | (cval & ~mask & 31);
  const int min_lane = lane & mask;
  int j = 0;
  bool valid = false;
  switch (kind) {
    case kUp:
      j = lane - bval;
      valid = j >= max_lane;
      break;
    case kDown:
      j = lane + bval;
      valid = j <= max_lane;
      break;
    case kXor:
      j = lane ^ bval;
      valid = j <= max_lane;
      break;
    case kIndex:
      j = min_lane | (bval & ~mask & 31);
      valid = j <= max_lane;
      break;
  }
  return valid ? j : lane;
}

template <Kind kind>
void check_shuffle(const std::vector<int>& argument, int width) {
  Dev<int> in(argument), out(32);
  launch(shuffle_kernel<kind>, 1, 32, 0, 0, in.get(), width, out.get());
  const std::vector<int> got = out.host();
  for (int lane = 0; lane < 32; ++lane) {
    const int want = 10 * ptx_source_lane(kind, lane, argument[lane], width);
    CHECK(got[lane] == want, "kind %d width %d argument %d lane %d: %d, want %d", kind, width, argument[lane],
          lane, got[lane], want);
  }
}

template <Kind kind>
void check_shuffles() {
  std::vector<int> scattered(32);
  for (int lane = 0; lane < 32; ++lane) scattered[lane] = lane * 7 & 31;
  for (int width = 1; width <= 32; width *= 2) {
    for (int argument = 0; argument < 40; ++argument) {
      check_shuffle<kind>(std::vector<int>(32, argument), width);
    }
    check_shuffle<kind>(scattered, width);
  }
}

__global__ void vote_kernel(unsigned* out) {
  const int t = threadIdx.x;
  out[t] = __ballot_sync(~0u, t & 1);
  if (!__any_sync(~0u, t == 5) || __all_sync(~0u, t < 31)) out[t] = 1;
  if (t < 16) {
    out[t] ^= __ballot_sync(0xFFFFu, t < 3) << 20;
  } else {
    __syncwarp(0xFFFF0000u);
  }
  const int multiples_of_3 = __syncthreads_count(t % 3 == 0);
  if (multiples_of_3 != 11 || __syncthreads_or(t == 40) || !__syncthreads_and(t < 40)) out[t] = 2;
}

void check_votes() {
  Dev<unsigned> out(32);
  launch(vote_kernel, 1, 32, 0, 0, out.get());
  const std::vector<unsigned> got = out.host();
  for (unsigned t = 0; t < 32; ++t) {
    const unsigned want = 0xAAAAAAAAu ^ (t < 16 ? 7u << 20 : 0u);
    CHECK(got[t] == want, "vote %u: %x, want %x", t, got[t], want);
  }
}

__global__ void tile_kernel(int* out) {
  namespace cg = cooperative_groups;
  const auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  int value = int(tile.thread_rank());
  for (int distance = 4; distance; distance >>= 1) value += tile.shfl_down(value, distance);
  const int sum = tile.shfl(value, 0);
  const bool first_half = tile.ballot(tile.thread_rank() < 4) == 0x0F;
  cg::this_thread_block().sync();
  out[threadIdx.x] = sum + int(tile.meta_group_rank()) * 1000 + first_half;
}

void check_tiles() {
  Dev<int> out(64);
  launch(tile_kernel, 1, 64, 0, 0, out.get());
  const std::vector<int> got = out.host();
  for (int t = 0; t < 64; ++t) CHECK(got[t] == 28 + t / 8 * 1000 + 1, "tile of thread %d: %d", t, got[t]);
}

__global__ void atomic_kernel(int* sum, unsigned* wrapping, int* largest, unsigned* bits) {
  atomicAdd(sum, 2);
  atomicInc(wrapping, 9u);
  atomicMax(largest, int(threadIdx.x));
  atomicOr(bits, 1u << threadIdx.x % 8);
}

void check_atomics() {
  Dev<int> sum = zeros<int>(1), largest = zeros<int>(1);
  Dev<unsigned> wrapping = zeros<unsigned>(1), bits = zeros<unsigned>(1);
  launch(atomic_kernel, 2, 64, 0, 0, sum.get(), wrapping.get(), largest.get(), bits.get());
  CHECK(sum.host()[0] == 256, "atomicAdd %d", sum.host()[0]);
  CHECK(wrapping.host()[0] == 128 % 10, "atomicInc %u", wrapping.host()[0]);
  CHECK(largest.host()[0] == 63, "atomicMax %d", largest.host()[0]);
  CHECK(bits.host()[0] == 0xFF, "atomicOr %x", bits.host()[0]);
}

__global__ void half_kernel(const __half* x, const __nv_bfloat16* y, float* out) {
  __half2 pair = __halves2half2(x[0], x[1]);
  pair = pair * pair;
  const float second = __half2float(__shfl_sync(~0u, x[threadIdx.x & 1], 1));
  if (threadIdx.x == 0) {
    out[0] = __low2float(pair) + __high2float(pair);
    out[1] = __bfloat162float(y[0] * y[1] + y[0]);
    out[2] = second;
  }
}

void check_halves() {
  Dev<__half> x(std::vector<__half>{__float2half(3), __float2half(4)});
  Dev<__nv_bfloat16> y(std::vector<__nv_bfloat16>{__float2bfloat16(2), __float2bfloat16(5)});
  Dev<float> out(3);
  launch(half_kernel, 1, 32, 0, 0, x.get(), y.get(), out.get());
  const std::vector<float> got = out.host();
  CHECK(got[0] == 25, "half2 %g", got[0]);
  CHECK(got[1] == 12, "bfloat16 %g", got[1]);
  CHECK(got[2] == 4, "shuffled half %g", got[2]);
}

__global__ void arithmetic_kernel(float nan, float* f, int* i) {
  f[0] = max(nan, 2.f);
  f[1] = min(3.f, nan);
  f[2] = __saturatef(nan);
  f[3] = __uint_as_float(__float_as_uint(1.5f));
  i[0] = int(__umulhi(0x80000000u, 6u));
  i[1] = int(__umul64hi(1ull << 63, 10ull));
  i[2] = __clz(0) * 100 + __clz(1);
  i[3] = __float2int_rn(2.5f) * 10 + __float2int_rn(3.5f);
  i[4] = __popc(0xF0F0u) * 100 + __ffs(8);
  i[5] = max(3, 7) * 10 + min(3, 7);
}

void check_arithmetic() {
  Dev<float> f(4);
  Dev<int> i(6);
  launch(arithmetic_kernel, 1, 1, 0, 0, std::numeric_limits<float>::quiet_NaN(), f.get(), i.get());
  const float want_f[] = {2.f, 3.f, 0.f, 1.5f};
  const int want_i[] = {3, 5, 3231, 24, 804, 73};
  for (int k = 0; k < 4; ++k) CHECK(f.host()[k] == want_f[k], "float %d: %g", k, f.host()[k]);
  for (int k = 0; k < 6; ++k) CHECK(i.host()[k] == want_i[k], "int %d: %d", k, i.host()[k]);
}

void run_all(unsigned) {
  check_shuffles<kIndex>();
  check_shuffles<kUp>();
  check_shuffles<kDown>();
  check_shuffles<kXor>();
  check_votes();
  check_tiles();
  check_atomics();
  check_halves();
  check_arithmetic();
}

}  // namespace

int main() { return test_main(run_all); }
