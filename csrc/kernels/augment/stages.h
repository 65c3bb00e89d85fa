// stages.h - a call of augment as work for a GPU, planned on the host from the records.
//
// A sample is made in stages: a gather, one direction of a resize, or an image of floats that was kept, each
// with some operations behind it. Stage s of all samples is one launch. The last stages of all samples are in
// the last launch, so a sample that is mixed with another one finds whatever the other's pixels are made of.
//
// The device reads a table: the images, the stages and the records, in one block of memory. Images that are
// not finished, statistics and taps lie in the workspace.
#pragma once

#include <cstring>
#include <vector>

#include "kernels/augment/augment.h"
#include "loops/images/taps.h"

namespace onepass {

enum class StageKind : int32_t {
  kNone,
  kGather,
  kDown,   // a resize along columns, of the columns of its box
  kAlong,  // and along the rows of that
  kKept    // the pixels at the same places
};

// Places are bytes in the workspace; -1: none.
struct Stage {
  StageKind kind;
  int32_t pass;
  int32_t op_begin, op_end;  // operations of the pass
  int32_t applies;           // the operation whose statistic was found before, carried out first; -1: none
  int32_t finds;             // the operation whose statistic is found behind; -1: none
  int64_t of_bytes;          // whether values are divided by 255
  int64_t height, width;     // of what it makes
  int64_t source_height, source_width;
  int64_t source, target;  // none: the batch's image, the output
  int64_t taps;            // kDown, kAlong
  int64_t applied, found;  // the statistics
};

// Threads of a block make a tile of pixels.
constexpr int kTileWidth = 32, kTileHeight = 8, kTileThreads = kTileWidth * kTileHeight;

// A statistic: its result, for each channel, and then what it is formed of.
constexpr int64_t kStatisticBins = 256;
ONEPASS_HD int64_t statistic_result_bytes(int64_t channels) { return channels * kStatisticBins * 4; }

// Where the parts of a table begin.
struct DeviceTable {
  int64_t images, stages, samples, passes, ops, values, bytes;

  static DeviceTable make(int64_t count, int64_t stages, int64_t samples, int64_t passes, int64_t ops,
                          int64_t values) {
    DeviceTable made{};
    made.stages = count * int64_t(sizeof(ImageView));
    made.samples = made.stages + stages * int64_t(sizeof(Stage));
    made.passes = made.samples + samples * int64_t(sizeof(ImageSample));
    made.ops = made.passes + passes * int64_t(sizeof(ImagePass));
    made.values = made.ops + ops * int64_t(sizeof(ImageOp));
    made.bytes = made.values + values * int64_t(sizeof(double));
    return made;
  }
};

// The stages of one sample.
class SampleStages {
 public:
  SampleStages(const Augment& op, int64_t i, int64_t& workspace)
      : op_(op), sample_(i), workspace_(workspace) {
    bool of_bytes = op.images[i].type == PixelType::kUint8;
    for (int64_t p = 0; p < op.pass_count; ++p) {
      if (op.passes[i * op.pass_count + p].kind == 0) continue;
      add_pass(p, of_bytes);
      of_bytes = false;
    }
    link();
  }
  const std::vector<Stage>& stages() const { return stages_; }

 private:
  int64_t take(int64_t bytes) {
    constexpr int64_t kAligned = 256;
    const int64_t taken = workspace_;
    workspace_ += (bytes + kAligned - 1) / kAligned * kAligned;
    return taken;
  }

  void add_pass(int64_t p, bool of_bytes) {
    const ImagePass& pass = op_.passes[sample_ * op_.pass_count + p];
    const ImageOp* ops = op_.ops + (sample_ * op_.pass_count + p) * op_.op_count;
    Stage stage{};
    stage.pass = int32_t(p);
    stage.applies = stage.finds = -1;
    stage.source = stage.target = stage.applied = stage.found = stage.taps = -1;
    stage.height = int64_t(pass.height);
    stage.width = int64_t(pass.width);
    stage.kind = StageKind::kGather;
    if (is_separable(pass)) {
      Stage down = stage;
      down.kind = StageKind::kDown;
      down.width = int64_t(pass.right - pass.left);
      down.taps = take(TapTable::bytes(down.height, resize_axis(pass, false).most_taps()));
      stages_.push_back(down);
      stage.kind = StageKind::kAlong;
      stage.taps = take(TapTable::bytes(stage.width, resize_axis(pass, true).most_taps()));
    }
    stage.of_bytes = of_bytes;
    for (int32_t begin = 0;;) {
      int32_t end = begin;
      while (end < op_.op_count && ops[end].kind != 0 && !is_statistic(OpKind(int(ops[end].kind)))) ++end;
      const bool finds = end < op_.op_count && ops[end].kind != 0;
      stage.op_begin = begin;
      stage.op_end = end;
      stage.finds = finds ? end : -1;
      if (finds) stage.found = take(statistic_bytes(OpKind(int(ops[end].kind)), stage.height));
      stages_.push_back(stage);
      if (!finds) return;
      stage.kind = StageKind::kKept;
      stage.of_bytes = 0;
      stage.taps = -1;
      stage.applies = end;
      stage.applied = stage.found;
      stage.found = -1;
      begin = end + 1;
    }
  }

