// tail.h - the tail of an optimizer's step at the boundary: what Python asks for besides the update, pass one
// over the gradients, and what it decided for pass two.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bind/optim/batch.h"
#include "bind/optim/control.h"
#include "bind/optim/optim.h"
#include "bind/optim/statistics.h"
#include "bind/optim/step_count.h"

namespace onepass {

class TailCall {
 public:
  // tail: None, or a record Tail (python/onepass/optim/_lists/tail.py). Its grad_scale and found_inf are
  // numbers, or device tensors.
  TailCall(pybind11::handle tail, const char* function);

  // Whether the step may turn out not to be taken, which only the device knows.
  bool may_skip() const { return decision_.options.skip_nonfinite || has_found_inf_; }
  bool has_ema() const { return tail_.ema; }
  double ema_decay() const { return ema_decay_; }

  // Pass one; then, unless the step is known to be skipped, launch() with what was decided written to the
  // rules, the counts being advanced.
  template <class Step, class Launches>
  void run(Batch& batch, std::vector<Step>& rules, StepCounts& counts, int threads, const Launches& launch);

  const Tail& tail() const { return tail_; }

 private:
  // Checks what belongs to the tail, and asks Python for the workspace where there has to be one.
  void prepare(Batch& batch, int threads);
  // Pass one. Without the GIL.
  void decide(Batch& batch);
  void zero_grads(Batch& batch) const;
  bool reads_grads() const { return decision_.options.clips || decision_.options.skip_nonfinite; }
  bool decides() const { return reads_grads() || has_grad_scale_ || has_found_inf_; }

  const char* function_;
  pybind11::object memory_;  // TailMemory
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
  StatisticsCall statistics_;
  Target target_;
  bool skipped_ = false;    // known only on the CPU
  double grad_factor_ = 1;  // likewise
};

template <class Step, class Launches>
void TailCall::run(Batch& batch, std::vector<Step>& rules, StepCounts& counts, int threads,
                   const Launches& launch) {
  prepare(batch, threads);
  {
    pybind11::gil_scoped_release release;
    decide(batch);
    // With statistics the kernels still walk through a skipped step, and zero the gradients on the way.
    if (skipped_ && !tail_.statistics) zero_grads(batch);
  }
  if (skipped_ && !tail_.statistics) return;
  for (Step& rule : rules) {
    rule.options.grad_factor = grad_factor_;
    rule.control = tail_.control;
  }
  tail_.skipped = skipped_;
  if (!skipped_) counts.increment_on_devices(tail_.control, threads, batch.reader());
  launch();
  if (!skipped_) counts.increment_on_host();
  if (tail_.statistics) statistics_.gather(tail_.statistics, decision_, target_);
}

}  // namespace onepass
