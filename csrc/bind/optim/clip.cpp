// clip.cpp - the binding of gradient clipping without an optimizer: the norm, the scaling, the clamp of one
// list of tensors on one device.

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bind/core/overlap.h"
#include "bind/core/without_gil.h"
#include "bind/optim/control.h"
#include "bind/optim/optim.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

// The tensors of one call, checked, one TensorList a dtype. kParam and kGrad are the same memory.
class Gradients {
 public:
  Gradients(const std::string& function, const py::list& grads) : function_(function), grads_(grads) {
    for (size_t i = 0; i < grads.size(); ++i) add(i);
    overlap_.run();
  }

  bool empty() const { return count_ == 0; }
  dlpack::DLDevice device() const { return device_; }
  TensorReader& reader() { return reader_; }

  bool has(DType dtype) const {
    return std::any_of(buckets_.begin(), buckets_.end(), [=](const Bucket& b) { return b.dtype == dtype; });
  }

  // Calls visit(TensorList) for each dtype.
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (const Bucket& bucket : buckets_) {
      TensorList list{bucket.items.data(), int64_t(bucket.items.size()), bucket.numel, {}};
      list.dtype[kParam] = list.dtype[kGrad] = bucket.dtype;
      visit(list);
    }
  }

 private:
  struct Bucket {
    DType dtype;
    std::vector<TensorItem> items;
    int64_t numel = 0;
  };

  void add(size_t index) {
    const ArgumentName name{function_.c_str(), "grads", int64_t(index)};
    const TensorView view = reader_.read(PyList_GET_ITEM(grads_.ptr(), Py_ssize_t(index)), name);
    const DType dtype = float_dtype(view, name);
    OP_CHECK(is_dense(view), ValueError, to_string(name), " must fill one block of memory, got strides ",
             shape_name(view.strides, view.ndim), " for shape ", shape_name(view.shape, view.ndim));
    if (count_++ == 0) device_ = view.device;
    OP_CHECK(same_device(view.device, device_), ValueError, to_string(name), " must be on ",
             device_name(device_), " like the first, got ", device_name(view.device));
    check_has_kernels(device_, name);
    OP_CHECK(!view.read_only, ValueError, to_string(name), " must be writable, got a read-only array");
    overlap_.add(view, view.numel * size_of(dtype), true, name);
    Bucket& bucket = bucket_of(dtype);
    bucket.items.push_back({{view.data, view.data}, view.numel, bucket.numel, 0});
    bucket.numel += view.numel;
  }

  Bucket& bucket_of(DType dtype) {
    for (Bucket& bucket : buckets_) {
      if (bucket.dtype == dtype) return bucket;
    }
    buckets_.push_back({dtype, {}, 0});
    return buckets_.back();
  }

  const std::string& function_;
  const py::list& grads_;
  TensorReader reader_;
  OverlapCheck overlap_;
  std::vector<Bucket> buckets_;
  dlpack::DLDevice device_{};
  int64_t count_ = 0;
};

Target target_of(Gradients& grads, int threads) { return target_of(grads.device(), threads, grads.reader()); }

// Writes control: the norm of all gradients and the factor that clips it to max_norm. written: None, or
// gradients are multiplied by the factor, too, and it is called with them if they are written. workspace(n)
// makes a tensor of n doubles. Returns whether one of the gradients is float64.
bool grad_norm(const std::string& function, const py::list& grads, double norm_type, double max_norm,
               const py::object& written, const py::object& control, const py::function& workspace,
               int threads) {
  // To be written, if not here: what they share is found before anything is changed.
  Gradients gradients(function, grads);
  OP_CHECK(!gradients.empty(), ValueError, function, ": grads must have at least one tensor, got none");
  StepControl* const decided = control_of(control, function.c_str(), gradients.device(), gradients.reader());
  int64_t leaves = 0;
  gradients.for_each([&](const TensorList& list) { leaves += leaf_count(list); });
  const py::object made = workspace(leaves * StructArray<Leaf>::kDoubles);
  const StructArray<Leaf> rows =
      struct_array_of<Leaf>(made, {function.c_str(), "workspace"}, gradients.device(), gradients.reader());
  OP_CHECK(rows.count >= leaves, ValueError, function, ": workspace must have ",
           leaves * StructArray<Leaf>::kDoubles, " elements, got ", rows.count * StructArray<Leaf>::kDoubles);
  Decision decision;
  decision.norm_type = norm_type;
  decision.options.clips = true;
  decision.options.max_norm = max_norm;
  const Target target = target_of(gradients, threads);
  {
    py::gil_scoped_release release;
    Leaf* at = rows.data;
    gradients.for_each([&](const TensorList& list) {
      target.kernels->norm(list, kGrad, norm_type, at, target.launch);
      at += leaf_count(list);
    });
    target.kernels->decide(rows.data, leaves, decision, decided, target.launch);
  }
  if (!written.is_none()) {
    const auto kernels = [&] {
      gradients.for_each(
          [&](const TensorList& list) { target.kernels->scale(list, decided, target.launch); });
    };
    run_without_gil(target.on_gpu, kernels, [&] { written(grads); });
  }
  return gradients.has(DType::kFloat64);
}

// grads *= the factor in control.
void grad_scale(const std::string& function, const py::list& grads, const py::object& control, int threads) {
  Gradients gradients(function, grads);
  if (gradients.empty()) return;
  const StepControl* const decided =
      control_of(control, function.c_str(), gradients.device(), gradients.reader());
  const Target target = target_of(gradients, threads);
  py::gil_scoped_release release;
  gradients.for_each([&](const TensorList& list) { target.kernels->scale(list, decided, target.launch); });
}

void grad_clamp(const std::string& function, const py::list& grads, double limit, int threads) {
  Gradients gradients(function, grads);
  if (gradients.empty()) return;
  const Target target = target_of(gradients, threads);
  py::gil_scoped_release release;
  gradients.for_each([&](const TensorList& list) { target.kernels->clamp(list, limit, target.launch); });
}

}  // namespace

void register_clip(py::module_& module) {
  module.attr("control_size") = StructArray<StepControl>::kDoubles;
  module.def("grad_norm", &grad_norm, py::arg("function"), py::arg("grads"), py::arg("norm_type"),
             py::arg("max_norm"), py::arg("written"), py::arg("control"), py::arg("workspace"),
             py::arg("threads"));
  module.def("grad_scale", &grad_scale, py::arg("function"), py::arg("grads"), py::arg("control"),
             py::arg("threads"));
  module.def("grad_clamp", &grad_clamp, py::arg("function"), py::arg("grads"), py::arg("limit"),
             py::arg("threads"));
}

}  // namespace onepass
