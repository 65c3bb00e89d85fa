// batch_norm.cu - batch normalisation on the GPU: math/batch_norm.h over loops/channels/channels.cuh. CPU:
// batch_norm.cpp.
//
// Three launches a call: sums of the tiles, what follows from them for each channel, the elements. Forward
// reads x twice (and the residual) and writes y, backward reads x and dy twice and writes dx; where a block
// can keep a channel, one launch, and each once. Templates depend on the stored type only; what else a call
// may ask for is the same for all threads.

#include "kernels/kernels.h"
#include "kernels/norm/parameters.cuh"
#include "loops/channels/channels.cuh"
#include "loops/channels/flags.cuh"
#include "math/batch_norm.h"

namespace onepass {
namespace {

using gpu::param_of;
using gpu::set_param;
using gpu::use_moments;

constexpr int V = gpu::kChannelPack;

gpu::PassBits passing_of(const BatchNorm& op, bool masked) {
  return {op.shape, math::Dropout::make(op.dropout, op.seed), op.dropout > 0, op.device_seed,
          masked ? op.mask : nullptr};
}

__device__ void set_own(const BatchNorm& op, int64_t c, double first, double second) {
  const RankNumbers at{op.shape.channels};
  op.own[at.first(c)] = first;
  op.own[at.second(c)] = second;
}

// What forward and backward have in common.
template <class S>
struct Work {
  using T = gpu::arithmetic<S>;
  BatchNorm op;
  gpu::PassBits passing;

  __host__ __device__ const ChannelShape& shape() const { return op.shape; }

  template <int N>
  __device__ void read(const void* list, int64_t index, int n, T (&row)[N]) const {
    gpu::load_part(static_cast<const S*>(list) + index, n, row);
  }
  template <int N>
  __device__ void write(void* list, int64_t index, int n, const T (&row)[N]) const {
    gpu::store_part(static_cast<S*>(list) + index, n, row);
  }
  template <int N>
  __device__ void drop(uint32_t bits, T (&row)[N]) const {
#pragma unroll
    for (int v = 0; v < N; ++v) row[v] = math::drop(row[v], bits >> v & 1, T(passing.scale()));
  }
  __device__ math::Affine<T> affine(int64_t c, T mean, T invstd) const {
    return math::Affine<T>::make(mean, invstd, param_of(op.param_dtype, op.weight, c, 1),
                                 param_of(op.param_dtype, op.bias, c, 0));
  }
  // From the saved statistics.
  __device__ math::Affine<T> saved_affine(int64_t c) const {
    return affine(c, static_cast<const T*>(op.mean)[c], static_cast<const T*>(op.invstd)[c]);
  }
};

template <class S>
struct Forward : Work<S> {
  using T = gpu::arithmetic<S>;
  using Sums = math::ShiftedSums<T>;
  bool inference;

  __device__ Sums channel(int64_t c, const RowRange& rows) const {
    double sum = 0;
    const int64_t count = rows.end - rows.begin, some = count < kShiftRows ? count : kShiftRows;
    const S* x = static_cast<const S*>(this->op.x);
    for (int64_t k = 0; k < some; ++k) {
      sum += double(gpu::widen(x[gpu::memory_index(this->op.shape, rows.begin + k, c)]));
    }
    return Sums::around(sum, double(some));
  }
  struct Held {
    T x[V];
  };
  __device__ void hold(const Sums&, int64_t index, int n, Held& held) const {
    this->read(this->op.x, index, n, held.x);
  }
  __device__ void add(const Sums& sums, const Held& held, int n, T (&s1)[V], T (&s2)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v < n) sums.add(held.x[v], T(0), s1[v], s2[v]);
    }
  }
  template <int N, int M>
  __device__ void add_row(const Sums (&sums)[N], int64_t index, int lane, T (&s1)[N][M],
                          T (&s2)[N][M]) const {
    T x[N];
    this->read(this->op.x, index, N, x);
#pragma unroll
    for (int v = 0; v < N; ++v) sums[v].add(x[v], T(0), s1[v][lane], s2[v][lane]);
  }
  __device__ void finish(int64_t c, const math::Pair* parts) const {
    const BatchNorm& op = this->op;
    const gpu::ChannelCut cut(op.shape);
    const int64_t tiles = cut.tiles();
    const double rows = double(op.shape.rows());
    const auto count = [&](int64_t i) {
      const RowRange tile = cut.tile(i).rows();
      return double(tile.end - tile.begin);
    };
    const double mean =
        gpu::sum_tiles(tiles, [&](int64_t i) { return math::mean_term(parts[i], count(i)); }) / rows;
    const double m2 =
        gpu::sum_tiles(tiles, [&](int64_t i) { return math::m2_term(parts[i], count(i), mean); });
    if (threadIdx.x % gpu::kWarp != 0) return;
    if (!op.own) return use_moments<T>(op, c, mean, m2, rows);
    if (c == 0) {
      op.own[RankNumbers::kChannels] = double(op.shape.channels);
      op.own[RankNumbers::kTag] = op.tag;
      op.own[RankNumbers::kCount] = rows;
    }
    set_own(op, c, mean, m2);
  }
  __device__ math::Affine<T> params(int64_t c) const {
    const BatchNorm& op = this->op;
    if (!inference) return this->saved_affine(c);
    const double var = param_of(op.param_dtype, op.running_var, c, 1);
    return this->affine(c, T(param_of(op.param_dtype, op.running_mean, c, 0)),
                        T(math::invstd_of(var, op.eps)));
  }
  __device__ void load(const math::Affine<T> (&)[V], int64_t index, int n, Held& held) const {
    this->read(this->op.x, index, n, held.x);
  }
  __device__ void run(const math::Affine<T> (&p)[V], Held& held, int64_t index, int n) const {
    const BatchNorm& op = this->op;
    T(&x)[V] = held.x;
    T residual[V];
    if (op.residual) this->read(op.residual, index, n, residual);
    uint32_t passed = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      x[v] = op.residual
                 ? math::Normalise<T, true, false>{p[v].mean, p[v].scale, p[v].bias}(x[v], residual[v])
                 : p[v](x[v]);
      if (v < n) passed |= uint32_t(math::passes(x[v])) << v;
      if (op.relu) x[v] = math::relu(x[v]);
    }
    // Where a mask is written packs begin at multiples of 8: one thread writes a byte of it.
    if (op.mask) op.mask[index / 8] = uint8_t(passed);
    if (this->passing.drops) this->drop(this->passing.bits(index, n), x);
    this->write(op.y, index, n, x);
  }
};

