// shape.h - rows of elements that follow each other in memory, and how they are cut. The same on both
// devices.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

// Rows of a part, at most: their terms of a column's sum are added in the arithmetic type.
constexpr int64_t kPartRows = 64;
// Parts that few rows have at least, so that threads share them.
constexpr int64_t kLeastParts = 16;

// Columns are summed over the rows of a part, then over parts in their order. Parts depend on the shape only,
// so sums have the same bits for any number of threads.
struct RowShape {
  int64_t rows = 0, width = 0;

  ONEPASS_HD int64_t numel() const { return rows * width; }
  ONEPASS_HD int64_t part_rows() const {
    const int64_t few = (rows + kLeastParts - 1) / kLeastParts;
    return few < kPartRows ? few : kPartRows;
  }
  ONEPASS_HD int64_t parts() const { return (rows + part_rows() - 1) / part_rows(); }
};

}  // namespace onepass
