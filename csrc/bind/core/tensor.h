// tensor.h - tensors as they come from Python: torch (any class with DLPack) and numpy, without knowing
// either. See docs/architecture.md, "The tensor boundary".
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "bind/core/dlpack.h"
#include "core/dtype.h"

namespace onepass {

// One tensor's memory. Shape and strides are borrowed from the object; strides may be nullptr (contiguous).
struct TensorView {
  char* data = nullptr;
  int64_t numel = 0;
  int32_t ndim = 0;
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;
  dlpack::DLDataType stored{};
  dlpack::DLDevice device{};
  bool read_only = false;
};

// The place of a tensor in the call, for messages: "adamw: lr", "adamw: grads[17]", or, in an optimizer of
// several groups, "adamw: param_groups[1].grads[17]".
struct ArgumentName {
  const char* function;
  const char* list;
  int64_t index = -1;
  int64_t group = -1;
};

std::string to_string(const ArgumentName& name);
// The name without its function.
std::string place_of(const ArgumentName& name);

// Reads the tensors of one call. Until it is destroyed it keeps alive what the __dlpack__ protocol hands
// over. Needs the GIL.
class TensorReader {
 public:
  // Throws TypeError for an object that is no tensor (or whose class hides its memory, as DTensor does).
  TensorView read(PyObject* object, const ArgumentName& name);

  // torch's current stream of a CUDA device, from the class of the last tensor read.
  void* current_stream(int device);

 private:
  struct Producer {
    PyTypeObject* type;
    const dlpack::DLPackExchangeAPI* api;  // nullptr: use __dlpack__
  };
  const Producer& producer_of(PyObject* object, const ArgumentName& name);
  void read_capsule(PyObject* object, const ArgumentName& name, TensorView& view);

  const Producer* last_ = nullptr;
  std::vector<pybind11::object> kept_;
};

// The dtype as onepass's; throws TypeError for one that kernels do not compute with.
DType float_dtype(const TensorView& view, const ArgumentName& name);

// torch's spelling, also of dtypes that onepass does not take: "torch.int64".
std::string dtype_name(dlpack::DLDataType dtype);
std::string device_name(dlpack::DLDevice device);
std::string shape_name(const int64_t* sizes, int32_t ndim);

// True if the elements fill one block of memory in some order of the dimensions, none twice.
bool is_dense(const TensorView& view);
inline bool same_device(dlpack::DLDevice a, dlpack::DLDevice b) {
  return a.device_type == b.device_type && a.device_id == b.device_id;
}
bool same_shape(const TensorView& a, const TensorView& b);
// True if equal indices are at equal offsets. Dimensions of size 1 do not matter.
bool same_strides(const TensorView& a, const TensorView& b);

}  // namespace onepass
