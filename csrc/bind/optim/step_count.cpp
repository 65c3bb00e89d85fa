#include "bind/optim/step_count.h"

#include <algorithm>
#include <limits>

#include "bind/optim/optim.h"
#include "core/check.h"

namespace onepass {
namespace {

void check_device_count(const Batch& batch, DType dtype, bool capturable, const ArgumentName& name) {
  const dlpack::DLDevice device = batch.device(), where = batch.step_count().device;
  OP_CHECK(uses_cuda_kernels(device), ValueError, to_string(batch.name(kParam, name.index)),
           " must be on CUDA with ", capturable ? "capturable=True" : "its step count there", ", got ",
           device_name(device));
  OP_CHECK(same_device(where, device), ValueError, to_string(name), " must be on ", device_name(device),
           " like its parameter, got ", device_name(where));
  OP_CHECK(dtype == DType::kFloat32, TypeError, to_string(name), " must be torch.float32 on a device, got ",
           name_of(dtype));
}

}  // namespace

void StepCounts::read(const Batch& batch, int64_t index, bool capturable, bool may_skip, StepScalars& rule) {
  const TensorView& count = batch.step_count();
  const ArgumentName name = batch.name(kStepCount, index);
  const DType dtype = batch.step_dtype();
  OP_CHECK(count.numel == 1 && size_of(dtype) >= 4, ValueError, to_string(name),
           " must be one torch.float32 or torch.float64, got ", count.numel, " of ", name_of(dtype));
  rule.device_step = {};
  rule.step = 1;
  const bool counts_there = may_skip && uses_cuda_kernels(batch.device());
  if (capturable || counts_there || count.device.device_type == dlpack::kDLCUDA) {
    check_device_count(batch, dtype, capturable, name);
    rule.device_step = {count.data, dtype};
    on_devices_.push_back({count.device, reinterpret_cast<float*>(count.data)});
    return;
  }
  const double taken = dtype == DType::kFloat32 ? *reinterpret_cast<const float*>(count.data)
                                                : *reinterpret_cast<const double*>(count.data);
  OP_CHECK(taken >= 0 && taken < std::numeric_limits<double>::infinity(), ValueError, to_string(name),
           " must be finite and at least 0, got ", taken);
  rule.step = taken + 1;
  on_host_.push_back({count.data, dtype});
}

void StepCounts::increment_on_devices(const StepControl* control, int threads, TensorReader& reader) {
  std::vector<DeviceCount> left = on_devices_;
  while (!left.empty()) {
    const dlpack::DLDevice device = left.back().device;
    const auto here = [&](const DeviceCount& s) { return same_device(s.device, device); };
    std::vector<float*> counts;
    for (const DeviceCount& s : left) {
      if (here(s)) counts.push_back(s.count);
    }
    const Target target = target_of(device, threads, reader);
    target.kernels->increment(counts.data(), int64_t(counts.size()), control, target.launch);
    left.erase(std::remove_if(left.begin(), left.end(), here), left.end());
  }
}

void StepCounts::increment_on_host() const {
  for (const DeviceScalar& step : on_host_) {
    void* count = const_cast<void*>(step.data);
    if (step.dtype == DType::kFloat32) {
      *static_cast<float*>(count) += 1;
    } else {
      *static_cast<double*>(count) += 1;
    }
  }
}

}  // namespace onepass
