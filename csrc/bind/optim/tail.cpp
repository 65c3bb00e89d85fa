#include "bind/optim/tail.h"

#include <algorithm>
#include <cstring>

#include "bind/core/record.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {

TailCall::TailCall(py::handle tail, const char* function) : function_(function) {
  if (tail.is_none()) return;
  static const Field kMaxGradNorm("max_grad_norm"), kSkipNonfinite("skip_nonfinite"), kZeroGrad("zero_grad"),
      kEmaDecay("ema_decay"), kGradScale("grad_scale"), kFoundInf("found_inf"), kMemory("memory"),
      kStatistics("statistics"), kControl("control");
  const Record given(tail, function, "tail");
  math::ClipOptions& options = decision_.options;
  options.clips = given.has(kMaxGradNorm);
  if (options.clips) options.max_norm = given.number(kMaxGradNorm);
  options.skip_nonfinite = given.flag(kSkipNonfinite);
  tail_.zero_grad = given.flag(kZeroGrad);
  tail_.ema = given.has(kEmaDecay);
  if (tail_.ema) ema_decay_ = given.number(kEmaDecay);
  has_grad_scale_ = given.has(kGradScale);
  if (has_grad_scale_) grad_scale_ = scalar_of(given.get(kGradScale), function, "grad_scale", reader_);
  has_found_inf_ = given.has(kFoundInf);
  if (has_found_inf_) found_inf_ = scalar_of(given.get(kFoundInf), function, "found_inf", reader_);
  memory_ = given.get(kMemory);
  const Record memory(memory_, function, "tail.memory");
  statistics_.ask(memory.get(kStatistics));
  control_tensor_ = memory.get(kControl);
  // Infinity clips nothing.
  OP_CHECK(!options.clips || options.max_norm >= 0, ValueError, function,
           ": max_grad_norm must be at least 0, got ", options.max_norm);
  check_range(function, "ema_decay", ema_decay_, 0, 1);
  if (has_grad_scale_ && !grad_scale_.device.data) {
    OP_CHECK(grad_scale_.value > 0 && grad_scale_.value < kInfinity, ValueError, function,
             ": grad_scale must be finite and above 0, got ", grad_scale_.value);
  }
  decision_.host_grad_scale = has_grad_scale_ ? grad_scale_.value : 1;
  decision_.host_found_inf = found_inf_.value;
  decision_.grad_scale = grad_scale_.device;
  decision_.found_inf = found_inf_.device;
}

void TailCall::prepare(Batch& batch, int threads) {
  if (batch.devices().empty() || !(decides() || statistics_.wanted())) return;
  const dlpack::DLDevice device = batch.devices().front();
  OP_CHECK(batch.devices().size() == 1, ValueError, function_,
           ": params must be on one device with max_grad_norm, skip_nonfinite, grad_scale or telemetry, got ",
           device_name(device), " and ", device_name(batch.devices().back()));
  grad_scale_.check_reaches(device, function_, "grad_scale");
  found_inf_.check_reaches(device, function_, "found_inf");
  target_ = target_of(device, threads, batch.reader());
  if (decides()) {
    control_ = control_of(control_tensor_, function_, device, reader_);
    if (target_.on_gpu) tail_.control = control_;
  }
  if (reads_grads()) {
    batch.for_each_bucket(
        [&](const TensorList& list, bool, dlpack::DLDevice) { leaf_count_ += leaf_count(list); });
  }
  const int64_t rows = statistics_.wanted() ? statistics_.prepare(batch, function_, device, reader_) : 0;
  if (!target_.on_gpu) {
    host_leaves_.resize(size_t(leaf_count_));
    leaves_ = host_leaves_.data();
    if (statistics_.wanted()) tail_.statistics = statistics_.host_rows();
    return;
  }
  const int64_t needed = std::max(leaf_count_ * StructArray<Leaf>::kDoubles, rows);
  if (needed == 0) return;
  // Pass one is over when pass two writes its rows: one workspace serves both.
  workspace_ = memory_.attr("workspace")(needed);
  const StructArray<double> workspace =
      struct_array_of<double>(workspace_, {function_, "workspace"}, device, reader_);
  OP_CHECK(workspace.count >= needed, ValueError, function_, ": workspace must have ", needed,
           " elements, got ", workspace.count);
  leaves_ = reinterpret_cast<Leaf*>(workspace.data);
  if (statistics_.wanted()) tail_.statistics = reinterpret_cast<StatisticsRow*>(workspace.data);
}

void TailCall::decide(Batch& batch) {
  if (!control_) return;
  if (leaf_count_ > 0) {
    Leaf* at = leaves_;
    batch.for_each_bucket([&](const TensorList& list, bool, dlpack::DLDevice) {
      target_.kernels->norm(list, kGrad, decision_.norm_type, at, target_.launch);
      at += leaf_count(list);
    });
  }
  target_.kernels->decide(leaves_, leaf_count_, decision_, control_, target_.launch);
  if (target_.on_gpu) return;
  grad_factor_ = control_->factor;
  skipped_ = control_->skip != 0;
}

void TailCall::zero_grads(Batch& batch) const {
  if (!tail_.zero_grad) return;
  batch.for_each_bucket([](const TensorList& list, bool, dlpack::DLDevice) {
    const int64_t size = size_of(list.dtype[kGrad]);
    for (int64_t i = 0; i < list.count; ++i) {
      std::memset(list.items[i].list[kGrad], 0, size_t(list.items[i].numel * size));
    }
  });
}

}  // namespace onepass
