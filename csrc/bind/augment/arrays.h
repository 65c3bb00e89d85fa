// arrays.h - the arrays of one call of augment: numpy's by the buffer protocol, which also lends read-only
// ones and arrays of structs, others by DLPack.
#pragma once

#include <deque>
#include <string_view>

#include "bind/core/overlap.h"
#include "bind/core/target.h"
#include "core/check.h"

namespace onepass {

// One array. Strides are in elements.
struct ArrayView {
  char* data = nullptr;
  int32_t ndim = 0;
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;
  dlpack::DLDataType stored{};
  dlpack::DLDevice device{dlpack::kDLCPU, 0};
  int64_t item = 0;  // bytes of an element
  bool read_only = false;

  int64_t numel() const {
    int64_t product = 1;
    for (int32_t d = 0; d < ndim; ++d) product *= shape[d];
    return product;
  }
};

// Reads the arrays of one call, and keeps what it borrows until it is destroyed. Needs the GIL.
class ArrayReader {
 public:
  explicit ArrayReader(const char* function) : function_(function) {}
  ~ArrayReader() {
    for (Py_buffer& buffer : buffers_) PyBuffer_Release(&buffer);
  }
  ArrayReader(const ArrayReader&) = delete;
  ArrayReader& operator=(const ArrayReader&) = delete;

  ArrayView read(pybind11::handle object, const ArgumentName& name) {
    if (PyObject_CheckBuffer(object.ptr())) return read_buffer(object, name);
    const TensorView tensor = tensors_.read(object.ptr(), name);
    ArrayView view{tensor.data,   tensor.ndim,   tensor.shape,           tensor.strides,
                   tensor.stored, tensor.device, tensor.stored.bits / 8, tensor.read_only};
    if (!view.strides) view.strides = contiguous_strides(view);
    return view;
  }
  TensorReader& tensors() { return tensors_; }

  // `count` structs of doubles: an array of such structs, or of float64.
  template <class Element>
  const Element* records(pybind11::handle object, const char* list, int64_t count) {
    const ArgumentName name{function_, list};
    const ArrayView view = read(object, name);
    const int64_t item = view.stored.bits == 0 ? view.item : is_double(view) ? int64_t(sizeof(double)) : 0;
    OP_CHECK(item == int64_t(sizeof(double)) || item == int64_t(sizeof(Element)), TypeError, to_string(name),
             " must be records of ", sizeof(Element) / sizeof(double), " float64 fields, got ",
             view.stored.bits ? dtype_name(view.stored) : concat("elements of ", view.item, " bytes"));
    OP_CHECK(is_contiguous(view), ValueError, to_string(name), " must be contiguous, got strides ",
             shape_name(view.strides, view.ndim));
    OP_CHECK(view.device.device_type == dlpack::kDLCPU, ValueError, to_string(name), " must be on cpu, got ",
             device_name(view.device));
    OP_CHECK(view.numel() * item == count * int64_t(sizeof(Element)), ValueError, to_string(name),
             " must hold ", count, " records of ", sizeof(Element), " bytes, got ", view.numel() * item,
             " bytes");
    return reinterpret_cast<const Element*>(view.data);
  }

  static bool is_double(const ArrayView& view) {
    return view.stored.code == dlpack::kDLFloat && view.stored.bits == 64;
  }
  static bool is_contiguous(const ArrayView& view) {
    int64_t expected = 1;
    for (int32_t d = view.ndim - 1; d >= 0; --d) {
      if (view.shape[d] != 1 && view.strides[d] != expected) return false;
      expected *= view.shape[d];
    }
    return true;
  }

 private:
  const int64_t* contiguous_strides(const ArrayView& view) {
    std::vector<int64_t>& strides = strides_.emplace_back(size_t(view.ndim) + 1);
    int64_t expected = 1;
    for (int32_t d = view.ndim - 1; d >= 0; --d) {
      strides[size_t(d)] = expected;
      expected *= view.shape[d];
    }
    return strides.data();
  }

  ArrayView read_buffer(pybind11::handle object, const ArgumentName& name) {
    Py_buffer buffer;
    if (PyObject_GetBuffer(object.ptr(), &buffer, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0) {
      throw pybind11::error_already_set();
    }
    buffers_.push_back(buffer);
    static_assert(sizeof(Py_ssize_t) == sizeof(int64_t));
    ArrayView view;
    view.data = static_cast<char*>(buffer.buf);
    view.ndim = buffer.ndim;
    view.shape = reinterpret_cast<const int64_t*>(buffer.shape);
    view.item = buffer.itemsize;
    view.read_only = buffer.readonly != 0;
    view.stored = dtype_of(buffer.format ? buffer.format : "B", buffer.itemsize);
    std::vector<int64_t>& strides = strides_.emplace_back(size_t(buffer.ndim) + 1);
    for (int d = 0; d < buffer.ndim; ++d) {
      const int64_t bytes = buffer.strides[d];
      OP_CHECK(buffer.itemsize > 0 && bytes % buffer.itemsize == 0, ValueError, to_string(name),
               " must have strides of whole elements, got ", bytes, " bytes for elements of ",
               buffer.itemsize);
      strides[size_t(d)] = bytes / buffer.itemsize;
    }
    view.strides = strides.data();
    return view;
  }

  // A struct, and what DLPack has no word for, has 0 bits.
  static dlpack::DLDataType dtype_of(std::string_view format, int64_t item) {
    while (!format.empty() && std::string_view("@=<").find(format[0]) != std::string_view::npos) {
      format.remove_prefix(1);
    }
    const auto made = [&](uint8_t code) { return dlpack::DLDataType{code, uint8_t(item * 8), 1}; };
    if (format.size() != 1) return {0, 0, 1};
    if (format == "?") return made(kBool);
    if (std::string_view("BHILQN").find(format) != std::string_view::npos) return made(dlpack::kDLUInt);
    if (std::string_view("bhilqn").find(format) != std::string_view::npos) return made(dlpack::kDLInt);
    if (std::string_view("efd").find(format) != std::string_view::npos) return made(dlpack::kDLFloat);
    return {0, 0, 1};
  }

  static constexpr uint8_t kBool = 6;
  const char* function_;
  TensorReader tensors_;
  std::deque<Py_buffer> buffers_;
  std::deque<std::vector<int64_t>> strides_;
};

// The bytes from the first element of an array to the last: strides may be negative.
inline TensorView extent_of(const ArrayView& view, int64_t& bytes) {
  TensorView extent;
  int64_t before = 0, behind = 0;
  bytes = 0;
  if (view.numel() == 0) return extent;
  for (int32_t d = 0; d < view.ndim; ++d) {
    (view.strides[d] < 0 ? before : behind) += view.strides[d] * (view.shape[d] - 1);
  }
  extent.data = view.data + before * view.item;
  bytes = (behind - before + 1) * view.item;
  return extent;
}

}  // namespace onepass
