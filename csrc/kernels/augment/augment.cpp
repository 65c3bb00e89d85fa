// augment.cpp - augmentation of a batch of images on the CPU: records (augment.h) carried out sample by
// sample, row by row, in strips that stay in the L1 cache. CUDA: augment.cu.
//
// Each image is read once and each output element written once. An image before a statistic, between two
// passes or waiting for the sample that is mixed with it stays in the thread's scratch memory.

#include "core/kept_memory.h"
#include "kernels/augment/finish.h"
#include "kernels/augment/masks.h"
#include "kernels/augment/move.h"
#include "kernels/augment/operations.h"
#include "kernels/augment/resized_rows.h"
#include "kernels/augment/source.h"
#include "kernels/augment/turn.h"
#include "kernels/kernels.h"
#include "loops/common/units.h"

namespace onepass::ONEPASS_ISA {
namespace {

// Makes samples one after the other.
class Sampler {
 public:
  Sampler(const Augment& op, const MoveShared& shared, const Workspace& workspace)
      : op_(op),
        workspace_(workspace),
        finish_(op, workspace_),
        move_(op, shared, workspace_),
        turn_(op, workspace_) {}

  // Samples that are mixed with the one before find it finished.
  void run(int64_t begin, int64_t end) {
    int64_t kept = -1;
    int slot = 0;
    for (int64_t i = begin; i < end; ++i) {
      const bool mixes = op_.samples[i].mixing != 0;
      const int64_t partner = int64_t(op_.samples[i].partner);
      const bool is_next_partner =
          i + 1 < end && op_.samples[i + 1].mixing != 0 && int64_t(op_.samples[i + 1].partner) == i;
      // A sample that the next one has to find kept takes the usual way.
      const bool is_kept = is_next_partner && !move_.begin_mixed(i + 1);
      if (mixes && !is_kept && move_.begin_mixed(i)) {
        move_.run_mixed();
        kept = -1;
        continue;
      }
      if (mixes && kept != partner) make(partner, workspace_.mixed[slot], nullptr, false);
      const float* other = mixes ? workspace_.mixed[slot] : nullptr;
      make(i, is_kept ? workspace_.mixed[1 - slot] : nullptr, other, true);
      kept = is_kept ? i : -1;
      if (is_kept) slot = 1 - slot;
    }
  }

 private:
  void make(int64_t i, float* keep, const float* partner, bool stores) {
    finish_.begin(i, keep, partner, stores);
    const ImagePass* passes = op_.passes + i * op_.pass_count;
    int64_t last = op_.pass_count - 1;
    while (passes[last].kind == 0) --last;
    ImageView input = op_.images[i];
    image_ = 0;
    const bool is_one = stores && !keep && !partner && op_.pass_count > 0;
    int64_t first = 0;
    while (passes[first].kind == 0) ++first;
    at_once_ = is_one;
    sample_ = i;
    const bool is_single = is_one && first == last;
    moves_ = is_single && move_.begin(i);
    turns_ = is_single && !moves_ &&
             turn_.begin(i, passes[first], op_.ops + (i * op_.pass_count + first) * op_.op_count);
    for (int64_t p = 0; p <= last; ++p) {
      if (passes[p].kind == 0) continue;
      input =
          run_pass(input, p > first, passes[p], op_.ops + (i * op_.pass_count + p) * op_.op_count, p == last);
    }
  }

  // Returns the result, unless it was stored. is_ours: whether the input is the result of a pass.
  ImageView run_pass(const ImageView& input, bool is_ours, const ImagePass& pass, const ImageOp* ops,
                     bool stores) {
    const int64_t height = int64_t(pass.height), width = int64_t(pass.width);
    const Operations operations(ops, op_, workspace_);
    PassSource source(input, pass, is_ours, workspace_);
    bool after_statistic = false;
    resizes_ = ResizedRows::fits(input, pass);
    if (resizes_) resized_ = ResizedRows(input, pass, workspace_);
    for (int64_t begin = 0;;) {
      int64_t end = begin;
      while (end < op_.op_count && ops[end].kind != 0 && !is_statistic(OpKind(int(ops[end].kind)))) ++end;
      const bool finds = end < op_.op_count && ops[end].kind != 0;
      const bool keeps = finds || !stores;
      const FloatImage kept{workspace_.image[image_], height, width, op_.channels,
                            resizes_ && !finds && begin == end};
      if (keeps) image_ = 1 - image_;
      if (finds) next_.begin(ops[end], op_.channels, height * width);
      walk(source, operations, begin, end, after_statistic, finds, keeps ? &kept : nullptr, height, width);
      if (!finds) return kept.view();
      next_.finish();
      statistic_ = next_;
      after_statistic = true;
      source = PassSource(kept, workspace_);
      resizes_ = false;
      if (OpKind(int(ops[end].kind)) == OpKind::kSharpness)
        source.sharpen(math::Sharpness::make(ops[end].a[0]));
      begin = end + 1;
    }
  }

