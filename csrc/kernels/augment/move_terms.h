// move_terms.h - which formula takes bytes to normalised values with the bits of true divisions, and its
// terms.
#pragma once

#include "core/bits.h"
#include "kernels/augment/augment.h"
#include "loops/images/move_blocks.h"

namespace onepass::ONEPASS_ISA {

enum class MoveForm { kLine, kHalves, kProduct, kDivided };

// One formula and its terms.
struct MoveFormula {
  MoveForm form;
  BlockTerms terms;

  // body(formula).
  template <class Body>
  ONEPASS_HD void with(const Body& body) const {
    if (form == MoveForm::kLine) return body(SpreadLine{});
    if (form == MoveForm::kHalves) return body(SpreadHalves{});
    if (form == MoveForm::kProduct) return body(SpreadProduct{});
    body(SpreadDivided{});
  }
};

class MoveTerms {
 public:
  MoveFormula values, halves;  // for values as float32, and as bfloat16
  float mean[kMovedChannels], std[kMovedChannels];
  bool normalizes = false;

  // normalize: the operation, or nullptr. Returns false if one of the 256 values is not finite.
  bool make(const Augment& op, const ImageOp* normalize) {
    normalizes = normalize != nullptr;
    channels_ = op.channels;
    channels_last_ = op.channels_last;
    for (int64_t c = 0; c < op.channels; ++c) {
      mean[c] = normalize ? term_of(op, *normalize, c) : 0;
      std[c] = normalize ? term_of(op, *normalize, op.channels + c) : 1;
    }
    if (!set(values, MoveForm::kDivided) || !are_finite()) return false;
    halves = values;
    const bool has_line = set(values, MoveForm::kLine) && gives_bits<float>(SpreadLine{}, values);
    if (!has_line && !(set(values, MoveForm::kProduct) && gives_bits<float>(SpreadProduct{}, values)))
      set(values, MoveForm::kDivided);
    if (!(set(halves, MoveForm::kHalves) && gives_bits<BFloat16>(SpreadHalves{}, halves))) halves = values;
    return true;
  }

  bool matches(const Augment& op, const ImageOp* normalize) const {
    if (normalizes != (normalize != nullptr)) return false;
    for (int64_t c = 0; normalize && c < op.channels; ++c) {
      if (bits_of(mean[c]) != bits_of(term_of(op, *normalize, c)) ||
          bits_of(std[c]) != bits_of(term_of(op, *normalize, op.channels + c)))
        return false;
    }
    return true;
  }

 private:
  static float term_of(const Augment& op, const ImageOp& normalize, int64_t k) {
    return float(op.values[int64_t(normalize.first) + k]);
  }
  float wanted(int64_t c, int byte) const {
    const float v = math::of_byte(float(byte));
    return normalizes ? math::Normalize{mean[c], std[c]}(v) : v;
  }
  bool are_finite() const {
    bool finite = true;
    for (int64_t c = 0; c < channels_; ++c) {
      for (int byte = 0; byte < 256; ++byte) finite = finite && is_finite(wanted(c, byte));
    }
    return finite;
  }

  bool set(MoveFormula& formula, MoveForm form) const {
    formula.form = form;
    formula.terms = {};
    for (int64_t k = 0; k < channels_ * kBlock; ++k) {
      const int64_t c = channels_last_ ? k % channels_ : k / kBlock;
      const double each = 1 / double(std[c]);
      float terms[3] = {mean[c], std[c], 0};
      if (form == MoveForm::kLine || form == MoveForm::kHalves) {
        terms[0] = float(each / double(kSpread));
        terms[1] = float(-double(mean[c]) * each);
        if (mean[c] == 0) terms[1] = 0;
      } else if (form == MoveForm::kProduct) {
        terms[0] = mean[c] * kSpread;
        terms[1] = float(each) / kSpread;
        terms[2] = float(each - double(float(each))) / kSpread;
      }
      for (int which = 0; which < 3; ++which) formula.terms.term[which][k] = terms[which];
    }
    return true;
  }

  // Whether all 256 bytes of each channel become the bits of the divisions.
  template <class O, class F>
  bool gives_bits(const F& formula, const MoveFormula& made) const {
    for (int64_t c = 0; c < channels_; ++c) {
      const int64_t k = channels_last_ ? c : c * kBlock;
      const float (&term)[3][kBlockMost] = made.terms.term;
      for (int byte = 0; byte < 256; ++byte) {
        O own, other;
        narrow_of(formula, formula(spread_byte(uint8_t(byte)), term[0][k], term[1][k], term[2][k]), own);
        narrow_finite(wanted(c, byte), other);
        if (std::memcmp(&own, &other, sizeof(O)) != 0) return false;
      }
    }
    return true;
  }

  int64_t channels_ = 0;
  bool channels_last_ = false;
};

}  // namespace onepass::ONEPASS_ISA