template <class S>
struct Backward : Work<S> {
  using T = gpu::arithmetic<S>;
  using Sums = math::GradientSums<T, false>;
  using Params = math::Gradient<T, false, true>;
  T* terms;   // mean_g and slope of channel c at 2 c
  bool relu;  // with a ReLU whose sign follows from x

  // Loads x and the gradient of v.
  template <int N, class Channel>
  __device__ void load_both(int64_t index, int n, T (&x)[N], T (&g)[N], const Channel& channel) const {
    this->read(this->op.dy, index, n, g);
    if (this->passing.asks()) this->drop(this->passing.bits(index, n), g);
    this->read(this->op.x, index, n, x);
#pragma unroll
    for (int v = 0; v < N; ++v) {
      const auto& p = channel(v);
      if (relu) g[v] = math::relu_gradient(math::Affine<T>{p.mean, p.scale, p.bias}, x[v], g[v]);
    }
  }
  __device__ Sums channel(int64_t c, const RowRange&) const {
    const math::Affine<T> p = this->saved_affine(c);
    return {p.mean, p.scale, p.bias};
  }
  struct Held {
    T x[V], g[V];
  };
  __device__ void hold(const Sums& sums, int64_t index, int n, Held& held) const {
    load_both(index, n, held.x, held.g, [&](int) -> const Sums& { return sums; });
  }
  __device__ void add(const Sums& sums, const Held& held, int n, T (&s1)[V], T (&s2)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v < n) sums.add(held.x[v], held.g[v], s1[v], s2[v]);
    }
  }
  template <int N, int M>
  __device__ void add_row(const Sums (&sums)[N], int64_t index, int lane, T (&s1)[N][M],
                          T (&s2)[N][M]) const {
    T x[N], g[N];
    load_both(index, N, x, g, [&](int v) -> const Sums& { return sums[v]; });
#pragma unroll
    for (int v = 0; v < N; ++v) sums[v].add(x[v], g[v], s1[v][lane], s2[v][lane]);
  }
  __device__ void finish(int64_t c, const math::Pair* parts) const {
    const BatchNorm& op = this->op;
    const int64_t tiles = gpu::ChannelCut(op.shape).tiles();
    const math::Pair sums{gpu::sum_tiles(tiles, [&](int64_t i) { return parts[i].first; }),
                          gpu::sum_tiles(tiles, [&](int64_t i) { return parts[i].second; })};
    if (threadIdx.x % gpu::kWarp != 0) return;
    const double invstd = double(static_cast<const T*>(op.invstd)[c]);
    set_param(op.param_dtype, op.dbias, c, sums.first);
    set_param(op.param_dtype, op.dweight, c, math::weight_gradient(sums, invstd));
    if (op.own) return set_own(op, c, sums.first, sums.second);
    const auto made = math::GradientTerms<T>::make(sums, invstd, double(op.shape.rows()));
    terms[2 * c] = made.mean_g;
    terms[2 * c + 1] = made.slope;
  }
  __device__ Params params(int64_t c) const {
    const math::Affine<T> p = this->saved_affine(c);
    if (!this->op.training) return {p.mean, p.scale, p.bias, T(0), T(0)};
    return {p.mean, p.scale, p.bias, terms[2 * c], terms[2 * c + 1]};
  }
  __device__ void load(const Params (&p)[V], int64_t index, int n, Held& held) const {
    load_both(index, n, held.x, held.g, [&](int v) -> const Params& { return p[v]; });
  }
  __device__ void run(const Params (&p)[V], Held& held, int64_t index, int n) const {
    const BatchNorm& op = this->op;
    T(&x)[V] = held.x;
    const T(&g)[V] = held.g;
    if (op.dresidual) this->write(op.dresidual, index, n, g);
    if (!op.dx) return;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const math::Gradient<T, false, false> constant{p[v].mean, p[v].scale, p[v].bias, T(0), T(0)};
      x[v] = op.training ? p[v](x[v], g[v]) : constant(x[v], g[v]);
    }
    this->write(op.dx, index, n, x);
  }
};