  int64_t statistic_bytes(OpKind kind, int64_t height) const {
    const int64_t result = statistic_result_bytes(op_.channels);
    if (kind == OpKind::kContrast) return result + height * int64_t(sizeof(double));
    if (kind == OpKind::kAutocontrast) return result + height * op_.channels * 2 * int64_t(sizeof(float));
    if (kind == OpKind::kEqualize) return 2 * result;
    return 0;
  }

  // A stage reads what the one before has written, in two images by turns.
  void link() {
    int64_t bytes[2] = {0, 0};
    for (size_t s = 0; s + 1 < stages_.size(); ++s) {
      const int64_t floats = FloatImage::elements(stages_[s].height, stages_[s].width, op_.channels);
      int64_t& most = bytes[s % 2];
      most = floats * int64_t(sizeof(float)) > most ? floats * int64_t(sizeof(float)) : most;
    }
    const int64_t place[2] = {take(bytes[0]), take(bytes[1])};
    for (size_t s = 0; s + 1 < stages_.size(); ++s) {
      stages_[s].target = stages_[s + 1].source = place[s % 2];
      stages_[s + 1].source_height = stages_[s].height;
      stages_[s + 1].source_width = stages_[s].width;
    }
  }

  const Augment& op_;
  const int64_t sample_;
  int64_t& workspace_;
  std::vector<Stage> stages_;
};

struct StagePlan {
  // One launch of stages, and what its statistics need: rows of the highest image that has one, or 0.
  struct Step {
    int64_t tiles = 0, rows = 0;
  };
  int64_t each = 0;           // stages of a sample, those that it lacks first
  std::vector<Stage> stages;  // (count, each)
  std::vector<Step> steps;
  bool prepares = false;  // whether there are tables of taps, or counts that begin with 0
  int64_t workspace = 0;  // bytes
  DeviceTable table{};

  static StagePlan make(const Augment& op) {
    StagePlan plan;
    std::vector<std::vector<Stage>> made;
    for (int64_t i = 0; i < op.count; ++i) {
      made.push_back(SampleStages(op, i, plan.workspace).stages());
      const int64_t size = int64_t(made.back().size());
      plan.each = size > plan.each ? size : plan.each;
    }
    plan.stages.resize(size_t(op.count * plan.each));
    plan.steps.resize(size_t(plan.each));
    for (int64_t i = 0; i < op.count; ++i) {
      const std::vector<Stage>& own = made[size_t(i)];
      const int64_t missing = plan.each - int64_t(own.size());
      for (int64_t s = missing; s < plan.each; ++s) {
        const Stage& stage = plan.stages[size_t(i * plan.each + s)] = own[size_t(s - missing)];
        plan.count(op, i, stage, plan.steps[size_t(s)]);
      }
    }
    plan.table = DeviceTable::make(op.count, op.count * plan.each, op.count, op.count * op.pass_count,
                                   op.count * op.pass_count * op.op_count, op.value_count);
    return plan;
  }

  // Writes table.bytes bytes.
  void fill(const Augment& op, char* to) const {
    std::memcpy(to + table.images, op.images, size_t(table.stages - table.images));
    std::memcpy(to + table.stages, stages.data(), size_t(table.samples - table.stages));
    std::memcpy(to + table.samples, op.samples, size_t(table.passes - table.samples));
    std::memcpy(to + table.passes, op.passes, size_t(table.ops - table.passes));
    if (table.values > table.ops) std::memcpy(to + table.ops, op.ops, size_t(table.values - table.ops));
    if (table.bytes > table.values) {
      std::memcpy(to + table.values, op.values, size_t(table.bytes - table.values));
    }
  }

 private:
  void count(const Augment& op, int64_t i, const Stage& stage, Step& step) {
    const int64_t across = (stage.width + kTileWidth - 1) / kTileWidth;
    const int64_t down = (stage.height + kTileHeight - 1) / kTileHeight;
    if (across * down > step.tiles) step.tiles = across * down;
    prepares = prepares || stage.taps >= 0;
    if (stage.finds < 0) return;
    const ImageOp& found = op.ops[(i * op.pass_count + stage.pass) * op.op_count + stage.finds];
    if (OpKind(int(found.kind)) == OpKind::kSharpness) return;
    prepares = prepares || OpKind(int(found.kind)) == OpKind::kEqualize;
    if (stage.height > step.rows) step.rows = stage.height;
  }
};

// The table of masks: no stages, no samples.
inline DeviceTable masks_table(const AugmentMasks& op) {
  return DeviceTable::make(op.count, 0, 0, op.count, op.count * op.op_count, op.value_count);
}
inline void fill_masks_table(const AugmentMasks& op, char* to) {
  const DeviceTable table = masks_table(op);
  std::memcpy(to + table.images, op.masks, size_t(table.stages - table.images));
  std::memcpy(to + table.passes, op.passes, size_t(table.ops - table.passes));
  if (table.values > table.ops) std::memcpy(to + table.ops, op.ops, size_t(table.values - table.ops));
  if (table.bytes > table.values) {
    std::memcpy(to + table.values, op.values, size_t(table.bytes - table.values));
  }
}

}  // namespace onepass
