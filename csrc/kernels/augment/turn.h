// turn.h - samples that are a slanted gather of bytes of three channels, blended with what lies outside,
// normalised and perhaps erased: their rows go from the image to the output at once. Rows with erased pixels
// take the usual way.
#pragma once

#include "kernels/augment/operations.h"
#include "kernels/augment/source.h"
#include "loops/common/nontemporal.h"
#include "loops/images/gather_lines.h"

namespace onepass::ONEPASS_ISA {

#if defined(__AVX512F__)
constexpr int64_t kTurnBlends = 4;  // at most

// From four bytes to a normalised value.
struct TurnInside {
  math::NormalizeTerms terms[3];

  ONEPASS_HD Wide finished(Wide v, int c) const {
    const math::NormalizeTerms& own = terms[c];
    return math::normalized(v, Wide(own.mean), Wide(own.minus_std), Wide(own.high), Wide(own.low));
  }
  ONEPASS_HD Wide operator()(Wide a, Wide b, Wide c, Wide d, Wide x, Wide y, int channel) const {
    return finished(math::of_byte(math::bilinear(a, b, c, d, x, y)), channel);
  }
};

// The same with blends in between.
struct TurnEdge {
  TurnInside inside;
  int64_t count;
  math::Canvas canvas[kTurnBlends];
  float fill[kTurnBlends][3];
  Wide share[kTurnBlends] = {Wide(0.0f), Wide(0.0f), Wide(0.0f), Wide(0.0f)};

  // Blend k is blend `which` of another, at a block of columns.
  ONEPASS_HD void set(int64_t k, const TurnEdge& other, int64_t which, const math::RowMap& row, int64_t x) {
    canvas[k] = other.canvas[which];
    for (int c = 0; c < 3; ++c) fill[k][c] = other.fill[which][c];
    const WideDoubles columns = WideDoubles::from(double(x));
    const auto along = [&](double slope, double offset, double size) ONEPASS_INLINED {
      const WideDoubles p = math::RowMap::affine_at(WideDoubles(slope), WideDoubles(offset), columns);
      return math::Canvas::share(p, WideDoubles(size)).floats();
    };
    share[k] = along(row.dx, row.x, canvas[k].width) * along(row.dy, row.y, canvas[k].height);
  }
  ONEPASS_HD Wide operator()(Wide a, Wide b, Wide c, Wide d, Wide x, Wide y, int channel) const {
    Wide v = math::of_byte(math::bilinear(a, b, c, d, x, y));
    for (int64_t k = 0; k < count; ++k) {
      const Wide m = share[k];
      v = chosen_where_equal(m, Wide(1.0f), v, canvas[k].mixed(v, m, Wide(fill[k][channel])));
    }
    return inside.finished(v, channel);
  }
};

class Turn {
 public:
  Turn(const Augment& op, const Workspace& workspace) : op_(op), workspace_(workspace) {
    const int64_t size = size_of(op.stored), row = op.width * (op.channels_last ? 3 : 1) * size;
    nontemporal_ = op.count * op.channels * op.height * op.width * size >= kNontemporalLeast;
    const bool lines = row % kLine == 0 && reinterpret_cast<uintptr_t>(op.output) % kLine == 0;
    direct_ = op.stored == PixelType::kFloat32 && op.width % kLineBlock == 0 && (lines || !nontemporal_);
    end_ = (op.width + kLineBlock - 1) / kLineBlock * kLineBlock;
  }

  // Decides whether sample i is one; it has one pass and is not mixed.
  bool begin(int64_t i, const ImagePass& pass, const ImageOp* ops) {
    const ImageView& image = op_.images[i];
    box_ = {{pass.left, pass.right - 1}, {pass.top, pass.bottom - 1}, math::Border(int(pass.border))};
    if (op_.stored != PixelType::kFloat32 && op_.stored != PixelType::kBFloat16) return false;
    if (PassKind(int(pass.kind)) != PassKind::kGather || image.channels != 3 ||
        Interpolation(int(pass.interpolation)) != Interpolation::kBilinear ||
        !is_of_packed_bytes(image, box_) || !is_affine(pass.map))
      return false;
    sample_ = i;
    map_ = &pass.map;
    image_ = {static_cast<const char*>(image.data), image.row, extent_of_bytes(image)};
    if (!find_ops(ops)) return false;
    across_ = math::ColumnRange::Slope::make(pass.map[0]);
    down_ = math::ColumnRange::Slope::make(pass.map[3]);
    ahead_ = RowsAhead(image, pass.map, box_, op_.height, op_.width);
    return true;
  }

