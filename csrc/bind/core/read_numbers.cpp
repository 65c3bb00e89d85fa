// read_numbers.cpp - the binding that reads small tensors of the CPU as Python's numbers, all in one call.

#include <cstring>

#include "bind/core/tensor.h"
#include "bind/register.h"
#include "core/check.h"
#include "core/convert.h"

namespace py = pybind11;

namespace onepass {
namespace {

template <class T>
T stored_at(const char* data, int64_t place) {
  T value;
  std::memcpy(&value, data + place * int64_t(sizeof(T)), sizeof(T));
  return value;
}

// A value of a type that kernels do not compute with: an integer or a bool.
template <class T>
py::int_ whole_number(const char* data, int64_t place) {
  return py::int_(stored_at<T>(data, place));
}

double float_at(const char* data, int64_t place, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return stored_at<float>(data, place);
    case DType::kFloat64:
      return stored_at<double>(data, place);
    case DType::kBFloat16:
      return ONEPASS_ISA::from_bfloat16(stored_at<uint16_t>(data, place));
    case DType::kFloat16:
      return ONEPASS_ISA::from_float16(stored_at<uint16_t>(data, place));
  }
  return 0;
}

py::int_ integer_at(const char* data, int64_t place, dlpack::DLDataType stored) {
  const bool is_signed = stored.code == dlpack::kDLInt;
  switch (stored.bits) {
    case 8:
      return is_signed ? whole_number<int8_t>(data, place) : whole_number<uint8_t>(data, place);
    case 16:
      return is_signed ? whole_number<int16_t>(data, place) : whole_number<uint16_t>(data, place);
    case 32:
      return is_signed ? whole_number<int32_t>(data, place) : whole_number<uint32_t>(data, place);
    default:
      return is_signed ? whole_number<int64_t>(data, place) : whole_number<uint64_t>(data, place);
  }
}

bool is_float(dlpack::DLDataType stored) {
  return stored.code == dlpack::kDLFloat || stored.code == dlpack::kDLBfloat;
}

bool is_integer(dlpack::DLDataType stored) {
  constexpr uint8_t kBool = 6;
  const bool is_whole =
      stored.code == dlpack::kDLInt || stored.code == dlpack::kDLUInt || stored.code == kBool;
  const bool is_known = stored.bits == 8 || stored.bits == 16 || stored.bits == 32 || stored.bits == 64;
  return is_whole && is_known && stored.lanes == 1;
}

// Whether memory holds the elements in the order of their indices.
bool in_order(const TensorView& view) {
  if (!view.strides || view.numel <= 1) return true;
  int64_t expected = 1;
  for (int32_t d = view.ndim - 1; d >= 0; --d) {
    if (view.shape[d] != 1 && view.strides[d] != expected) return false;
    expected *= view.shape[d];
  }
  return true;
}

py::list numbers_of(const TensorView& view, const ArgumentName& name) {
  const bool floats = is_float(view.stored);
  OP_CHECK(floats || is_integer(view.stored), TypeError, to_string(name), " must be real, got ",
           dtype_name(view.stored));
  const DType dtype = floats ? float_dtype(view, name) : DType::kFloat64;
  py::list numbers(view.numel);
  for (int64_t i = 0; i < view.numel; ++i) {
    py::object number;
    if (floats) {
      number = py::float_(float_at(view.data, i, dtype));
    } else {
      number = integer_at(view.data, i, view.stored);
    }
    PyList_SET_ITEM(numbers.ptr(), i, number.release().ptr());
  }
  return numbers;
}

// A list of numbers for each tensor, in the order of its elements.
py::list read_numbers(const py::list& tensors) {
  TensorReader reader;
  py::list found(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const ArgumentName name{"read_numbers", "tensors", int64_t(i)};
    const TensorView view = reader.read(py::object(tensors[i]).ptr(), name);
    OP_CHECK(view.device.device_type == dlpack::kDLCPU, ValueError, to_string(name), " must be on cpu, got ",
             device_name(view.device));
    OP_CHECK(in_order(view), ValueError, to_string(name), " must be contiguous, got strides ",
             shape_name(view.strides, view.ndim));
    found[i] = numbers_of(view, name);
  }
  return found;
}

}  // namespace

void register_read_numbers(py::module_& module) {
  module.def("read_numbers", &read_numbers, py::arg("tensors"));
}

}  // namespace onepass
