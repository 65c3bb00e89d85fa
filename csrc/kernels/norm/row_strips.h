// row_strips.h - what forward and backward of row_norm.cpp share: how rows become strips, the parameters as
// the arithmetic reads them, the sums of columns.
#pragma once

#include "core/convert.h"
#include "kernels/norm/row_norm.h"
#include "loops/common/units.h"
#include "loops/rows/rows.h"

namespace onepass::ONEPASS_ISA {

// Elements of a unit of the forward pass, about.
constexpr int64_t kRowUnit = 32 * 1024;

// Rows of up to this width are walked some at a time.
constexpr int64_t kShortRow = 256;
constexpr int64_t kShortRows = 32;

// Rows that are loaded together: as many as fit a strip.
inline int64_t group_rows(const RowShape& shape) { return shape.width < kStrip ? kStrip / shape.width : 1; }

inline int64_t unit_rows(const RowShape& shape) {
  const int64_t group = group_rows(shape), groups = kRowUnit / (group * shape.width);
  return groups > 1 ? groups * group : group;
}

// visit(row, count) for the rows begin .. begin + rows, those that are there, in groups.
template <class Visit>
inline void for_each_group(const RowShape& shape, int64_t begin, int64_t rows, const Visit& visit) {
  const int64_t end = begin + rows < shape.rows ? begin + rows : shape.rows, group = group_rows(shape);
  for (int64_t row = begin; row < end; row += group) visit(row, group < end - row ? group : end - row);
}

// visit(at, n) for the strips of n elements.
template <class Visit>
inline void for_each_strip(int64_t n, const Visit& visit) {
  for (int64_t at = 0; at < n; at += kStrip) visit(at, kStrip < n - at ? kStrip : n - at);
}

inline Output output_of(const RowNorm& op, void* stored, bool nontemporal) {
  return {op.dtype, stored, nontemporal && op.shape.numel() * size_of(op.dtype) >= kNontemporalLeast};
}

// What a reader gets of values that are stored with fewer bits.
template <class T>
inline void round_strip(DType dtype, T* strip, int64_t n) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (size_of(dtype) == sizeof(T)) return;
    uint16_t stored[kStrip];
    store_strip(dtype, stored, 0, strip, n);
    load_strip(dtype, stored, 0, strip, n);
  }
}

// Weight and bias of all columns; 1 and 0 where there are none.
template <class T>
struct RowParams {
  const T* weight;
  const T* bias;
};

// Doubles that they need.
inline int64_t params_workspace(const RowShape& shape) { return 2 * shape.width; }

template <class T>
inline const T* prepare_param(const RowNorm& op, const void* stored, T missing, double* memory) {
  if (stored && stored_as(op.param_dtype, T{})) return static_cast<const T*>(stored);
  T* values = reinterpret_cast<T*>(memory);
  if (stored) {
    load_strip(op.param_dtype, stored, 0, values, op.shape.width);
  } else {
    for (int64_t c = 0; c < op.shape.width; ++c) values[c] = missing;
  }
  return values;
}

template <class T>
inline RowParams<T> prepare_params(const RowNorm& op) {
  return {prepare_param(op, op.weight, T(1), op.workspace),
          prepare_param(op, op.bias, T(0), op.workspace + op.shape.width)};
}

// The two sums of each column for each part, in T.
inline int64_t columns_workspace(const RowShape& shape, DType dtype) {
  const int64_t size = dtype == DType::kFloat64 ? 8 : 4;
  return (2 * shape.parts() * shape.width * size + 7) / 8;
}

template <class T>
inline T* columns_of_parts(const RowNorm& op) {
  return reinterpret_cast<T*>(op.workspace + params_workspace(op.shape));
}

inline void store_columns(DType dtype, void* stored, int64_t begin, const double* columns, int64_t n) {
  if (dtype == DType::kFloat64) {
    std::memcpy(static_cast<double*>(stored) + begin, columns, size_t(n) * sizeof(double));
    return;
  }
  float values[kStrip];
  for (int64_t c = 0; c < n; ++c) values[c] = float(columns[c]);
  if (dtype != DType::kFloat32) return store_strip(dtype, stored, begin, values, n);
  std::memcpy(static_cast<float*>(stored) + begin, values, size_t(n) * sizeof(float));
}

// dweight and dbias from the sums of all parts.
template <class T>
inline void finish_columns(const RowNorm& op, const T* parts, int threads) {
  const int64_t width = op.shape.width, count = op.shape.parts();
  for_each_unit(threads_for(2 * count * width, threads), (width + kStrip - 1) / kStrip, [&](int64_t i) {
    double columns[kStrip];
    const int64_t begin = i * kStrip, n = kStrip < width - begin ? kStrip : width - begin;
    const auto finish = [&](void* stored, const T* from) {
      if (!stored) return;
      sum_parts(from + begin, count, 2 * width, n, columns);
      store_columns(op.param_dtype, stored, begin, columns, n);
    };
    finish(op.dweight, parts);
    finish(op.dbias, parts + width);
  });
}

}  // namespace onepass::ONEPASS_ISA
