// test_launch.cpp - how the simulator runs a grid: indices, parameters, blocks that wait for each other,
// errors and what comes after them, launches from several OS threads.
#include <string>
#include <thread>

#include "harness.h"

using onepass::gpu::launch;

namespace {

__global__ void index_kernel(int* out, int threads) {
  KERNEL_DYN_SMEM(int, mine);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  mine[thread] = block * threads + thread;
  __syncthreads();
  out[block * threads + threads - 1 - thread] = mine[threads - 1 - thread];
}

void check_indices() {
  Dev<int> out(24 * 30);
  launch(index_kernel, dim3(2, 3, 4), dim3(5, 3, 2), 30 * sizeof(int), 0, out.get(), 30);
  const std::vector<int> got = out.host();
  for (int i = 0; i < 720; ++i) CHECK(got[i] == i, "thread %d: %d", i, got[i]);
}

// As large as parameters may be next to one pointer.
struct LargeParameter {
  int values[8188];
};

// Each thread changes its own copy.
__global__ void parameter_kernel(LargeParameter large, int* out) {
  large.values[threadIdx.x] += 1;
  __syncthreads();
  int sum = 0;
  for (int value : large.values) sum += value;
  out[threadIdx.x] = sum;
}

void check_parameters() {
  static_assert(sizeof(LargeParameter) + sizeof(int*) > simt::kMaxParameterBytes - 16);
  const LargeParameter large{};
  Dev<int> out(96);
  launch(parameter_kernel, 1, 96, 0, 0, large, out.get());
  for (int value : out.host()) CHECK(value == 1, "sum of own copy %d", value);
}

// Every block waits for its predecessor (decoupled look-back).
__global__ void look_back_kernel(int* flag, int* sum, int* before_me) {
  if (threadIdx.x != 0) return;
  int before = 0;
  if (blockIdx.x > 0) {
    while (!atomicAdd(&flag[blockIdx.x - 1], 0)) __nanosleep(20);
    __threadfence();
    before = __ldcg(&sum[blockIdx.x - 1]);
  }
  __stcg(&sum[blockIdx.x], before + int(blockIdx.x));
  __threadfence();
  atomicExch(&flag[blockIdx.x], 1);
  before_me[blockIdx.x] = before;
}

void check_look_back() {
  constexpr int kBlocks = 20;
  simt::options.resident = kBlocks;
  Dev<int> flag = zeros<int>(kBlocks), sum(kBlocks), before(kBlocks);
  launch(look_back_kernel, kBlocks, 32, 0, 0, flag.get(), sum.get(), before.get());
  const std::vector<int> got = before.host();
  for (int b = 0; b < kBlocks; ++b) CHECK(got[b] == b * (b - 1) / 2, "block %d: %d", b, got[b]);
}

// A barrier of all blocks in software, as a cooperative launch has it.
__global__ void grid_barrier_kernel(unsigned* arrived, int* in, int* out) {
  in[blockIdx.x * blockDim.x + threadIdx.x] = int(blockIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (atomicAdd(arrived, 0u) < gridDim.x) {
    }
    __threadfence();
  }
  __syncthreads();
  int sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += in[b * blockDim.x + (threadIdx.x + 1) % blockDim.x];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

void check_grid_barrier() {
  simt::options.resident = 8;
  Dev<unsigned> arrived = zeros<unsigned>(1);
  Dev<int> in(8 * 64), out(8 * 64);
  launch(grid_barrier_kernel, 8, 64, 0, 0, arrived.get(), in.get(), out.get());
  for (int sum : out.host()) CHECK(sum == 28, "sum over blocks %d", sum);
}

// Every thread fences its own write; the barrier hands that on to the one that counts the block.
__global__ void fence_all_kernel(float* partials, unsigned* count, float* out) {
  KERNEL_SMEM(bool, is_last);
  partials[blockIdx.x * blockDim.x + threadIdx.x] = 1.f;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(count, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  float sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x * blockDim.x; i += blockDim.x) sum += partials[i];
  atomicAdd(out, sum);
  if (threadIdx.x == 0) *count = 0;
}

void check_fences() {
  Dev<unsigned> count = zeros<unsigned>(1);
  Dev<float> partials(8 * 64), out = zeros<float>(1);
  for (int repeat = 1; repeat < 3; ++repeat) {
    launch(fence_all_kernel, 8, 64, 0, 0, partials.get(), count.get(), out.get());
    CHECK(out.host()[0] == 512.f * repeat, "sum %g", out.host()[0]);
  }
}

__global__ void early_return_kernel(int* out) {
  if (threadIdx.x >= 20) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void trap_kernel() { __trap(); }

__global__ void launching_kernel() { launch(trap_kernel, 1, 1, 0, 0); }

// The message of the error that the launch throws; empty if none.
template <class Launch>
std::string error_of(Launch launch_it) {
  try {
    launch_it();
  } catch (const simt::Error& error) {
    return error.what();
  }
  return "";
}

void check_errors() {
  Dev<int> out = zeros<int>(64);
  std::string error = error_of([&] { launch(early_return_kernel, 1, 64, 0, 0, out.get()); });
  CHECK(error.find("have returned") != std::string::npos, "early return: '%s'", error.c_str());
  error = error_of([&] { launch(early_return_kernel, 1, 1025, 0, 0, out.get()); });
  CHECK(error == "invalid launch configuration", "1025 threads: '%s'", error.c_str());
  error = error_of([&] { launch(trap_kernel, 1, 32, 0, 0); });
  CHECK(error.find("__trap") == 0, "trap: '%s'", error.c_str());
  error = error_of([] { launch(launching_kernel, 1, 32, 0, 0); });
  CHECK(!error.empty() && error.find("__trap") != 0, "launch inside a kernel: '%s'", error.c_str());

  simt::options.allow_exited = true;
  launch(early_return_kernel, 1, 64, 0, 0, out.get());
  CHECK(out.host()[19] == 1 && out.host()[20] == 0, "a launch after an error");
}

// A frame that is larger than the default stack of a thread.
__global__ void deep_kernel(int* out) {
  volatile char large[300 << 10];
  large[0] = char(threadIdx.x);
  large[sizeof large - 1] = 1;
  __syncthreads();
  out[threadIdx.x] = large[0] + large[sizeof large - 1];
}

void check_stack_size() {
  simt::options.stack = 512 << 10;
  Dev<int> out(32);
  launch(deep_kernel, 1, 32, 0, 0, out.get());
  for (int t = 0; t < 32; ++t) CHECK(out.host()[t] == t + 1, "deep thread %d", t);
}

void check_runtime() {
  int value = 0;
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess && value == 4, "%d",
        value);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrClockRate, 0) == cudaErrorInvalidValue,
        "unknown attribute");
  CHECK(cudaSetDevice(0) == cudaSuccess && cudaSetDevice(1) == cudaErrorInvalidDevice, "one device");
  CHECK(cudaGetDevice(&value) == cudaSuccess && value == 0, "device %d", value);
}