template <class Op>
void walk(const Op& op, cudaStream_t stream) {
  const ChannelShape& shape = op.shape();
  const int64_t of_block = int64_t(gpu::walking_threads(shape)) * V * gpu::kPacksPerThread;
  const dim3 grid(unsigned((shape.numel() + of_block - 1) / of_block)), threads(gpu::kChannelThreads);
  cuda_check(shape.channels_last ? gpu::launch(gpu::walk_kernel<Op, true>, grid, threads, 0, stream, op)
                                 : gpu::launch(gpu::walk_kernel<Op, false>, grid, threads, 0, stream, op),
             "batch_norm");
}

// Runs both walks in one launch, if a block can keep a channel; returns false if it cannot.
template <class Op>
bool keep(const Op& op, bool whole_bytes, math::Pair* parts, cudaStream_t stream) {
  if (!gpu::keeps_channel(op.shape(), whole_bytes)) return false;
  const dim3 grid(unsigned(op.shape().channels)),
      threads(unsigned(gpu::ChannelCut(op.shape()).tiles() * gpu::kWarp));
  cuda_check(gpu::launch(gpu::whole_channel_kernel<Op>, grid, threads, 0, stream, op, parts), "batch_norm");
  return true;
}

template <class S>
Forward<S> forward_of(const BatchNorm& op, bool inference) {
  Forward<S> work;
  work.op = op;
  work.passing = passing_of(op, false);
  work.inference = inference;
  return work;
}

}  // namespace

int64_t cuda::batch_norm_workspace(const ChannelShape& shape) {
  return shape.channels * (2 * gpu::ChannelCut(shape).tiles() + 2);
}

void cuda::batch_norm_forward(const BatchNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  gpu::with_stored(op.dtype, [&](auto stored) {
    const auto work = forward_of<decltype(stored)>(op, false);
    auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
    if (keep(work, op.mask != nullptr, parts, stream)) return;
    gpu::reduce_channels(work, int(sizeof(stored)), parts, stream, "batch_norm");
    walk(work, stream);
  });
}

void cuda::batch_norm_moments(const BatchNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  gpu::with_stored(op.dtype, [&](auto stored) {
    gpu::reduce_channels(forward_of<decltype(stored)>(op, false), int(sizeof(stored)),
                         reinterpret_cast<math::Pair*>(op.workspace),
                         static_cast<cudaStream_t>(launch.stream), "batch_norm");
  });
}

void cuda::batch_norm_inference(const BatchNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  gpu::with_stored(op.dtype, [&](auto stored) {
    // Without a mean that is there already: with the running statistics.
    walk(forward_of<decltype(stored)>(op, op.mean == nullptr), static_cast<cudaStream_t>(launch.stream));
  });
}

void cuda::batch_norm_backward(const BatchNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  gpu::with_stored(op.dtype, [&](auto stored) {
    using Work = Backward<decltype(stored)>;
    Work work;
    work.op = op;
    work.passing = passing_of(op, true);
    work.relu = op.relu && !op.mask;
    const int64_t behind = 2 * op.shape.channels * gpu::ChannelCut(op.shape).tiles();
    work.terms = static_cast<typename Work::T*>(op.terms ? op.terms : op.workspace + behind);
    auto* parts = reinterpret_cast<math::Pair*>(op.workspace);
    const bool sums = !op.terms && (op.training || op.dweight || op.dbias), elements = op.dx || op.dresidual;
    if (sums && elements && keep(work, false, parts, stream)) return;
    if (sums) gpu::reduce_channels(work, int(sizeof(stored)), parts, stream, "batch_norm");
    if (elements) walk(work, stream);
  });
}

}  // namespace onepass
