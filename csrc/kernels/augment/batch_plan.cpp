#include "kernels/augment/batch_plan.h"

#include <utility>

namespace onepass {

using math::PlaneMap;

void SamplePlan::begin_pass(int64_t number) {
  const double high = height, wide = width;
  *this = SamplePlan();
  height = high;
  width = wide;
  pass = number;
  across = {0, wide};
  down = {0, high};
}

BatchPlan::BatchPlan(int64_t count, int64_t channels, double unit, bool masks, Each heights, Each widths)
    : unit(unit), masks(masks), channels_(channels), samples_(size_t(count)), mixed_(size_t(count)) {
  for (int64_t i = 0; i < count; ++i) {
    SamplePlan& sample = samples_[size_t(i)];
    sample.height = heights[i];
    sample.width = widths[i];
    sample.across = {0, sample.width};
    sample.down = {0, sample.height};
  }
}

void BatchPlan::crop(Each top, Each left, Each height, Each width, Chosen on) {
  for (int64_t i = 0; i < count(); ++i) {
    if (!on[i]) continue;
    SamplePlan& sample = samples_[size_t(i)];
    if (sample.height != height[i] || sample.width != width[i]) end_at(i, Level::kWhole);
    const double x = left[i], y = top[i];
    change_maps(i, [&](const PlaneMap& map) { return math::translated(map, x, y); });
    sample.height = height[i];
    sample.width = width[i];
  }
}

void BatchPlan::flip(int axis, Chosen on) {
  for (int64_t i = 0; i < count(); ++i) {
    if (!on[i]) continue;
    const SamplePlan& sample = samples_[size_t(i)];
    end_at(i, Level::kFixed);
    const double last = (axis == 0 ? sample.width : sample.height) - 1;
    change_maps(i, [&](const PlaneMap& map) { return math::mirrored(map, axis, last); });
  }
}

void BatchPlan::turn(Each quarters, Chosen on) {
  for (int64_t i = 0; i < count(); ++i) {
    const int k = on[i] ? int(quarters[i]) % 4 : 0;
    if (k == 0) continue;
    SamplePlan& sample = samples_[size_t(i)];
    end_at(i, Level::kFixed);
    const bool odd = k % 2 == 1;
    end_if(i, odd && sample.separable);
    move(i, math::turned_map(k, sample.height, sample.width));
    if (odd) std::swap(sample.height, sample.width);
  }
}

void BatchPlan::warp(const double* maps, bool linear, double power, const std::vector<double>& fill,
                     Chosen on, const Each* height, const Each* width) {
  linear = linear && !masks;
  const int64_t first = add_fill(fill);
  Column& column = add_column(true);
  for (int64_t i = 0; i < count(); ++i, maps += 9) {
    if (!on[i]) continue;
    const PlaneMap map{{maps[0], maps[1], maps[2], maps[3], maps[4], maps[5], maps[6], maps[7], maps[8]}};
    SamplePlan& sample = samples_[size_t(i)];
    const bool moves = !math::is_permutation(map);
    end_if(i, sample.separable || (linear && sample.padded));
    end_at(i, linear ? Level::kPointwise : Level::kWhole);
    if (linear) {
      tighten(i);
      open(i);
    }
    move(i, map);
    blend(column, i, map, power, first);
    sample.moved |= moves;
    sample.linear |= linear;
    if (moves) sample.rounds_down = false;
    if (height) sample.height = (*height)[i];
    if (width) sample.width = (*width)[i];
  }
}

bool BatchPlan::pad(const Each (&sides)[4], Padding padding, const std::vector<double>& fill, Chosen on) {
  const auto pads = [&](int64_t i) {
    return on[i] && (sides[0][i] != 0 || sides[1][i] != 0 || sides[2][i] != 0 || sides[3][i] != 0);
  };
  Column* column = nullptr;
  int64_t first = 0;
  for (int64_t i = 0; i < count(); ++i) {
    if (!pads(i)) continue;
    if (padding.constant && !column) {
      first = add_fill(fill);
      column = &add_column(true);
    }
    const double left = sides[0][i], top = sides[1][i], right = sides[2][i], bottom = sides[3][i];
    SamplePlan& sample = samples_[size_t(i)];
    end_if(i, sample.separable);
    end_at(i, Level::kWhole);
    if (!padding.constant) {
      end_if(i, sample.moved || sample.filled || sample.padded);
      tighten(i);
      sample.border = padding.border;
      sample.padded = true;
    }
    change_maps(i, [&](const PlaneMap& map) { return math::translated(map, -left, -top); });
    if (padding.constant) blend(*column, i, math::translation_map(-left, -top), 1, first);
    sample.height = sample.height + top + bottom;
    sample.width = sample.width + left + right;
  }
  return column != nullptr;
}

void BatchPlan::resize(Each height, Each width, Filter filter, bool antialias, Chosen on) {
  if (masks && filter != Filter::kNearestExact) filter = Filter::kNearest;
  for (int64_t i = 0; i < count(); ++i) {
    const SamplePlan& sample = samples_[size_t(i)];
    if (!on[i] || (sample.height == height[i] && sample.width == width[i])) continue;
    resize_sample(i, height[i], width[i], filter, antialias);
  }
}

void BatchPlan::resize_sample(int64_t i, double height, double width, Filter filter, bool antialias) {
  SamplePlan& sample = samples_[size_t(i)];
  const bool nearest = filter == Filter::kNearest || filter == Filter::kNearestExact;
  const bool cubic = filter == Filter::kBicubic;
  const bool reduces = height < sample.height || width < sample.width;
  const bool alone = !nearest && (cubic || (antialias && reduces));
  end_at(i, nearest ? Level::kWhole : Level::kPointwise);
  end_if(i, sample.separable);
  if (!nearest) {
    end_if(i, sample.padded);
    const bool swapped = sample.map.m[0] == 0 || sample.map.m[4] == 0;
    end_if(i, alone && (sample.moved || sample.filled || swapped));
  }
  tighten(i);
  if (!nearest) open(i);
  const double scale_x = sample.width / width, scale_y = sample.height / height;
  // More than crops before it has no map of its own for rounding down.
  const bool pure = !sample.moved && !sample.filled && sample.map.m[0] == 1 && sample.map.m[4] == 1;
  const double shift = filter == Filter::kNearestExact ? 0.5 : 0.0;
  const PlaneMap floor_map = math::product(sample.map, math::scaling_down_map(scale_x, scale_y, shift));
  move(i, math::scaling_map(scale_x, scale_y));
  if (nearest) {
    sample.floor_map = floor_map;
    sample.rounds_down = pure;
  }
  sample.moved = true;
  sample.separable |= alone;
  sample.linear |= !nearest;
  sample.cubic |= alone && cubic;
  sample.antialias |= alone && antialias;
  sample.height = height;
  sample.width = width;
}

void BatchPlan::add_op(const OpColumn& column, Chosen on) {
  if (masks) return;
  Column& made = add_column(false);
  for (int64_t i = 0; i < count(); ++i) {
    if (!on[i]) continue;
    SamplePlan& sample = samples_[size_t(i)];
    PlannedOp& planned = made.ops[size_t(i)];
    planned.pass = sample.pass;
    planned.op.kind = column.kind[i];
    planned.op.first = double(column.first);
    for (int64_t k = 0; k < column.count; ++k) planned.op.a[k] = column.a[k][i];
    const auto level = Level(int(column.level[i]));
    if (level > sample.level) sample.level = level;
  }
}

void BatchPlan::mix(Mixing kind, Chosen on) {
  for (int64_t i = 0; i < count(); ++i) {
    mixed_[size_t(i)].partner = double(i == 0 ? count() - 1 : i - 1);
    if (on[i]) mixed_[size_t(i)].mixing = double(int(kind));
  }
}

void BatchPlan::set_mixed(double ImageSample::* field, Each value, Chosen on) {
  for (int64_t i = 0; i < count(); ++i) {
    if (on[i]) mixed_[size_t(i)].*field = value[i];
  }
}

int64_t BatchPlan::add_values(const std::vector<double>& numbers) {
  const std::vector<double> key =
      numbers.size() == 1 ? std::vector<double>(size_t(channels_), numbers[0]) : numbers;
  for (size_t k = 0; k < known_.size(); ++k) {
    if (known_[k] == key) return places_[k];
  }
  known_.push_back(key);
  places_.push_back(int64_t(values_.size()));
  values_.insert(values_.end(), key.begin(), key.end());
  return places_.back();
}

// How a pass comes about.

BatchPlan::Column& BatchPlan::add_column(bool blends) {
  columns_.push_back({blends, std::vector<PlannedOp>(samples_.size())});
  return columns_.back();
}

int64_t BatchPlan::add_fill(const std::vector<double>& fill) {
  std::vector<double> values = fill;
  for (double& value : values) value = value / unit;
  return add_values(values);
}

// Blends with a fill outside of the image as it is now; the map leads there.
void BatchPlan::blend(Column& column, int64_t i, const PlaneMap& map, double power, int64_t first) {
  SamplePlan& sample = samples_[size_t(i)];
  PlannedOp& planned = column.ops[size_t(i)];
  planned.pass = sample.pass;
  planned.op.kind = double(int(OpKind::kBlend));
  planned.op.first = double(first);
  planned.set_map(map);
  planned.op.a[kBlendWidth] = sample.width;
  planned.op.a[kBlendHeight] = sample.height;
  planned.op.a[kBlendPower] = power;
  sample.filled = true;
}

// Ends the pass of a sample and begins the next one, which reads what the pass has made.
void BatchPlan::end(int64_t i) {
  SamplePlan& sample = samples_[size_t(i)];
  splits_masks_ |= masks;
  ended_.push_back({i, sample.pass, sample.record()});
  sample.begin_pass(sample.pass + 1);
}

template <class Change>
void BatchPlan::change_maps(int64_t i, const Change& change) {
  SamplePlan& sample = samples_[size_t(i)];
  sample.map = change(sample.map);
  if (sample.rounds_down) sample.floor_map = change(sample.floor_map);
  for (Column& column : columns_) {
    PlannedOp& planned = column.ops[size_t(i)];
    if (column.blends && planned.op.kind != 0 && planned.pass == sample.pass) {
      planned.set_map(change(planned.map()));
    }
  }
}

void BatchPlan::move(int64_t i, const PlaneMap& map) {
  change_maps(i, [&](const PlaneMap& outer) { return math::product(outer, map); });
}

// Keeps taps of a later interpolation within what crops have left; fills replace what is outside.
void BatchPlan::tighten(int64_t i) {
  SamplePlan& sample = samples_[size_t(i)];
  if (sample.moved || sample.padded) return;
  const double last_x = sample.width - 1, last_y = sample.height - 1;
  const double (&m)[9] = sample.map.m;
  sample.across = math::reached(m[2], math::way(m[0], last_x, m[1], last_y), sample.across);
  sample.down = math::reached(m[5], math::way(m[3], last_x, m[4], last_y), sample.down);
}

// Moves a canvas away from the edges of an image that does not reach beyond it: interpolation at the edge of
// the image must not blend with a fill that crops have left out.
void BatchPlan::open(int64_t i) {
  const SamplePlan& sample = samples_[size_t(i)];
  if (sample.moved) return;
  for (Column& column : columns_) {
    PlannedOp& planned = column.ops[size_t(i)];
    if (!column.blends || planned.op.kind == 0 || planned.pass != sample.pass) continue;
    double (&a)[14] = planned.op.a;
    const math::Opened x = math::opened(a[2], a[0], a[1], sample.height, sample.width, a[kBlendWidth]);
    const math::Opened y = math::opened(a[5], a[3], a[4], sample.height, sample.width, a[kBlendHeight]);
    a[2] = x.first;
    a[5] = y.first;
    a[kBlendWidth] = x.size;
    a[kBlendHeight] = y.size;
  }
}

}  // namespace onepass
