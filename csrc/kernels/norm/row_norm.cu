// row_norm.cu - layer and RMS normalisation on the GPU: math/row_norm.h over loops/rows/rows.cuh. CPU:
// row_norm.cpp.
//
// Forward is one launch and reads x (and the residual) once where a row fits the registers of its threads.
// Backward is one launch for dx, and two for the sums of columns, which read x and dy again. Templates depend
// on the stored type only; what else a call may ask for is the same for all threads.

#include "kernels/kernels.h"
#include "kernels/norm/parameters.cuh"
#include "loops/draws/kept.cuh"
#include "loops/rows/rows.cuh"
#include "math/row_norm.h"

namespace onepass {
namespace {

using gpu::param_of;
using gpu::set_param;

constexpr int V = gpu::kRowPack;
constexpr int kHeld = gpu::kHeldPacks;

// Whether the dropout keeps each of n elements from `index` on, a bit each.
__device__ uint32_t kept_of_pack(const math::Dropout& dropout, int64_t index, int n) {
  constexpr int kEach = math::kDrawsPerBlock;
  PhiloxWords draws = dropout.draws(uint64_t(index / kEach));
  uint32_t kept = 0;
  for (int v = 0; v < n; ++v) {
    const int64_t i = index + v;
    if (v > 0 && i % kEach == 0) draws = dropout.draws(uint64_t(i / kEach));
    const uint32_t draw = math::Dropout::lane(draws, int(i % kEach));
    const bool keeps =
        dropout.is_tie(draw) ? dropout.keeps_tie(dropout.second_draw(uint64_t(i))) : dropout.keeps(draw);
    kept |= uint32_t(keeps) << v;
  }
  return kept;
}

template <class S>
struct RowWork {
  using T = gpu::arithmetic<S>;
  RowNorm op;
  RowShape shape;
  math::Dropout dropout;

  explicit RowWork(const RowNorm& call)
      : op(call), shape(call.shape), dropout(math::Dropout::make(call.dropout, call.seed)) {}

  __device__ void read(const void* list, int64_t index, int n, T (&pack)[V]) const {
    gpu::load_part(static_cast<const S*>(list) + index, n, pack);
  }
  __device__ void write(void* list, int64_t index, int n, const T (&pack)[V]) const {
    gpu::store_part(static_cast<S*>(list) + index, n, pack);
  }
  __device__ void drop(int64_t index, int n, T (&pack)[V]) const {
    const uint32_t kept = kept_of_pack(gpu::seeded(dropout, op.device_seed), index, n);
#pragma unroll
    for (int v = 0; v < V; ++v) pack[v] = math::drop(pack[v], (kept >> v & 1) != 0, T(dropout.scale));
  }
  __device__ T weight(int64_t column) const { return T(param_of(op.param_dtype, op.weight, column, 1)); }
  __device__ T bias(int64_t column) const { return T(param_of(op.param_dtype, op.bias, column, 0)); }
  __device__ T mean(int64_t row) const { return op.centred ? static_cast<const T*>(op.mean)[row] : T(0); }
  __device__ T invstd(int64_t row) const { return static_cast<const T*>(op.invstd)[row]; }
};

template <class S, bool kCentred>
struct Forward : RowWork<S> {
  using T = gpu::arithmetic<S>;
  using Sums = math::RowSums<T, kCentred>;
  explicit Forward(const RowNorm& call) : RowWork<S>(call) {}

  // What is normalised, rounded as it is stored.
  __device__ void load(int64_t index, int n, T (&h)[V]) const {
    const RowNorm& op = this->op;
    this->read(op.x, index, n, h);
    if (!op.residual) return;
    if (op.dropout > 0) this->drop(index, n, h);
    T residual[V];
    this->read(op.residual, index, n, residual);
#pragma unroll
    for (int v = 0; v < V; ++v) h[v] = T(gpu::widen(gpu::narrow<S>(v < n ? h[v] + residual[v] : T(0))));
    this->write(op.h, index, n, h);
  }

