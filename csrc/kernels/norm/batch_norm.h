// batch_norm.h - what the kernels of batch normalisation are given: batch_norm.cpp and batch_norm.cu.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "loops/channels/shape.h"
#include "math/merge_ranks.h"

namespace onepass {

using math::RankNumbers;

// One call. nullptr: not there. x, y, residual, dy, dx and dresidual have one dtype and lie in memory alike;
// T is double for float64, else float.
struct BatchNorm {
  ChannelShape shape;
  DType dtype = DType::kFloat32;
  DType param_dtype = DType::kFloat32;  // of weight, bias, running_*, dweight, dbias

  const void* x = nullptr;
  const void* residual = nullptr;
  void* y = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* running_mean = nullptr;  // updated by forward, read by inference
  void* running_var = nullptr;
  void* mean = nullptr;  // the batch's, T for each channel: written by forward, read by backward, and by
                         // inference where it is there
  void* invstd = nullptr;

  double momentum = 0;               // of the running statistics,
  const int64_t* batches = nullptr;  // or 1 / this, on the device
  double eps = 0;
  bool relu = false;
  double dropout = 0;
  uint64_t seed = 0;
  const int64_t* device_seed = nullptr;  // takes the place of seed
  // One bit each element in the order of memory: whether it passed the ReLU. Only with relu and residual.
  uint8_t* mask = nullptr;

  const void* dy = nullptr;
  void* dx = nullptr;
  void* dresidual = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  bool training = true;  // backward: mean and invstd are those of the batch, and depend on x
  double* workspace = nullptr;

  // Statistics over the batches of several ranks: this rank's two numbers of each channel are written instead
  // of used, all ranks' are merged, and elements are computed with the result.
  double* own = nullptr;             // written by moments, and by backward without dx: RankNumbers
  double tag = 0;                    // of the layer
  const double* gathered = nullptr;  // what `ranks` ranks wrote to own, `stride` doubles apart
  int64_t ranks = 0, stride = 0;
  double* total = nullptr;  // elements of a channel of all ranks: written by merge_moments, then read
  void* terms = nullptr;    // T, two for each channel: written by merge_gradients, read by backward
};

// Parameters of a channel, at most, for which the CPU's workspace has room: inference needs nothing else.
constexpr int kChannelParams = 5;

}  // namespace onepass
