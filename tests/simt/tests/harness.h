// harness.h - what tests of kernels need: device buffers, checks, and the orders to run in.
//
// A test is written once, as a .cu file. Compiled by nvcc it runs on a GPU (exit status 77, "skipped",
// without one); compiled by a host compiler it runs in the simulator. Its main is `return
// test_main(run_all);`.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <vector>

#include "core/kernel_compat.cuh"

inline int checks = 0;
inline int failures = 0;

constexpr int kPrintedFailures = 20;
constexpr int kSkipped = 77;

// CHECK(got == want, "element %d: %g", i, got);
#define CHECK(condition, ...)                                    \
  do {                                                           \
    ++checks;                                                    \
    if (!(condition) && ++failures <= kPrintedFailures) {        \
      printf("FAIL %s:%d %s: ", __FILE__, __LINE__, #condition); \
      printf(__VA_ARGS__);                                       \
      printf("\n");                                              \
    }                                                            \
  } while (false)

// Checks a call without which the test cannot go on.
#define CUDA_OK(...)                                                                      \
  do {                                                                                    \
    const cudaError_t status = (__VA_ARGS__);                                             \
    if (status != cudaSuccess) {                                                          \
      printf("CUDA error %s at %s:%d\n", cudaGetErrorString(status), __FILE__, __LINE__); \
      exit(EXIT_FAILURE);                                                                 \
    }                                                                                     \
  } while (false)

// Elements in device memory. `offset` shifts the first one, for pointers that are not aligned to a vector.
template <class T>
class Dev {
 public:
  explicit Dev(size_t size, size_t offset = 0) : size_(size), offset_(offset) {
    CUDA_OK(cudaMalloc(reinterpret_cast<void**>(&memory_), (size + offset) * sizeof(T)));
  }
  explicit Dev(const std::vector<T>& values, size_t offset = 0) : Dev(values.size(), offset) {
    CUDA_OK(cudaMemcpy(get(), values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  Dev(const Dev&) = delete;
  Dev(Dev&& other) noexcept : memory_(other.memory_), size_(other.size_), offset_(other.offset_) {
    other.memory_ = nullptr;
  }
  ~Dev() { cudaFree(memory_); }

  T* get() const { return memory_ + offset_; }

  std::vector<T> host() const {
    std::vector<T> values(size_);
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(values.data(), get(), size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* memory_ = nullptr;
  size_t size_;
  size_t offset_;
};

template <class T>
Dev<T> zeros(size_t size) {
  return Dev<T>(std::vector<T>(size));
}

// False for nan and infinity.
inline bool close(double got, double want, double tolerance) {
  return std::fabs(got - want) <= tolerance * (1 + std::fabs(want));
}

inline std::vector<float> random_floats(size_t size, unsigned seed, float mean = 0.f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean, 1.f);
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator);
  return values;
}

// The number of orders of threads and blocks that a test runs in. The sanitizers and the race detector judge
// each access in any order, and are slow.
#if defined(__CUDACC__)
constexpr int kOrders = 1;
#elif SIMT_ASAN || defined(SIMT_RACE)
constexpr int kOrders = 2;
#else
constexpr int kOrders = 8;
#endif

// Orders 0 and 1 are by index and reversed, one block after the other; the rest are random, some with two
// blocks in flight.
inline void set_order(int order) {
#ifdef __CUDACC__
  (void)order;
#else
  simt::options = {};
  simt::options.seed = unsigned(order);
  simt::options.resident = order >= 2 && order % 2 ? 2 : 1;
#endif
}

// Calls run_all(order) for each order; the order may seed the test's data, too.
inline int test_main(void (*run_all)(unsigned)) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("no GPU: skipped\n");
    return kSkipped;
  }
  for (int order = 0; order < kOrders; ++order) {
    set_order(order);
    try {
      run_all(unsigned(order));
    } catch (const std::exception& error) {
      CHECK(false, "order %d: %s", order, error.what());
    }
  }
  printf("%d orders, %d checks, %d failures\n", kOrders, checks, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
