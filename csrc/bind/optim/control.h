// control.h - the tensor in which pass one leaves what it decided (math::StepControl), and the one in which
// it works. Both are float64, made by Python on the device of the parameters: the core allocates no device
// memory.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/core/tensor.h"
#include "core/check.h"
#include "kernels/kernels.h"

namespace onepass {

// A contiguous float64 tensor's memory as an array of Row, and how many rows it has.
template <class Row>
struct Rows {
  static constexpr int64_t kDoubles = int64_t(sizeof(Row) / sizeof(double));
  Row* data = nullptr;
  int64_t count = 0;
};

template <class Row>
Rows<Row> rows_of(pybind11::handle tensor, const ArgumentName& name, dlpack::DLDevice device,
                  TensorReader& reader) {
  const TensorView view = reader.read(tensor.ptr(), name);
  const DType dtype = float_dtype(view, name);
  OP_CHECK(dtype == DType::kFloat64 && is_dense(view) && !view.read_only, KindError, to_string(name),
           " must be a dense, writable torch.float64 tensor, got ", name_of(dtype));
  OP_CHECK(same_device(view.device, device), ShapeError, to_string(name), " must be on ", device_name(device),
           ", got ", device_name(view.device));
  return {reinterpret_cast<Row*>(view.data), view.numel / Rows<Row>::kDoubles};
}

inline StepControl* control_of(pybind11::handle tensor, const char* function, dlpack::DLDevice device,
                               TensorReader& reader) {
  const ArgumentName name{function, "control"};
  const Rows<StepControl> rows = rows_of<StepControl>(tensor, name, device, reader);
  OP_CHECK(rows.count == 1, ShapeError, to_string(name), " must have ", Rows<StepControl>::kDoubles,
           " elements, got as many as ", rows.count, " rows");
  return rows.data;
}

}  // namespace onepass
