// dtype.h - the element types onepass computes with, as data: a kernel gets them as run-time values.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

ONEPASS_HD constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// torch's name, for messages.
constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "torch.float32";
    case DType::kFloat64:
      return "torch.float64";
    case DType::kBFloat16:
      return "torch.bfloat16";
    case DType::kFloat16:
      return "torch.float16";
  }
  return "?";
}

}  // namespace onepass