#ifndef SIMT_RACE
__global__ void ring_kernel(int* out, int steps) {
  KERNEL_SMEM(int, ring, [64]);
  ring[threadIdx.x] = int(threadIdx.x);
  for (int step = 0; step < steps; ++step) {
    __syncthreads();
    const int next = ring[(threadIdx.x + 1) % 64];
    __syncthreads();
    ring[threadIdx.x] = next;
  }
  out[threadIdx.x] = ring[threadIdx.x];
}

// Python threads may launch at the same time. (The race detector would count what one OS thread does between
// launches as part of the kernel that another one runs.)
void check_concurrent_launches() {
  bool right[3] = {true, true, true};
  std::vector<std::thread> threads;
  for (bool& mine : right) {
    threads.emplace_back([&mine] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        Dev<int> out(64);
        launch(ring_kernel, 3, 64, 0, 0, out.get(), 10);
        const std::vector<int> got = out.host();
        for (int t = 0; t < 64; ++t) mine = mine && got[t] == (t + 10) % 64;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right[0] && right[1] && right[2], "results of concurrent launches");
}
#else
void check_concurrent_launches() {}
#endif

void run_all(unsigned order) {
  for (auto* check : {check_indices, check_parameters, check_look_back, check_grid_barrier, check_fences,
                      check_errors, check_stack_size, check_runtime, check_concurrent_launches}) {
    set_order(int(order));
    check();
  }
}

}  // namespace

int main() { return test_main(run_all); }
