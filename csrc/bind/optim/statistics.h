// statistics.h - the statistics of a step at the boundary: where the kernels leave the rows of leaves, and
// the tensor of the statistics of param groups.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/core/scratch.h"
#include "bind/core/target.h"
#include "bind/optim/batch.h"
#include "bind/optim/control.h"

namespace onepass {

class StatisticsCall {
 public:
  // tensor: None, or float64, a row of GroupStatistics for each param group.
  void ask(pybind11::object tensor) { tensor_ = std::move(tensor); }
  bool wanted() const { return !tensor_.is_none(); }

  // Numbers the batch's leaves. Returns how many doubles their rows need in the workspace on CUDA.
  int64_t prepare(Batch& batch, const char* function, dlpack::DLDevice device, TensorReader& reader);
  // Where the rows go on the CPU.
  StatisticsRow* host_rows() {
    host_rows_.resize(size_t(row_count_));
    return host_rows_.data();
  }
  // Once the kernels have written the rows.
  void gather(const StatisticsRow* rows, const Decision& decision, const Target& target) const;

 private:
  pybind11::object tensor_ = pybind11::none();
  StructArray<GroupStatistics> groups_;
  Scratch<StatisticsRow, StatisticsCall> host_rows_;
  int64_t row_count_ = 0;
};

}  // namespace onepass
