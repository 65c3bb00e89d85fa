// dropout.cu - dropout on the GPU: math/dropout.h over loops/elements/elementwise.cuh. CPU: dropout.cpp.
//
// x and the residual are read once, y is written once. Templates depend on the stored type only; what else a
// call may ask for is the same for all threads.

#include "core/cuda_device.cuh"
#include "kernels/kernels.h"
#include "loops/elements/elementwise.cuh"

namespace onepass {
namespace {

template <class S>
constexpr int kPackOf = gpu::kPackBytes / int(sizeof(S));

template <class S>
struct Drop {
  using T = gpu::arithmetic<S>;
  static constexpr int V = kPackOf<S>;
  gpu::Kept kept;
  const S* x;
  const S* residual;
  S* y;
  math::DropoutFormula<T> formula;

  __device__ void run(int64_t index, int n, uint32_t bits) const {
    T value[V], other[V];
    gpu::load_part(x + index, n, value);
    if (residual) gpu::load_part(residual + index, n, other);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = formula(value[v], bits >> v & 1, residual ? other[v] : T(0));
    gpu::store_part(y + index, n, value);
  }
};

unsigned blocks_for(int64_t units, int64_t of_block) { return unsigned((units + of_block - 1) / of_block); }

template <class S>
void run(const DropoutCall& op, cudaStream_t stream) {
  Drop<S> work;
  work.kept = {op.places, math::Dropout::make(op.p, op.seed), op.device_seed};
  work.x = static_cast<const S*>(op.x);
  work.residual = static_cast<const S*>(op.residual);
  work.y = static_cast<S*>(op.y);
  work.formula = math::DropoutFormula<typename Drop<S>::T>::make(op.terms, op.residual != nullptr);
  const dim3 threads(gpu::kElementThreads);
  if (op.places.has_table()) {
    const dim3 grid(blocks_for(op.places.draws(), int64_t(gpu::kElementThreads) * math::kDrawsPerBlock));
    cuda_check(gpu::launch(gpu::table_kernel, grid, threads, 0, stream, work.kept), "dropout");
  }
  constexpr int64_t kOfBlock = gpu::kElementThreads / gpu::kWarp * gpu::kWarpElements;
  const dim3 grid(blocks_for(op.places.shape.numel(), kOfBlock));
  cuda_check(gpu::launch(gpu::elementwise_kernel<Drop<S>, Drop<S>::V>, grid, threads, 0, stream, work),
             "dropout");
}

}  // namespace

void cuda::dropout(const DropoutCall& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  switch (op.dtype) {
    case DType::kFloat32:
      return run<float>(op, stream);
    case DType::kFloat64:
      return run<double>(op, stream);
    case DType::kBFloat16:
      return run<__nv_bfloat16>(op, stream);
    case DType::kFloat16:
      return run<__half>(op, stream);
  }
}

}  // namespace onepass
