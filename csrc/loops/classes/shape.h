// shape.h - logits seen as outer x classes x inner, and how a row of classes is cut. The same on both
// devices (rows.h, columns.h, classes.cuh).
//
// Row r has its logits at index(r, c): those of (N, C, d1, ...) are N x C x (d1 ...), those with the classes
// last (rows) x C x 1. Rows are counted in the order of their targets in either layout.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

constexpr int64_t kClassSegment = 4096;   // classes of a segment of a row
constexpr int64_t kFewClasses = 128;      // rows of at most this many are walked in panels,
constexpr int64_t kFewTransposed = 32;    // and of at most this many where results are transposed back
constexpr int64_t kPanelElements = 8192;  // of a panel's buffer
constexpr int64_t kPanelMostRows = 256;   // rows of a panel, if there are few classes,
constexpr int64_t kPanelLeastRows = 64;   // and if there are many
constexpr int64_t kUnitElements = 1 << 16;
static_assert(kFewClasses * kPanelLeastRows <= kPanelElements, "few classes fit a panel");

struct ClassShape {
  int64_t outer = 0, classes = 0, inner = 1;

  // Whether panels of rows are walked (columns.h) and not single rows (rows.h).
  ONEPASS_HD bool walks_columns() const { return inner > 1 || classes <= kFewClasses; }
  // The same in backward. Measured with 16 to 128 classes.
  ONEPASS_HD bool transposes_columns() const { return inner > 1 || classes <= kFewTransposed; }
  ONEPASS_HD int64_t panel_rows() const {
    return classes * kPanelMostRows <= kPanelElements ? kPanelMostRows : kPanelLeastRows;
  }
  ONEPASS_HD int64_t segments() const { return (classes + kClassSegment - 1) / kClassSegment; }
  // Rows over which one subtotal is formed on the CPU.
  ONEPASS_HD int64_t unit_rows() const {
    const int64_t least = walks_columns() ? panel_rows() : 1, times = kUnitElements / (least * classes + 1);
    return least * (times < 1 ? 1 : times);
  }
  ONEPASS_HD int64_t units() const { return (rows() + unit_rows() - 1) / unit_rows(); }

  ONEPASS_HD int64_t rows() const { return outer * inner; }
  ONEPASS_HD int64_t numel() const { return rows() * classes; }
  ONEPASS_HD int64_t index(int64_t row, int64_t c) const {
    const int64_t n = inner == 1 ? row : row / inner;
    return (n * (classes - 1) + c) * inner + row;
  }
};

}  // namespace onepass
