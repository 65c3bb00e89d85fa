// struct_array.h - a float64 tensor's memory as an array of structs of doubles. Python makes such tensors, on
// the device of the call: the core allocates no device memory.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/core/tensor.h"
#include "core/check.h"

namespace onepass {

// count: of whole elements.
template <class Element>
struct StructArray {
  static constexpr int64_t kDoubles = int64_t(sizeof(Element) / sizeof(double));
  Element* data = nullptr;
  int64_t count = 0;
};

template <class Element>
StructArray<Element> struct_array_of(pybind11::handle tensor, const ArgumentName& name,
                                     dlpack::DLDevice device, TensorReader& reader) {
  const TensorView view = reader.read(tensor.ptr(), name);
  const DType dtype = float_dtype(view, name);
  OP_CHECK(dtype == DType::kFloat64 && is_dense(view) && !view.read_only, TypeError, to_string(name),
           " must be a dense, writable torch.float64 tensor, got ", view.read_only ? "a read-only " : "a ",
           is_dense(view) ? "" : "strided ", name_of(dtype), " one");
  OP_CHECK(same_device(view.device, device), ValueError, to_string(name), " must be on ", device_name(device),
           ", got ", device_name(view.device));
  return {reinterpret_cast<Element*>(view.data), view.numel / StructArray<Element>::kDoubles};
}

}  // namespace onepass
