// plan.h - what an optimizer remembers of its tensors from the step before.
//
// Reading a tensor through DLPack costs some 40 ns, five times a parameter with Adam: for 1,000 parameters as
// much as the update itself. States are nearly always those of the step before, so what was read of them is
// remembered, and a step asks each state only for its data pointer. Another object, or another pointer
// (state loaded, moved, shared, .data assigned), is read in full again. The parameter and its gradient, which
// users hold and change, are read in full at each step; a parameter that changed makes its states be read
// too. The pointers are asked for by another thread, while this one gathers the step (families.h).
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <utility>
#include <vector>

#include "bind/core/tensor.h"
#include "loops/tensors/tensor_list.h"

namespace onepass {

// The lists of a rule, and one place for the step count.
constexpr int kRowSize = kMaxLists + 1;
constexpr int kStepCount = kMaxLists;

class PlanRow {
 public:
  // Forgets the row and holds these objects instead (not the gradient); what it held goes to `before`. It
  // counts once it is complete, which it becomes only if the states are plain tensors.
  void hold(PyObject* const* objects, std::vector<pybind11::object>& before);
  void note(int place, const TensorView& view, DType dtype);
  void complete();

  // True if the row is of these very objects.
  bool is_of(PyObject* const* objects) const;
  // True if the parameter, just read, is as it was noted.
  bool has_param(const TensorView& param) const;

  // A remembered state, with the parameter's shape and strides, or the step count.
  TensorView view(int place, const TensorView& param) const;
  bool has(int place) const { return bool(object_[size_t(place)]); }
  DType dtype(int place) const { return dtype_[size_t(place)]; }

  // Remembers where the parameter and its gradient lie: their objects, and their sizes, which are in the
  // middle of what torch has of a tensor. Only to ask for that memory: none of it needs to be there any more.
  void note_places(PyObject* param, PyObject* grad, const TensorView& param_view,
                   const TensorView& grad_view) {
    places_ = {param, grad, param_view.shape, grad_view.shape};
  }
  void fetch() const;

  int traverse(visitproc visit, void* argument) const;
  // Appends the states and the step count with their memory, if the row is complete.
  void watch(std::vector<std::pair<PyObject*, char*>>& watched) const;

 private:
  static constexpr int kDims = 6;  // with parameters of more dimensions all is read in full each time

  std::array<const void*, 4> places_{};
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
  class Turn;
  int traverse(visitproc visit, void* argument) const;
  void clear();

 private:
  struct Memory {
    std::vector<PlanRow> rows;
    std::vector<std::pair<PyObject*, char*>> watched;  // states of the rows, which hold them
  };
  Memory memory_;
};

// The rows of one step. They move out of the plan for the duration of the step, so that a step inside a step
// (a hook, a __dlpack__ in Python) sees an empty plan, and back if the step succeeds. Otherwise they are
// dropped, so that they do not keep tensors alive that are gone.
class Plan::Turn {
 public:
  explicit Turn(Plan& plan) : plan_(plan) { std::swap(memory_, plan.memory_); }

  // The row of the next parameter. Rows before it may move.
  PlanRow* next();
  // Makes the row that next() gave hold these objects, of which it knows nothing yet.
  void renew(PlanRow& row, PyObject* const* objects) {
    changed_ = true;
    row.hold(objects, before_);
  }
  // True if all states that the step before saw are where they were. Needs no GIL and may run beside all
  // else: the objects are alive until the turn ends.
  bool states_unmoved() const;
  // Whether that is so much work that a second thread is worth it.
  bool is_large() const { return memory_.watched.size() >= kLarge; }
  void keep();

 private:
  static constexpr size_t kLarge = 512;
  static constexpr size_t kAhead = 8;  // rows between one that is asked for and one that is worked on

  Plan& plan_;
  Memory memory_;
  std::vector<pybind11::object> before_;
  size_t used_ = 0;
  bool changed_ = false;
};

}  // namespace onepass
