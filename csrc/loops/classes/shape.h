// shape.h - logits seen as outer x classes x inner, and how a row of classes is cut. The same on both
// devices (rows.h, columns.h, classes.cuh).
//
// Row r has its logits at index(r, c): those of (N, C, d1, ...) are N x C x (d1 ...), those with the classes
// last (rows) x C x 1. Rows are counted in the order of their targets in either layout.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

constexpr int64_t kClassLeaf = 4096;     // classes of a leaf of a row
constexpr int64_t kFewClasses = 128;     // so few are walked in tiles,
constexpr int64_t kFewTurned = 32;       // and so few where results have to be turned back
constexpr int64_t kTileElements = 8192;  // of a tile's buffer
constexpr int64_t kTileMost = 256;       // rows of a tile: of few classes,
constexpr int64_t kTileLeast = 64;       // and of many
constexpr int64_t kUnitElements = 1 << 16;
static_assert(kFewClasses * kTileLeast <= kTileElements, "few classes fit a tile");

struct ClassShape {
  int64_t outer = 0, classes = 0, inner = 1;

  // Whether tiles of rows are walked (columns.h) and not single rows (rows.h).
  ONEPASS_HD bool walks_columns() const { return inner > 1 || classes <= kFewClasses; }
  // The same in backward. Measured with 16 to 128 classes.
  ONEPASS_HD bool turns_columns() const { return inner > 1 || classes <= kFewTurned; }
  ONEPASS_HD int64_t tile_rows() const {
    return classes * kTileMost <= kTileElements ? kTileMost : kTileLeast;
  }
  ONEPASS_HD int64_t leaves() const { return (classes + kClassLeaf - 1) / kClassLeaf; }
  // Rows over which one subtotal is formed on the CPU.
  ONEPASS_HD int64_t unit_rows() const {
    const int64_t least = walks_columns() ? tile_rows() : 1, times = kUnitElements / (least * classes + 1);
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