  template <int kThreads>
  __device__ void run(int64_t row, const gpu::RowPacks<kThreads>& packs) const {
    const RowNorm& op = this->op;
    const int64_t begin = row * this->shape.width;
    const double count = double(this->shape.width);
    const void* again = op.residual ? op.h : op.x;
    T held[kHeld][V], more[V];
    T sum = 0;
    const auto add_up = [&](const T(&h)[V], int n) {
#pragma unroll
      for (int v = 0; v < V; ++v) sum += v < n ? h[v] : T(0);
    };
    packs.held([&](int k, int64_t column, int n) {
      load(begin + column, n, held[k]);
      add_up(held[k], n);
    });
    packs.others([&](int64_t column, int n) {
      load(begin + column, n, more);
      add_up(more, n);
    });
    const Sums sums = Sums::around(kCentred ? gpu::sum_row<kThreads>(double(sum)) : 0, count);
    T s1 = 0, s2 = 0;
    const auto add = [&](const T(&h)[V], int n) {
#pragma unroll
      for (int v = 0; v < V; ++v) sums.add(v < n ? h[v] : sums.neutral(), T(0), T(0), s1, s2);
    };
    packs.held([&](int k, int64_t, int n) { add(held[k], n); });
    packs.others([&](int64_t column, int n) {
      this->read(again, begin + column, n, more);
      add(more, n);
    });
    const double first = gpu::sum_row<kThreads>(double(s1)), second = gpu::sum_row<kThreads>(double(s2));
    math::RowMoments found;
    found.merge(count, sums.part(count, first, second));
    const math::NormaliseRow<T, kCentred> formula{T(found.moments.mean), T(found.invstd(op.eps))};
    if (packs.thread == 0) {
      if (kCentred) static_cast<T*>(op.mean)[row] = formula.mean;
      static_cast<T*>(op.invstd)[row] = formula.invstd;
    }
    const auto finish = [&](int64_t column, int n, T(&h)[V]) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (v < n) h[v] = formula(h[v], this->weight(column + v), this->bias(column + v));
      }
      this->write(op.y, begin + column, n, h);
    };
    packs.held([&](int k, int64_t column, int n) { finish(column, n, held[k]); });
    packs.others([&](int64_t column, int n) {
      this->read(again, begin + column, n, more);
      finish(column, n, more);
    });
  }
};

template <class S, bool kCentred>
struct Backward : RowWork<S> {
  using T = gpu::arithmetic<S>;
  using Formula = math::RowNormGradient<T, kCentred, true>;
  explicit Backward(const RowNorm& call) : RowWork<S>(call) {}

  template <int kThreads>
  __device__ void run(int64_t row, const gpu::RowPacks<kThreads>& packs) const {
    const RowNorm& op = this->op;
    const int64_t begin = row * this->shape.width;
    const math::RowGradientSums<T, kCentred> sums{this->mean(row)};
    T x[kHeld][V], dy[kHeld][V], more_x[V], more_dy[V];
    T s1 = 0, s2 = 0;
    const auto load = [&](int64_t column, int n, T(&h)[V], T(&g)[V]) {
      this->read(op.x, begin + column, n, h);
      this->read(op.dy, begin + column, n, g);
    };
    const auto add = [&](int64_t column, int n, const T(&h)[V], const T(&g)[V]) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (v < n) sums.add(h[v], g[v], this->weight(column + v), s1, s2);
      }
    };
    packs.held([&](int k, int64_t column, int n) {
      load(column, n, x[k], dy[k]);
      add(column, n, x[k], dy[k]);
    });
    packs.others([&](int64_t column, int n) {
      load(column, n, more_x, more_dy);
      add(column, n, more_x, more_dy);
    });
    const double first = gpu::sum_row<kThreads>(double(s1)), second = gpu::sum_row<kThreads>(double(s2));
    const Formula formula =
        Formula::make({first, second}, this->mean(row), this->invstd(row), double(this->shape.width));
    const auto finish = [&](int64_t column, int n, const T(&h)[V], const T(&g)[V]) {
      this->finish(formula, begin + column, column, n, h, g);
    };
    packs.held([&](int k, int64_t column, int n) { finish(column, n, x[k], dy[k]); });
    packs.others([&](int64_t column, int n) {
      load(column, n, more_x, more_dy);
      finish(column, n, more_x, more_dy);
    });
  }

  __device__ void finish(const Formula& formula, int64_t index, int64_t column, int n, const T (&h)[V],
                         const T (&g)[V]) const {
    const RowNorm& op = this->op;
    T d[V], other[V] = {};
    if (op.dh) this->read(op.dh, index, n, other);
#pragma unroll
    for (int v = 0; v < V; ++v) d[v] = v < n ? formula(h[v], g[v], this->weight(column + v), other[v]) : T(0);
    if (op.dresidual) this->write(op.dresidual, index, n, d);
    if (!op.dx) return;
    if (op.dropout > 0) this->drop(index, n, d);
    this->write(op.dx, index, n, d);
  }
};

