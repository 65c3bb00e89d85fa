// batch.h - all tensors of one optimizer step, checked, and sorted into as few kernel calls as their devices
// and dtypes allow.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <vector>

#include "bind/overlap.h"
#include "bind/tensor.h"
#include "loops/tensor_list.h"

namespace onepass {

class Batch {
 public:
  // names: of the lists, kParam first, for messages.
  using ListNames = std::array<const char*, kMaxLists>;
  Batch(const char* function, const ListNames& names) : function_(function), names_(names) {}

  // Reads and checks one parameter and what belongs to it: row[0 .. lists). variant: which of two kernels of
  // the family (momentum, amsgrad). Throws; the batch is then of no use.
  void add(PyObject* const* row, int lists, int64_t index, bool variant, int64_t rule);

  // A scalar of one parameter that the step writes too (the step count): takes part in the overlap check.
  void add_scalar(const TensorView& view, const ArgumentName& name);

  void reserve(size_t tensors);
  void check_overlap() { overlap_.run(function_); }
  dlpack::DLDevice last_device() const { return entries_.back().device; }
  const char* function() const { return function_; }
  TensorReader& reader() { return reader_; }

  // Calls kernel(list, variant, device) once for each (device, dtypes, variant) among the tensors.
  template <class Kernel>
  void for_each_bucket(const Kernel& kernel);

 private:
  struct Entry {
    TensorItem item;
    std::array<DType, kMaxLists> dtype;
    dlpack::DLDevice device;
    bool variant;

    uint64_t key() const {
      uint64_t key = uint64_t(device.device_type) << 40 | uint64_t(uint32_t(device.device_id)) << 24 | variant;
      for (int k = 0; k < kMaxLists; ++k) key |= uint64_t(dtype[k]) << (4 * k + 4);
      return key;
    }
  };
  void check_against_param(const TensorView& view, const TensorView& param, int list, int64_t index) const;
  void check_dtypes(const Entry& entry, int lists, int64_t index) const;

  const char* function_;
  ListNames names_;
  TensorReader reader_;
  OverlapCheck overlap_;
  std::vector<Entry> entries_;
};

template <class Kernel>
void Batch::for_each_bucket(const Kernel& kernel) {
  std::vector<bool> done(entries_.size(), false);
  std::vector<TensorItem> items;
  for (size_t first = 0; first < entries_.size(); ++first) {
    if (done[first]) continue;
    const Entry& sample = entries_[first];
    items.clear();
    int64_t numel = 0;
    for (size_t i = first; i < entries_.size(); ++i) {
      if (done[i] || entries_[i].key() != sample.key()) continue;
      done[i] = true;
      items.push_back(entries_[i].item);
      items.back().begin = numel;
      numel += items.back().numel;
    }
    TensorList list{items.data(), int64_t(items.size()), numel, {}};
    for (int k = 0; k < kMaxLists; ++k) list.dtype[k] = sample.dtype[k];
    if (numel > 0) kernel(list, sample.variant, sample.device);
  }
}

}  // namespace onepass
