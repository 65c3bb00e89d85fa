// tail.h - the tail of an optimizer's step at the boundary: what Python asks for beside the update, pass one
// over the gradients, and what it decided for pass two.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/batch.h"
#include "bind/control.h"
#include "bind/optim.h"

namespace onepass {

class TailCall {
 public:
  // tail: None, or (max_grad_norm or None, skip_nonfinite, zero_grad, ema_decay or None, grad_scale or None,
  // found_inf or None, control, workspace). grad_scale, found_inf: numbers, or device tensors. control and
  // workspace (see control.h) may be None where nothing is to be decided, and workspace on the CPU.
  TailCall(pybind11::handle tail, const char* function);

  // Whether the step may turn out not to be taken, which only the device knows.
  bool may_skip() const { return decision_.options.skip_nonfinite || has_found_inf_; }
  bool has_ema() const { return tail_.ema; }
  double ema_decay() const { return ema_decay_; }

  // Checks what belongs to the tail. Returns how many doubles workspace must have if it has too few, else 0.
  int64_t prepare(Batch& batch, int threads);
  // Pass one. Call without the GIL; after it the rest is known.
  void decide(Batch& batch);
  // CPU: the step is not to be taken. The gradients are zeroed if that was asked for.
  bool skipped() const { return skipped_; }
  void zero_grads(Batch& batch) const;

  const Tail& tail() const { return tail_; }
  const StepControl* device_control() const { return tail_.control; }
  // CPU: by which gradients are multiplied.
  double grad_factor() const { return grad_factor_; }

 private:
  bool reads_grads() const { return decision_.options.clips || decision_.options.skip_nonfinite; }
  bool decides() const { return reads_grads() || has_grad_scale_ || has_found_inf_; }

  const char* function_;
  pybind11::object control_tensor_, workspace_;
  Decision decision_;
  Scalar grad_scale_, found_inf_;
  Tail tail_;
  double ema_decay_ = 0;
  bool has_grad_scale_ = false, has_found_inf_ = false;
  TensorReader reader_;
  StepControl* control_ = nullptr;
  Leaf* leaves_ = nullptr;
  Scratch<Leaf, TailCall> host_leaves_;
  int64_t leaf_count_ = 0;
  Launch launch_;
  bool cuda_ = false;
  bool skipped_ = false;
  double grad_factor_ = 1;
};

}  // namespace onepass