  // All rows: from the source through ops [begin, end), to `kept` or to where the sample is finished.
  void walk(PassSource& source, const Operations& operations, int64_t begin, int64_t end,
            bool after_statistic, bool finds, const FloatImage* kept, int64_t height, int64_t width) {
    const bool at_once = at_once_ && resizes_ && !kept && begin == end && ResizedRows::stores(op_);
    for (int64_t y = 0; y < height; ++y) {
      if (moves_ && move_.row(y)) continue;
      if (turns_ && turn_.row(y)) continue;
      if (resizes_) {
        resized_.begin_row(y);
      } else {
        source.begin_row(y);
      }
      if (at_once) {
        resized_.store(op_, sample_, y);
        continue;
      }
      if (kept && kept->interleaved) {
        resized_.keep(kept->row(y));
        continue;
      }
      for (int64_t x = 0; x < width; x += kStripPixels) {
        const int64_t left = width - x, n = left < kStripPixels ? left : kStripPixels;
        const Planes v = kept ? kept->at(y, x) : Planes{workspace_.strip, kStripPitch};
        if (resizes_) {
          resized_.fill(x, n, v);
        } else {
          source.fill(x, n, v);
        }
        if (after_statistic) statistic_.apply(v, n);
        operations.apply(begin, end, y, x, n, v);
        if (finds) next_.add(v, n, workspace_.grey);
        if (!kept) finish_.finish(y, x, n, v);
      }
      if (finds) next_.end_row();
    }
    if (moves_) move_.end();
  }

  const Augment& op_;
  const Workspace workspace_;
  Finish finish_;
  Move move_;
  Turn turn_;
  ResizedRows resized_;
  // Whether rows are moved, turned or resized; whether nothing but a store comes behind the last pass.
  bool moves_ = false, turns_ = false, resizes_ = false, at_once_ = false;
  int64_t sample_ = 0;
  int image_ = 0;  // of the two kept images the one that is free
  Statistic statistic_, next_;
};

// Samples of one unit of work. The first sample of a unit that is mixed needs a partner made for it alone, so
// units are long then.
int64_t samples_of_unit(const Augment& op, int threads) {
  constexpr int64_t kMost = 16;
  bool mixes = false;
  for (int64_t i = 0; i < op.count; ++i) mixes = mixes || op.samples[i].mixing != 0;
  if (!mixes) return 1;
  const int64_t each = (op.count + threads - 1) / threads;
  return each < kMost ? each : kMost;
}

}  // namespace

void augment(const Augment& op, const Launch& launch) {
  // A thread's memory beyond this is given back.
  constexpr int64_t kMostKept = 64 << 20;
  const MoveShared shared(op);
  const WorkspaceSizes sizes = WorkspaceSizes::make(op);
  const int64_t each = samples_of_unit(op, launch.threads), units = (op.count + each - 1) / each;
  const int threads = int64_t(launch.threads) < units ? launch.threads : int(units);
  char* memory = static_cast<char*>(kept_memory(sizes.bytes() * threads));
  for_each_unit_in_slots(threads, units, [&](int64_t unit, int slot) {
    const int64_t begin = unit * each, end = begin + each < op.count ? begin + each : op.count;
    Sampler(op, shared, Workspace::make(memory + slot * sizes.bytes(), sizes)).run(begin, end);
  });
  trim_kept_memory(kMostKept * threads);
}

void augment_masks(const AugmentMasks& op, const Launch& launch) {
  for_each_unit(launch.threads, op.count, [&](int64_t i) { make_mask(op, i); });
}

}  // namespace onepass::ONEPASS_ISA
