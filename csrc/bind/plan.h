// plan.h - what an optimizer remembers of its tensors from the step before.
//
// Reading a tensor through DLPack costs some 50 ns, five times a parameter with Adam: for 1,000 parameters as
// much as the update itself. Parameters and states are nearly always those of the step before, so their
// properties are remembered, and a step asks each tensor object for its data pointer alone. Another object,
// or another pointer (state loaded, moved, shared, .data assigned), is read in full again. Gradients always
// are, and compared with the remembered parameter.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <vector>

#include "bind/tensor.h"
#include "loops/tensor_list.h"

namespace onepass {

// The lists of a rule, and one place for the step count.
constexpr int kRowSize = kMaxLists + 1;
constexpr int kStepCount = kMaxLists;

class PlanRow {
 public:
  // True if the row holds these objects (but for the gradient, which is not remembered), their memory where
  // it was.
  bool holds(PyObject* const* objects) const;

  // Forgets the row, then takes note of a tensor; the row counts once all of them are noted.
  void clear();
  void note(int place, PyObject* object, const TensorView& view, DType dtype);
  void complete() { complete_ = pointer_is_known() && ndim_ <= kDims; }

  // The remembered tensor; shape and strides only of the parameter.
  TensorView view(int place) const;
  bool has_step() const { return bool(object_[kStepCount]); }
  DType dtype(int place) const { return dtype_[size_t(place)]; }

 private:
  static constexpr int kDims = 6;  // parameters of more dimensions are read in full each time
  static bool pointer_is_known();

  std::array<pybind11::object, kRowSize> object_;
  std::array<char*, kRowSize> data_{};
  std::array<DType, kRowSize> dtype_{};
  std::array<dlpack::DLDevice, kRowSize> device_{};
  std::array<dlpack::DLDataType, kRowSize> stored_{};
  std::array<int64_t, kDims> shape_{}, strides_{};
  int32_t ndim_ = 0;
  int64_t numel_ = 0;
  bool complete_ = false;
};

// One per optimizer object; not part of its state.
class Plan {
 public:
  // The row of the next parameter of this step. Rows stay where they are for the step.
  PlanRow& next() { return used_ < rows_.size() ? rows_[used_++] : (++used_, rows_.emplace_back()); }
  void begin() { used_ = 0; }
  // Drops the rows of parameters that are gone, so that they are not kept alive.
  void end() { rows_.resize(used_); }

 private:
  std::vector<PlanRow> rows_;
  size_t used_ = 0;
};

void register_plan(pybind11::module_& module);

}  // namespace onepass
