#include "bind/optim/plan.h"

#include <algorithm>
#include <atomic>

namespace py = pybind11;

namespace onepass {
namespace {

// Gives the data pointer of a tensor object. Set once, at import (onepass/_native.py says where it comes
// from); without it nothing is remembered.
using DataPointer = void* (*)(PyObject*);
std::atomic<DataPointer> pointer_function{nullptr};
// The class of tensors that it is asked about: for others it may have to run Python code.
std::atomic<PyTypeObject*> plain_type{nullptr};

// Takes the function only if it agrees with what DLPack says of all samples, which are of one class.
bool use_data_pointer(uintptr_t address, const py::sequence& samples) {
  const auto function = reinterpret_cast<DataPointer>(address);
  if (!function || samples.size() == 0) return false;
  for (const py::handle sample : samples) {
    TensorReader reader;
    const TensorView view = reader.read(sample.ptr(), {"use_data_pointer", "samples"});
    if (function(sample.ptr()) != view.data) return false;
  }
  plain_type = Py_TYPE(py::object(samples[0]).ptr());
  pointer_function = function;
  return true;
}

// The plan in its Python object; nullptr in one that is not made yet. pybind11's own cast may take a lock,
// which a thread that the garbage collector of a free-threaded build has stopped may hold.
Plan* plan_of(PyObject* self) {
  if (!py::detail::is_holder_constructed(self)) return nullptr;
  return static_cast<Plan*>(
      reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().value_ptr());
}

// A parameter may refer to its optimizer, which has the plan, which holds the parameter: the garbage
// collector must see the whole ring to free it.
void make_collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
    Py_VISIT(Py_TYPE(self));
    const Plan* plan = plan_of(self);
    return plan ? plan->traverse(visit, arg) : 0;
  };
  type.tp_clear = [](PyObject* self) -> int {
    if (Plan* plan = plan_of(self)) plan->clear();
    return 0;
  };
}

}  // namespace

void PlanRow::hold(PyObject* const* objects, std::vector<py::object>& before) {
  complete_ = false;
  for (int k = 0; k < kRowSize; ++k) {
    if (k == kGrad) continue;
    py::object& held = object_[size_t(k)];
    if (held) before.push_back(std::move(held));
    held = py::reinterpret_borrow<py::object>(objects[k]);
  }
}

void PlanRow::note(int place, const TensorView& view, DType dtype) {
  const auto k = size_t(place);
  data_[k] = view.data;
  dtype_[k] = dtype;
  device_[k] = view.device;
  if (place != kParam) return;
  stored_ = view.stored;
  ndim_ = view.ndim;
  has_strides_ = view.strides != nullptr;
  for (int32_t d = 0; d < view.ndim && d < kDims; ++d) {
    shape_[size_t(d)] = view.shape[d];
    strides_[size_t(d)] = has_strides_ ? view.strides[d] : 0;
  }
}

void PlanRow::fetch() const {
  constexpr int kLine = 64, kLinesBeside = 2;
  for (size_t k = 0; k < 2; ++k) ONEPASS_PREFETCH(places_[k]);
  for (size_t k = 2; k < places_.size(); ++k) {
    const auto sizes = reinterpret_cast<uintptr_t>(places_[k]);
    for (int line = -kLinesBeside; line <= kLinesBeside; ++line) {
      ONEPASS_PREFETCH(reinterpret_cast<const void*>(sizes + uintptr_t(intptr_t(line * kLine))));
    }
  }
}

bool PlanRow::is_of(PyObject* const* objects) const {
  if (!complete_) return false;
  for (int k = 0; k < kRowSize; ++k) {
    if (k != kGrad && objects[k] != object_[size_t(k)].ptr()) return false;
  }
  return true;
}

bool PlanRow::has_param(const TensorView& param) const {
  const bool has_strides = param.strides != nullptr;
  return !param.read_only && param.data == data_[kParam] && param.ndim == ndim_ &&
         has_strides == has_strides_ && param.stored.code == stored_.code &&
         param.stored.bits == stored_.bits && param.stored.lanes == stored_.lanes &&
         same_device(param.device, device_[kParam]) &&
         std::equal(param.shape, param.shape + ndim_, shape_.begin()) &&
         (!has_strides || std::equal(param.strides, param.strides + ndim_, strides_.begin()));
}

void PlanRow::complete() {
  if (complete_) return;
  complete_ = pointer_function.load(std::memory_order_acquire) && ndim_ <= kDims;
  const PyTypeObject* plain = plain_type.load(std::memory_order_relaxed);
  for (int k = kFirstState; k < kRowSize; ++k) {
    PyObject* object = object_[size_t(k)].ptr();
    complete_ = complete_ && (!object || Py_TYPE(object) == plain);
  }
}

void PlanRow::watch(std::vector<std::pair<PyObject*, char*>>& watched) const {
  if (!complete_) return;
  for (int k = kFirstState; k < kRowSize; ++k) {
    PyObject* object = object_[size_t(k)].ptr();
    if (object) watched.emplace_back(object, data_[size_t(k)]);
  }
}

TensorView PlanRow::view(int place, const TensorView& param) const {
  TensorView view = param;
  view.data = data_[size_t(place)];
  view.device = device_[size_t(place)];
  if (place == kStepCount) view.numel = 1;
  return view;
}

int PlanRow::traverse(visitproc visit, void* arg) const {
  for (const py::object& object : object_) Py_VISIT(object.ptr());
  return 0;
}

int Plan::traverse(visitproc visit, void* arg) const {
  for (const PlanRow& row : memory_.rows) {
    if (const int stopped = row.traverse(visit, arg)) return stopped;
  }
  return 0;
}

void Plan::clear() {
  // Out of the plan first: what a tensor's end sets off may come back here.
  Memory memory;
  std::swap(memory, memory_);
}

PlanRow* Plan::Turn::next() {
  if (used_ + kAhead < memory_.rows.size()) memory_.rows[used_ + kAhead].fetch();
  if (used_ == memory_.rows.size()) memory_.rows.emplace_back();
  return &memory_.rows[used_++];
}

bool Plan::Turn::states_unmoved() const {
  const DataPointer pointer_of = pointer_function.load(std::memory_order_acquire);
  try {
    for (const auto& [object, data] : memory_.watched) {
      if (pointer_of(object) != data) return false;
    }
  } catch (const std::exception&) {
    return false;  // a tensor that has lost its memory
  }
  return true;
}

void Plan::Turn::keep() {
  if (changed_ || used_ != memory_.rows.size()) {
    memory_.rows.resize(used_);
    memory_.watched.clear();
    for (const PlanRow& row : memory_.rows) row.watch(memory_.watched);
  }
  std::swap(memory_, plan_.memory_);
}

void register_plan(py::module_& module) {
  py::class_<Plan>(module, "Plan", py::module_local(), py::custom_type_setup(&make_collectable))
      .def(py::init<>());
  module.def("use_data_pointer", &use_data_pointer, py::arg("address"), py::arg("samples"));
}

}  // namespace onepass
