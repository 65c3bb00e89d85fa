// control.h - the tensor in which pass one leaves what it decided (math::StepControl).
#pragma once

#include <pybind11/pybind11.h>

#include "bind/core/struct_array.h"
#include "kernels/kernels.h"

namespace onepass {

inline StepControl* control_of(pybind11::handle tensor, const char* function, dlpack::DLDevice device,
                               TensorReader& reader) {
  const ArgumentName name{function, "control"};
  const StructArray<StepControl> array = struct_array_of<StepControl>(tensor, name, device, reader);
  OP_CHECK(array.count == 1, ValueError, to_string(name), " must have ", StructArray<StepControl>::kDoubles,
           " elements, got ", array.count * StructArray<StepControl>::kDoubles);
  return array.data;
}

}  // namespace onepass
