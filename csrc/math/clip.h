// clip.h - clipping of gradients, by their common norm and by value, and what pass one of a step decides.
//
//   norm = inv_scale |g|                             of all gradients together; inv_scale = 1 / grad_scale
//   factor = inv_scale min(1, max_norm / (norm + 1e-6))
//   skip = a gradient overflowed (found_inf), or is not finite and such steps are to be skipped
//
// Source: Pascanu et al. 2013, algorithm 1; torch.nn.utils.clip_grad_norm_ (the 1e-6 is torch's) and
// clip_grad_value_; torch.amp.GradScaler (found_inf, grad_scale).
#pragma once

#include <cmath>

#include "core/bits.h"

namespace onepass::math {

// What pass one hands to pass two. All double, so that it is a row of a float64 tensor.
struct StepControl {
  double factor;         // by which gradients are multiplied
  double skip;           // 1: this step changes nothing, 0: it is taken
  double norm;           // of the unscaled gradients, before clipping
  double nonfinite;      // elements of the gradients that are infinite or nan
  double skipped_steps;  // counts up
};

struct ClipOptions {
  double max_norm = 0;
  bool clips = false;           // false: max_norm is not used
  bool skip_nonfinite = false;  // skip a step whose gradients are not all finite
};

ONEPASS_HD double clip_coefficient(double norm, double max_norm) {
  const double coefficient = max_norm / (norm + 1e-6);
  // A nan stays, as in torch.clamp; but as the plain one: core/convert.h rounds no other nan in pairs.
  if (coefficient != coefficient) return NAN;
  return coefficient > 1 ? 1 : coefficient;
}

// norm: of the gradients as they are stored.
ONEPASS_HD StepControl decide(const ClipOptions& o, double norm, double nonfinite, double grad_scale,
                              double found_inf, double skipped_before) {
  const double inv_scale = 1 / grad_scale;
  const double unscaled = norm * inv_scale;
  const double factor = o.clips ? inv_scale * clip_coefficient(unscaled, o.max_norm) : inv_scale;
  const bool overflowed = o.skip_nonfinite && (nonfinite > 0 || !is_finite(unscaled));
  const double skip = overflowed || found_inf != 0 ? 1 : 0;
  return {factor, skip, unscaled, nonfinite, skipped_before + skip};
}

// Rules without states: they change the first operand, and the second one is not used.
template <class T>
struct Scale {
  static constexpr int kStates = 0;
  T factor;
  ONEPASS_HD void operator()(T& x, T) const { x *= factor; }
};

template <class T>
struct Clamp {
  static constexpr int kStates = 0;
  T limit;
  // A nan stays, as in torch.clamp.
  ONEPASS_HD void operator()(T& x, T) const {
    const T low = x < -limit ? -limit : x;
    x = low > limit ? limit : low;
  }
};

}  // namespace onepass::math
