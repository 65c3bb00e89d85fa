// plan.h - what an optimizer remembers of its tensors from the step before.
//
// Reading a tensor through DLPack costs some 40 ns, five times a parameter with Adam: for 1,000 parameters as
// much as the update itself. States are nearly always those of the step before, so what was read of them is
// remembered, and a step asks each state for its data pointer alone. Another object, or another pointer
// (state loaded, moved, shared, .data assigned), is read in full again. The parameter and its gradient, which
// users hold and change, are read in full at each step; a parameter that changed makes its states be read
// too.
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
  // Forgets the row and holds these objects instead (not the gradient). It counts once it is complete.
  void hold(PyObject* const* objects);
  void note(int place, const TensorView& view, DType dtype);
  void complete() { complete_ = ndim_ <= kDims; }

  // True if the row is of these very objects.
  bool is_of(PyObject* const* objects) const;
  // True if the parameter, just read, and the memory of the states are as they were noted.
  bool still_true(const TensorView& param) const;

  // A remembered state, with the parameter's shape and strides, or the step count.
  TensorView view(int place, const TensorView& param) const;
  bool has_step() const { return bool(object_[kStepCount]); }
  DType dtype(int place) const { return dtype_[size_t(place)]; }

  int traverse(visitproc visit, void* argument) const;

 private:
  static constexpr int kDims = 6;  // with parameters of more dimensions all is read in full each time

  std::array<pybind11::object, kRowSize> object_;
  std::array<char*, kRowSize> data_{};
  std::array<DType, kRowSize> dtype_{};
  std::array<dlpack::DLDevice, kRowSize> device_{};
  dlpack::DLDataType stored_{};  // of the parameter, as its sizes
  std::array<int64_t, kDims> shape_{}, strides_{};
  int32_t ndim_ = 0;
  bool has_strides_ = false;
  bool complete_ = false;
};

// One per optimizer object; not part of its state.
class Plan {
 public:
  // The rows of one step. They leave the plan meanwhile, so that a step inside a step (a hook, a __dlpack__
  // in Python) finds none, and come back when the step is all right; else they are forgotten, and tensors
  // that are gone are not kept alive by them.
  class Turn {
   public:
    explicit Turn(Plan& plan) : plan_(plan) { rows_.swap(plan.rows_); }
    // The row of the next parameter. Rows before it may move.
    PlanRow* next() {
      if (used_ == rows_.size()) rows_.emplace_back();
      return &rows_[used_++];
    }
    void keep() {
      rows_.resize(used_);
      rows_.swap(plan_.rows_);
    }

   private:
    Plan& plan_;
    std::vector<PlanRow> rows_;
    size_t used_ = 0;
  };

  int traverse(visitproc visit, void* argument) const;
  void clear();

 private:
  std::vector<PlanRow> rows_;
};

void register_plan(pybind11::module_& module);

}  // namespace onepass
