// test_block_reduce.cu - a clean kernel with all that is hard about reductions, as a check of the simulator
// and as an example of a kernel test: mean and variance of each row of x[rows][columns].
//
// Welford's recurrence in each thread, shuffles inside a warp, shared memory between warps, and the block
// that finishes a row last combines what all blocks of that row have found. Deleting any one of its barriers
// or fences must make a build fail.
#include "harness.h"

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Count, mean and sum of squared deviations of some elements.
struct Moments {
  float count;
  float mean;
  float squares;
};

__device__ Moments combine(const Moments& a, const Moments& b) {
  const float count = a.count + b.count;
  if (count == 0.f) return a;
  const float difference = b.mean - a.mean;
  const float weight = b.count / count;
  return {count, a.mean + difference * weight,
          a.squares + b.squares + difference * difference * a.count * weight};
}

__device__ Moments warp_combine(Moments mine) {
  for (int distance = 16; distance > 0; distance >>= 1) {
    const Moments other{__shfl_down_sync(~0u, mine.count, distance),
                        __shfl_down_sync(~0u, mine.mean, distance),
                        __shfl_down_sync(~0u, mine.squares, distance)};
    mine = combine(mine, other);
  }
  return mine;
}

// The result is in thread 0. The caller needs a barrier between two calls, which both use partials.
__device__ Moments block_combine(Moments mine) {
  KERNEL_SMEM(Moments, partials, [kWarps]);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  mine = warp_combine(mine);
  if (lane == 0) partials[warp] = mine;
  __syncthreads();
  if (warp == 0) {
    mine = lane < kWarps ? partials[lane] : Moments{0.f, 0.f, 0.f};
    mine = warp_combine(mine);
  }
  return mine;
}

// Grid: (rows, splits). finished[rows] is zero before and after.
__global__ void __launch_bounds__(kThreads)
    row_moments_kernel(const float* __restrict__ x, int columns, Moments* partials, unsigned* finished,
                       Moments* out) {
  KERNEL_SMEM(bool, is_last);
  const int row = blockIdx.x;
  const int splits = gridDim.y;
  Moments mine{0.f, 0.f, 0.f};
  for (int i = blockIdx.y * kThreads + threadIdx.x; i < columns; i += splits * kThreads) {
    mine = combine(mine, {1.f, x[int64_t(row) * columns + i], 0.f});
  }
  mine = block_combine(mine);
  if (threadIdx.x == 0) {
    partials[row * splits + blockIdx.y] = mine;
    __threadfence();  // the partial result is visible before the block counts as finished
    is_last = atomicAdd(&finished[row], 1u) == unsigned(splits - 1);
    __threadfence();  // what the others counted is seen before their results are read
  }
  __syncthreads();  // hands is_last to all threads, and partials of block_combine back
  if (!is_last) return;
  mine = {0.f, 0.f, 0.f};
  for (int i = threadIdx.x; i < splits; i += kThreads) {
    const Moments* other = &partials[row * splits + i];
    mine = combine(mine, {__ldcg(&other->count), __ldcg(&other->mean), __ldcg(&other->squares)});
  }
  mine = block_combine(mine);
  if (threadIdx.x == 0) {
    out[row] = mine;
    finished[row] = 0;
  }
}

void check_rows(int rows, int columns, int splits, unsigned seed) {
  const std::vector<float> x = random_floats(size_t(rows) * columns, seed, 3.f);
  Dev<float> in(x);
  Dev<Moments> partials(size_t(rows) * splits), out(rows);
  Dev<unsigned> finished = zeros<unsigned>(rows);
  CUDA_OK(onepass::gpu::launch(row_moments_kernel, dim3(rows, splits), kThreads, 0, 0, in.get(), columns,
                               partials.get(), finished.get(), out.get()));
  const std::vector<Moments> got = out.host();
  for (int row = 0; row < rows; ++row) {
    const float* values = &x[size_t(row) * columns];
    double mean = 0;
    for (int i = 0; i < columns; ++i) mean += values[i];
    mean /= columns;
    double squares = 0;
    for (int i = 0; i < columns; ++i) squares += (values[i] - mean) * (values[i] - mean);
    CHECK(got[row].count == float(columns), "row %d: count %g", row, got[row].count);
    CHECK(close(got[row].mean, mean, 2e-6), "row %d: mean %g, want %g", row, got[row].mean, mean);
    CHECK(close(got[row].squares, squares, 1e-5), "row %d: squares %g, want %g", row, got[row].squares,
          squares);
    CHECK(finished.host()[row] == 0, "row %d: counter not reset", row);
  }
}

void run_all(unsigned seed) {
  check_rows(3, 308, 3, seed);
  check_rows(2, 1600, 9, seed);
  check_rows(1, 500, 140, seed);  // more partial results than threads
  check_rows(1, 1, 4, seed);
}

}  // namespace

int main() { return test_main(run_all); }
