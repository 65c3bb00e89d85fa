// tail.h - the tail of an optimizer's step at the boundary: what Python asks for beside the update, pass one
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
  // tail: None, or (max_grad_norm or None, skip_nonfinite, zero_grad, ema_decay or None, grad_scale or None,
  // found_inf or None, statistics or None, control, workspace). grad_scale, found_inf: numbers, or device
  // tensors. statistics: a row of GroupStatistics for each param group. control and workspace (see control.h)
  // may be None where nothing is to be decided, and workspace on the CPU.
  TailCall(pybind11::handle tail, const char* function);

  // Whether the step may turn out not to be taken, which only the device knows.
  bool may_skip() const { return decision_.options.skip_nonfinite || has_found_inf_; }
  bool has_ema() const { return tail_.ema; }
  double ema_decay() const { return ema_decay_; }

  // Pass one; then, unless the step is known to be skipped, launch() with the rules told what was decided,
  // the counts being advanced. Returns how many doubles workspace must have if it has too few (nothing is
  // done then), else 0.
  template <class Step, class Launches>
  int64_t run(Batch& batch, std::vector<Step>& rules, StepCounts& counts, int threads,
              const Launches& launch);

  const Tail& tail() const { return tail_; }

 private:
  // Checks what belongs to the tail; returns as run.
  int64_t prepare(Batch& batch, int threads);
  // Pass one. Without the GIL.
  void decide(Batch& batch);
  void zero_grads(Batch& batch) const;
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
  StatisticsCall statistics_;
  Target target_;
  bool skipped_ = false;    // known on the CPU alone
  double grad_factor_ = 1;  // likewise
};

template <class Step, class Launches>
int64_t TailCall::run(Batch& batch, std::vector<Step>& rules, StepCounts& counts, int threads,
                      const Launches& launch) {
  if (const int64_t missing = prepare(batch, threads)) return missing;
  {
    pybind11::gil_scoped_release release;
    decide(batch);
    // With statistics the skipped step is still walked through, and zeroes on its way.
    if (skipped_ && !tail_.statistics) zero_grads(batch);
  }
  if (skipped_ && !tail_.statistics) return 0;
  for (Step& rule : rules) {
    rule.options.grad_factor = grad_factor_;
    rule.control = tail_.control;
  }
  tail_.skipped = skipped_;
  if (!skipped_) counts.increment_on_devices(tail_.control, threads, batch.reader());
  launch();
  if (!skipped_) counts.increment_on_host();
  if (tail_.statistics) statistics_.gather(tail_.statistics, decision_, target_);
  return 0;
}

}  // namespace onepass
