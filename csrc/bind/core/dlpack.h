// dlpack.h - the part of the DLPack 1.x ABI that onepass reads, written from its published specification
// (https://dmlc.github.io/dlpack/latest/c_api.html). Only layouts matter; the names are the standard's.
#pragma once

#include <cstdint>

namespace onepass::dlpack {

constexpr int32_t kDLCPU = 1;
constexpr int32_t kDLCUDA = 2;
constexpr int32_t kDLCUDAHost = 3;

constexpr uint8_t kDLInt = 0;
constexpr uint8_t kDLUInt = 1;
constexpr uint8_t kDLFloat = 2;
constexpr uint8_t kDLBfloat = 4;

constexpr uint64_t kReadOnlyFlag = 1;

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};

struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; nullptr from producers older than 1.2 means C-contiguous
  uint64_t byte_offset;
};

// What a "dltensor" capsule holds.
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

struct DLPackVersion {
  uint32_t major;
  uint32_t minor;
};

// What a "dltensor_versioned" capsule holds.
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor dl_tensor;
};

// What the capsule "dlpack_exchange_api" of a tensor class holds (DLPack >= 1.2). Functions return 0, or -1
// with a Python error set. The DLTensor borrows from the object: it is valid while the object lives
// unchanged.
struct DLPackExchangeAPI {
  DLPackVersion version;
  void* previous_api;
  void* allocate;
  void* managed_from_object;
  void* object_from_managed;
  int (*dltensor_from_py_object_no_sync)(void* object, DLTensor* out);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace onepass::dlpack