  // Returns false for a row that must take the usual way.
  bool row(int64_t y) {
    for (int64_t k = erases_; k < op_.op_count && ops_[k].kind != 0; ++k) {
      if (double(y) >= ops_[k].a[1] && double(y) < ops_[k].a[3]) return false;
    }
    ahead_.fetch(y);
    if (op_.stored == PixelType::kFloat32) {
      put<float>(y);
    } else {
      put<BFloat16>(y);
    }
    return true;
  }

 private:
  static bool is_affine(const double (&map)[9]) { return math::RowMap::make(map, 0).affine; }

  bool find_ops(const ImageOp* ops) {
    ops_ = ops;
    int64_t k = 0;
    const auto kind = [&] { return k < op_.op_count ? OpKind(int(ops[k].kind)) : OpKind::kEnd; };
    for (; kind() == OpKind::kBlend; ++k) {
      if (k == kTurnBlends || !find_blend(k, ops[k])) return false;
    }
    edge_.count = k;
    const ImageOp* normalize = kind() == OpKind::kNormalize ? &ops[k++] : nullptr;
    for (erases_ = k; kind() == OpKind::kErase; ++k) {
    }
    if (kind() != OpKind::kEnd) return false;
    for (int64_t c = 0; c < 3; ++c) {
      const double* values = normalize ? op_.values + int64_t(normalize->first) : nullptr;
      const float mean = values ? float(values[c]) : 0, std = values ? float(values[3 + c]) : 1;
      if (!math::NormalizeTerms::is_safe(mean, std)) return false;
      edge_.inside.terms[c] = math::NormalizeTerms::make(mean, std);
      float v = 0;
      for (int64_t b = 0; b < edge_.count; ++b) v = edge_.canvas[b].blend(v, 0, edge_.fill[b][c]);
      filled_[c] = math::Normalize{mean, std}(v);
    }
    return true;
  }
  // Fills are bounded, and not negative: what is multiplied by a coverage of 0 is no -0 then.
  bool find_blend(int64_t k, const ImageOp& op) {
    canvas_map_[k] = reinterpret_cast<const double (*)[9]>(op.a);
    if (op.a[kBlendSoft] == 0 || !is_affine(*canvas_map_[k])) return false;
    edge_.canvas[k] = {op.a[kBlendWidth], op.a[kBlendHeight], float(op.a[kBlendPower]), true};
    for (int64_t c = 0; c < 3; ++c) {
      edge_.fill[k][c] = float(op_.values[int64_t(op.first) + c]);
      if (!(edge_.fill[k][c] >= 0 && edge_.fill[k][c] <= math::NormalizeTerms::kMost)) return false;
    }
    slopes_[k][0] = math::ColumnRange::Slope::make(op.a[0]);
    slopes_[k][1] = math::ColumnRange::Slope::make(op.a[3]);
    return true;
  }

  template <class O>
  LineTarget<O> target(int64_t y) const {
    const int64_t height = op_.height, width = op_.width;
    if (!direct_) return {reinterpret_cast<O*>(workspace_.moved), end_, false};
    const int64_t at =
        op_.channels_last ? (sample_ * height + y) * width * 3 : (sample_ * 3 * height + y) * width;
    return {static_cast<O*>(op_.output) + at, height * width, nontemporal_};
  }

  template <class O>
  void put(int64_t y) {
    const LineTarget<O> to = target<O>(y);
    if (op_.channels_last) {
      put_row<false>(y, to);
    } else {
      put_row<true>(y, to);
    }
    if (direct_) return;
    const int64_t planes = op_.channels_last ? 1 : 3, n = op_.width * (op_.channels_last ? 3 : 1);
    for (int64_t c = 0; c < planes; ++c) {
      O* out = static_cast<O*>(op_.output) + ((sample_ * planes + c) * op_.height + y) * n;
      if (nontemporal_) {
        copy_nontemporal(out, to.data + c * end_, n * int64_t(sizeof(O)));
      } else {
        std::memcpy(out, to.data + c * end_, size_t(n) * sizeof(O));
      }
    }
  }

