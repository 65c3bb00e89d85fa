// step_count.h - the step counts of one step's parameters: checked, copied to their rules, and advanced once
// everything else is checked.
#pragma once

#include <vector>

#include "bind/optim/batch.h"
#include "kernels/kernels.h"

namespace onepass {

class StepCounts {
 public:
  // Reads the count of the parameter added last: writes rule.step, or rule.device_step where the count is, or
  // must be, on its parameter's device. may_skip: only the device will know whether the step is taken.
  void read(const Batch& batch, int64_t index, bool capturable, bool may_skip, StepScalars& rule);

  // Before the kernels are launched. One launch a device.
  void increment_on_devices(const StepControl* control, int threads, TensorReader& reader);
  void increment_on_host() const;

 private:
  struct DeviceCount {
    dlpack::DLDevice device;
    float* count;
  };
  Scratch<DeviceScalar, StepCounts> on_host_;
  std::vector<DeviceCount> on_devices_;
};

}  // namespace onepass