// The sums of columns.
template <class S, bool kCentred>
struct Columns : RowWork<S> {
  using T = gpu::arithmetic<S>;
  explicit Columns(const RowNorm& call) : RowWork<S>(call) {}

  __device__ void add(int64_t row, int64_t column, T& dw, T& db) const {
    const int64_t index = row * this->shape.width + column;
    const math::RowNormGradient<T, kCentred, false> formula{this->mean(row), this->invstd(row), T(0), T(0)};
    formula.add(T(gpu::widen(static_cast<const S*>(this->op.x)[index])),
                T(gpu::widen(static_cast<const S*>(this->op.dy)[index])), dw, db);
  }
  __device__ T* at(int64_t part, int64_t column) const {
    return reinterpret_cast<T*>(this->op.workspace) + 2 * part * this->shape.width + column;
  }
  __device__ void set(int64_t part, int64_t column, T dw, T db) const {
    at(part, column)[0] = dw;
    at(part, column)[this->shape.width] = db;
  }
  __device__ math::Pair part(int64_t part, int64_t column) const {
    return {double(at(part, column)[0]), double(at(part, column)[this->shape.width])};
  }
  __device__ void finish(int64_t column, const math::Pair& sums) const {
    set_param(this->op.param_dtype, this->op.dweight, column, sums.first);
    set_param(this->op.param_dtype, this->op.dbias, column, sums.second);
  }
};

template <bool kCentred>
void forward(const RowNorm& op, cudaStream_t stream, const char* what) {
  gpu::with_stored(op.dtype, [&](auto stored) {
    gpu::launch_rows(Forward<decltype(stored), kCentred>(op), stream, what);
  });
}

template <bool kCentred>
void backward(const RowNorm& op, cudaStream_t stream, const char* what) {
  gpu::with_stored(op.dtype, [&](auto stored) {
    using S = decltype(stored);
    if (op.dx || op.dresidual) gpu::launch_rows(Backward<S, kCentred>(op), stream, what);
    if (op.dweight || op.dbias) gpu::launch_columns(Columns<S, kCentred>(op), stream, what);
  });
}

}  // namespace

int64_t cuda::row_norm_workspace(const RowShape& shape, DType dtype, bool columns) {
  const int64_t size = dtype == DType::kFloat64 ? 8 : 4;
  return columns ? (2 * shape.parts() * shape.width * size + 7) / 8 : 0;
}

void cuda::row_norm_forward(const RowNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  op.centred ? forward<true>(op, stream, "layer_norm") : forward<false>(op, stream, "rms_norm");
}

void cuda::row_norm_backward(const RowNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  op.centred ? backward<true>(op, stream, "layer_norm_backward")
             : backward<false>(op, stream, "rms_norm_backward");
}

}  // namespace onepass
