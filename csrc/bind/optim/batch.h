// batch.h - all tensors of one optimizer step, checked, and sorted into as few kernel calls as their devices
// and dtypes allow.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <vector>

#include "bind/core/overlap.h"
#include "bind/core/scratch.h"
#include "bind/core/tensor.h"
#include "bind/optim/plan.h"
#include "bind/optim/precision.h"
#include "loops/tensors/tensor_list.h"

namespace onepass {

class Batch {
 public:
  // names: of the lists, kParam first, for messages.
  using ListNames = std::array<const char*, kMaxLists>;
  Batch(const char* function, const ListNames& names) : function_(function), names_(names) {}

  // Sets what holds for the parameters added from here on. group: -1 if there is one group, or none.
  void open_group(int64_t group, const Precision& precision) {
    group_ = group;
    precision_ = precision;
  }
  // The step also writes the gradients of the parameters added from here on (it zeroes them).
  void write_grads() { writes_grads_ = true; }
  // Reads and checks one parameter and what belongs to it: row[0 .. lists), and at kLow, kEma and
  // kStepCount what the parameter lacks, the moving average and the step count, or nullptr. variant: which of
  // two kernels of the family (momentum, amsgrad). turn: what the step before saw, if there is such a thing;
  // its next row belongs to this parameter. Throws; the batch is then of no use.
  void add(PyObject* const* row, int lists, int64_t index, bool variant, Plan::Turn* turn);
  // Lets the plan remember the parameter added last: nothing more is to be checked.
  void complete() {
    if (known_) known_->complete();
  }
  // The rule and the step count of the parameter added last.
  void set_rule(int64_t rule) { items_.back().rule = rule; }
  const TensorView& step_count() const { return step_; }
  DType step_dtype() const { return step_dtype_; }

  // How errors name an entry of a list.
  ArgumentName name(int list, int64_t index) const {
    const char* listed = list == kStepCount ? "state_steps"
                         : list == kLow     ? low_name(kinds_.back().storage)
                                            : names_[size_t(list)];
    return {function_, listed, index, group_};
  }
  // Numbers the leaves of all tensors through, for kernels that ask for them; returns how many there are.
  int64_t number_leaves();
  void check_overlap() { overlap_.run(); }
  // Where the parameter added last is.
  dlpack::DLDevice device() const { return kinds_.back().device; }
  const std::vector<dlpack::DLDevice>& devices() const { return devices_; }
  const char* function() const { return function_; }
  TensorReader& reader() { return reader_; }

  // Calls kernel(list, variant, device) once for each (device, dtypes, variant) among the tensors.
  template <class Kernel>
  void for_each_bucket(const Kernel& kernel);

 private:
  // What tensors of one kernel call have in common.
  struct Kind {
    dlpack::DLDevice device;
    std::array<DType, kMaxLists> dtype;
    Storage storage;
    bool variant, coded;

    bool operator==(const Kind& other) const {
      return same_device(device, other.device) && dtype == other.dtype && storage == other.storage &&
             variant == other.variant && coded == other.coded;
    }
  };
  void read_states(PyObject* const* row, int lists, int64_t index, const TensorView& param, PlanRow* known);
  void recall_states(const PlanRow& known, int lists, int64_t index, const TensorView& param);
  void put(int list, const TensorView& view, DType dtype, int64_t index);
  void check_against_param(const TensorView& view, const TensorView& param, int list, int64_t index) const;
  void check_dtypes(const Kind& kind, int lists, int64_t index) const;
  DType read_codes(const TensorView& view, const ArgumentName& where) const;
  TensorView read_scales(PyObject* scales, int lists, int64_t index, const TensorView& param);
  bool is_coded(int list) const { return kinds_.back().coded && list >= kFirstState && list < kScales; }
  int64_t bytes_of(int list, const TensorView& view, DType dtype) const;
  void set_storage(int lists);
  void check_has_low(bool is_there, int64_t index) const;
  template <class Kernel>
  static void call(const Kernel& kernel, const Kind& kind, const std::vector<TensorItem>& items,
                   int64_t numel) {
    TensorList list{items.data(), int64_t(items.size()), numel, {}, kind.storage, kind.coded};
    for (int k = 0; k < kMaxLists; ++k) list.dtype[k] = kind.dtype[size_t(k)];
    if (numel > 0) kernel(list, kind.variant, kind.device);
  }

  const char* function_;
  ListNames names_;
  int64_t group_ = -1;
  Precision precision_;
  PlanRow* known_ = nullptr;
  TensorReader reader_;
  OverlapCheck overlap_;
  Scratch<TensorItem, Batch> items_;  // their `begin` counts through all of them
  Scratch<Kind, Batch> kinds_;
  std::vector<dlpack::DLDevice> devices_;
  TensorView step_;
  DType step_dtype_{};
  int64_t numel_ = 0, param_numel_ = 0;
  bool writes_grads_ = false;
  bool uniform_ = true;  // one kind: the common case
};

template <class Kernel>
void Batch::for_each_bucket(const Kernel& kernel) {
  if (items_.empty()) return;
  if (uniform_) return call(kernel, kinds_[0], items_, numel_);
  std::vector<bool> done(items_.size(), false);
  std::vector<TensorItem> bucket;
  for (size_t first = 0; first < items_.size(); ++first) {
    if (done[first]) continue;
    bucket.clear();
    int64_t numel = 0;
    for (size_t i = first; i < items_.size(); ++i) {
      if (done[i] || !(kinds_[i] == kinds_[first])) continue;
      done[i] = true;
      bucket.push_back(items_[i]);
      bucket.back().begin = numel;
      numel += items_[i].numel;
    }
    call(kernel, kinds_[first], bucket, numel);
  }
}

}  // namespace onepass
