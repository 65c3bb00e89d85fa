// batch_records.cpp - the records of a planned batch, as augment.h has them.

#include "kernels/augment/batch_plan.h"

namespace onepass {

ImagePass SamplePlan::record() const {
  // A map that only moves pixels needs no interpolation.
  const bool by_floor = rounds_down && !linear;
  const math::PlaneMap& made = by_floor ? floor_map : map;
  ImagePass record{};
  record.kind = double(int(separable ? PassKind::kResize : PassKind::kGather));
  record.height = height;
  record.width = width;
  for (int k = 0; k < 9; ++k) record.map[k] = made.m[k];
  // Products of maps round; a position that is whole must not fall below itself. Others are further away.
  constexpr double kAbove = 0x1p-20;
  if (by_floor) {
    record.map[2] += kAbove;
    record.map[5] += kAbove;
  }
  const Interpolation way = by_floor          ? Interpolation::kFloor
                            : cubic           ? Interpolation::kBicubic
                            : linear && moved ? Interpolation::kBilinear
                                              : Interpolation::kNearest;
  record.interpolation = double(int(way));
  record.antialias = antialias;
  record.left = across.low;
  record.top = down.low;
  record.right = across.high;
  record.bottom = down.high;
  record.border = double(int(border));
  return record;
}

int64_t BatchPlan::pass_count() const {
  int64_t most = 0;
  for (const SamplePlan& sample : samples_) most = sample.pass > most ? sample.pass : most;
  return most + 1;
}

std::vector<ImagePass> BatchPlan::passes() const {
  const int64_t each = pass_count();
  std::vector<ImagePass> made(size_t(count() * each));
  for (const Ended& ended : ended_) made[size_t(ended.sample * each + ended.pass)] = ended.record;
  for (int64_t i = 0; i < count(); ++i) made[size_t(i * each + sample(i).pass)] = sample(i).record();
  return made;
}

std::vector<ImageOp> BatchPlan::ops(const std::vector<ImagePass>& passes, int64_t& op_count) const {
  const int64_t each = pass_count();
  const auto is_needed = [&](const Column& column, int64_t i) {
    const PlannedOp& planned = column.ops[size_t(i)];
    if (planned.op.kind == 0 || !column.blends) return planned.op.kind != 0;
    const ImagePass& pass = passes[size_t(i * each + planned.pass)];
    const bool soft = Interpolation(int(pass.interpolation)) == Interpolation::kBilinear;
    const double (&a)[14] = planned.op.a;
    return !math::is_covered(planned.map(), pass.height, pass.width, a[kBlendHeight], a[kBlendWidth], soft);
  };
  std::vector<int64_t> counts(passes.size());
  std::vector<int64_t> slots(columns_.size() * samples_.size(), -1);
  op_count = 1;
  for (size_t c = 0; c < columns_.size(); ++c) {
    for (int64_t i = 0; i < count(); ++i) {
      if (!is_needed(columns_[c], i)) continue;
      int64_t& used = counts[size_t(i * each + columns_[c].ops[size_t(i)].pass)];
      slots[c * samples_.size() + size_t(i)] = used++;
      op_count = used > op_count ? used : op_count;
    }
  }
  std::vector<ImageOp> made(passes.size() * size_t(op_count));
  for (size_t c = 0; c < columns_.size(); ++c) {
    for (int64_t i = 0; i < count(); ++i) {
      const int64_t slot = slots[c * samples_.size() + size_t(i)];
      if (slot < 0) continue;
      const PlannedOp& planned = columns_[c].ops[size_t(i)];
      const size_t row = size_t(i * each + planned.pass);
      ImageOp& op = made[row * size_t(op_count) + size_t(slot)];
      op = planned.op;
      if (columns_[c].blends) {
        const auto way = Interpolation(int(passes[row].interpolation));
        op.a[kBlendSoft] = way == Interpolation::kBilinear;
      }
    }
  }
  return made;
}

}  // namespace onepass
