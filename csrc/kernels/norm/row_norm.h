// row_norm.h - what the kernels of layer and RMS normalisation are given: row_norm.cpp and row_norm.cu.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "loops/rows/shape.h"

namespace onepass {

// One call. nullptr: not there. x, residual, h, y, dy, dh, dx and dresidual have one dtype and are
// contiguous; T is double for float64, else float.
struct RowNorm {
  RowShape shape;
  DType dtype = DType::kFloat32;
  DType param_dtype = DType::kFloat32;  // of weight, bias, dweight, dbias
  bool centred = true;                  // LayerNorm; false: RMSNorm, without mean and bias

  const void* x = nullptr;         // forward: the input; backward: what was normalised, h where there is one
  const void* residual = nullptr;  // with it h = residual + dropout(x) is normalised, and written
  void* h = nullptr;
  void* y = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* mean = nullptr;  // T for each row: written by forward, read by backward
  void* invstd = nullptr;

  double eps = 0;
  double dropout = 0;
  uint64_t seed = 0;
  const int64_t* device_seed = nullptr;  // takes the place of seed

  const void* dy = nullptr;
  const void* dh = nullptr;  // the gradient that h has besides that of y
  void* dx = nullptr;
  void* dresidual = nullptr;  // with dropout only: without it dx is the residual's gradient, too
  void* dweight = nullptr;
  void* dbias = nullptr;
  double* workspace = nullptr;
};

}  // namespace onepass