  template <bool kPlanes, class O>
  void put_row(int64_t y, const LineTarget<O>& to) {
    const math::RowMap map = math::RowMap::make(*map_, double(y));
    for (int64_t k = 0; k < edge_.count; ++k) canvas_row_[k] = math::RowMap::make(*canvas_map_[k], double(y));
    const math::Columns inside = find_inside(map);
    const int64_t first = (inside.first + kLineBlock - 1) / kLineBlock * kLineBlock,
                  last = (inside.last + 1) / kLineBlock * kLineBlock;
    if (inside.first > inside.last || first >= last) return put_edges<kPlanes>(map, 0, end_, to);
    put_edges<kPlanes>(map, 0, first, to);
    gather_inside<kPlanes>(edge_.inside, image_, map, first, last, to);
    put_edges<kPlanes>(map, last, end_, to);
  }

  template <bool kPlanes, class O>
  void put_edges(const math::RowMap& map, int64_t x, int64_t end, const LineTarget<O>& to) {
    for (; x < end; x += kLineBlock) {
      const int64_t last = edge_.count - 1;
      if (last >= 0 && edge_.canvas[last].misses(canvas_row_[last].affine_at(double(x)),
                                                 canvas_row_[last].affine_at(double(x + kLineBlock - 1)))) {
        store_filled<kPlanes>(filled_, x, x + kLineBlock, to);
        continue;
      }
      TurnEdge edge = edge_;
      edge.count = 0;
      for (int64_t k = 0; k < edge_.count; ++k) {
        if (covers(k, x) && covers(k, x + kLineBlock - 1)) continue;
        edge.set(edge.count++, edge_, k, canvas_row_[k], x);
      }
      gather_clamped<kPlanes>(edge, image_, map, box_, x, *workspace_.bytes, to);
    }
  }

  bool covers(int64_t k, int64_t x) const {
    return edge_.canvas[k].coverage(canvas_row_[k].affine_at(double(x))) == 1;
  }

  // Columns whose taps are inside, and which all canvases cover wholly; {1, 0} for none.
  math::Columns find_inside(const math::RowMap& map) const {
    math::ColumnRange range{0, double(op_.width - 1)};
    range.narrow(across_, map.x, box_.x.least, box_.x.most);
    range.narrow(down_, map.y, box_.y.least, box_.y.most);
    for (int64_t k = 0; k < edge_.count; ++k) {
      range.narrow(slopes_[k][0], canvas_row_[k].x, 0, edge_.canvas[k].width - 1);
      range.narrow(slopes_[k][1], canvas_row_[k].y, 0, edge_.canvas[k].height - 1);
    }
    if (!(range.first + 2 <= range.last)) return {1, 0};
    const math::Columns found{int64_t(range.first) + (range.first > 0 ? 1 : 0),
                              int64_t(range.last) - (range.last < double(op_.width - 1) ? 1 : 0)};
    return holds(map, found) ? found : math::Columns{1, 0};
  }
  // Whether that is so at both ends: positions along a row are in order.
  bool holds(const math::RowMap& map, const math::Columns& found) const {
    const math::Position a = map.affine_at(double(found.first)), b = map.affine_at(double(found.last));
    const auto is_within = [](double p, const math::Axis& axis) { return p >= axis.least && p < axis.most; };
    if (!(is_within(a.x, box_.x) && is_within(b.x, box_.x) && is_within(a.y, box_.y) &&
          is_within(b.y, box_.y)))
      return false;
    const int64_t right = int64_t(a.x > b.x ? a.x : b.x), below = int64_t(a.y > b.y ? a.y : b.y);
    if ((below + 1) * image_.row + right * 3 + 8 > image_.extent) return false;
    for (int64_t k = 0; k < edge_.count; ++k) {
      if (!covers(k, found.first) || !covers(k, found.last)) return false;
    }
    return true;
  }

  const Augment& op_;
  const Workspace& workspace_;
  const ImageOp* ops_ = nullptr;
  const double (*map_)[9] = nullptr;
  const double (*canvas_map_[kTurnBlends])[9];
  math::RowMap canvas_row_[kTurnBlends];
  math::ColumnRange::Slope across_{}, down_{}, slopes_[kTurnBlends][2];
  TapBox box_{};
  LineBytes image_{};
  TurnEdge edge_{};
  float filled_[3] = {};
  RowsAhead ahead_;
  int64_t sample_ = 0, end_ = 0, erases_ = 0;
  bool nontemporal_ = false, direct_ = false;
};
#else
class Turn {
 public:
  Turn(const Augment&, const Workspace&) {}
  bool begin(int64_t, const ImagePass&, const ImageOp*) { return false; }
  bool row(int64_t) { return false; }
};
#endif

}  // namespace onepass::ONEPASS_ISA
