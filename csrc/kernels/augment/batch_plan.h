// batch_plan.h - plans what is done to each sample of a batch: one map, one list of operations, and where a
// further pass begins. What transforms ask for comes in, the records of augment.h come out.
//
// A pass ends where one map cannot do what the chain asks for: before a filter that reduces, after it, and
// where an operation needs all pixels of the image at its place. No sample has an influence on another.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/augment/augment.h"
#include "math/plane_map.h"

namespace onepass {

// One number for all samples (stride 0), or one for each.
struct Each {
  const double* data;
  int64_t stride;

  double operator[](int64_t i) const { return data[i * stride]; }
};

// Which samples; nullptr: all of them.
struct Chosen {
  const uint8_t* data = nullptr;
  int64_t stride = 0;

  bool operator[](int64_t i) const { return !data || data[i * stride]; }
  bool any(int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      if ((*this)[i]) return true;
    }
    return false;
  }
};

// What an operation is to a later map: linear in the pixels; a function of one pixel, which interpolation
// must not precede; a function of all pixels, which a crop must not precede; bound to the coordinates, as a
// box is.
enum class Level { kCommutes, kPointwise, kWhole, kFixed };

// How a resize samples, by torch's names.
enum class Filter { kNearest, kNearestExact, kBilinear, kBicubic };

// How a padding is filled: by a constant, or by the rule of a border.
struct Padding {
  bool constant;
  math::Border border;
};

// A sample, and the pass of it that is planned.
struct SamplePlan {
  double height = 0, width = 0;
  int64_t pass = 0;
  math::PlaneMap map = math::identity_map();
  // Another map for pixels that are found by rounding down: torch's "nearest" of resize has no half pixel.
  math::PlaneMap floor_map = math::identity_map();
  bool rounds_down = false;
  math::Range across{0, 0}, down{0, 0};  // the box that taps come from
  math::Border border = math::Border::kEdge;
  // Whether the map does more than move pixels; bilinear was asked for; there are fills; there are pixels by
  // the rule beyond the box; the pass is a filter of its own, bicubic, antialiased.
  bool moved = false, linear = false, filled = false, padded = false;
  bool separable = false, cubic = false, antialias = false;
  Level level = Level::kCommutes;  // the greatest of its operations

  void begin_pass(int64_t number);
  ImagePass record() const;
};

// An operation of a sample, in one of its passes. Kind 0: this sample does not have it. The map of a blend
// changes with that of its pass.
struct PlannedOp {
  ImageOp op{};
  int64_t pass = 0;

  math::PlaneMap map() const {
    const double (&a)[14] = op.a;
    return {{a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]}};
  }
  void set_map(const math::PlaneMap& map) {
    for (int k = 0; k < 9; ++k) op.a[k] = map.m[k];
  }
};

// What an operation is made of, for a batch.
struct OpColumn {
  Each kind;
  const Each* a;
  int64_t count;  // of a, at most 14
  Each level;
  int64_t first;  // place in the list of values
};

class BatchPlan {
 public:
  // unit: what 1.0 is called in fills. masks: nearest pixels, one map, and no operations but fills.
  BatchPlan(int64_t count, int64_t channels, double unit, bool masks, Each heights, Each widths);

  int64_t count() const { return int64_t(samples_.size()); }
  int64_t channels() const { return channels_; }
  const SamplePlan& sample(int64_t i) const { return samples_[size_t(i)]; }
  const std::vector<double>& values() const { return values_; }
  // Whether masks would take two maps, which they must not; what is planned then is of no use.
  bool splits_masks() const { return splits_masks_; }

  double unit;
  const bool masks;

  // Takes a part of the image, which lies within it.
  void crop(Each top, Each left, Each height, Each width, Chosen on);
  // Mirrors: axis 0 from left to right, axis 1 upside down.
  void flip(int axis, Chosen on);
  // Turns by multiples of 90 degrees, against the clock; odd ones exchange height and width.
  void turn(Each quarters, Chosen on);
  // Samples the image at maps[i] * (x, y, 1), with a fill outside of it: the power is that of BLEND. Without
  // sizes that of the image stays.
  void warp(const double* maps, bool linear, double power, const std::vector<double>& fill, Chosen on,
            const Each* height, const Each* width);
  // Adds pixels at the left, top, right and bottom. Says whether there is a fill.
  bool pad(const Each (&sides)[4], Padding padding, const std::vector<double>& fill, Chosen on);
  void resize(Each height, Each width, Filter filter, bool antialias, Chosen on);
  void add_op(const OpColumn& column, Chosen on);
  // Says with which sample each one is mixed: the one before it in the batch.
  void mix(Mixing kind, Chosen on);
  void set_mixed(double ImageSample::* field, Each value, Chosen on);

  // The place of numbers in the list of values; one number stands for all channels.
  int64_t add_values(const std::vector<double>& numbers);

  const std::vector<ImageSample>& samples() const { return mixed_; }
  int64_t pass_count() const;
  // (count, passes).
  std::vector<ImagePass> passes() const;
  // Each sample's list without gaps, (count, passes, op_count). A blend whose canvas holds all pixels of the
  // pass is left out.
  std::vector<ImageOp> ops(const std::vector<ImagePass>& passes, int64_t& op_count) const;

 private:
  struct Column {
    bool blends;
    std::vector<PlannedOp> ops;
  };
  struct Ended {
    int64_t sample, pass;
    ImagePass record;
  };

  Column& add_column(bool blends);
  int64_t add_fill(const std::vector<double>& fill);
  void blend(Column& column, int64_t i, const math::PlaneMap& map, double power, int64_t first);
  void end(int64_t i);
  void end_if(int64_t i, bool is) {
    if (is) end(i);
  }
  void end_at(int64_t i, Level least) { end_if(i, samples_[size_t(i)].level >= least); }
  // Changes the maps of a sample's pass.
  template <class Change>
  void change_maps(int64_t i, const Change& change);
  void move(int64_t i, const math::PlaneMap& map);
  void tighten(int64_t i);
  void open(int64_t i);
  void resize_sample(int64_t i, double height, double width, Filter filter, bool antialias);

  const int64_t channels_;
  std::vector<SamplePlan> samples_;
  std::vector<ImageSample> mixed_;
  std::vector<Column> columns_;
  std::vector<Ended> ended_;
  std::vector<double> values_;
  std::vector<std::vector<double>> known_;
  std::vector<int64_t> places_;
  bool splits_masks_ = false;
};

}  // namespace onepass
