// ema.h - the exponential moving average of a parameter.
//
//   e = lerp(e, p, 1 - decay)
//
// e: ema, p: the parameter as it is stored after the update. Reads p, e and writes e: 8 bytes per float32
// element beyond the update. Source: Polyak and Juditsky 1992; torch.optim.swa_utils.get_ema_multi_avg_fn.
#pragma once

#include "core/compiler.h"
#include "math/lerp.h"

namespace onepass::math {

template <class T>
struct Ema {
  T weight, decay;
  ONEPASS_HD static Ema make(double decay) { return {T(1 - decay), T(decay)}; }
  ONEPASS_HD void operator()(T& average, T p) const { average = lerp(average, p, weight, decay); }
};

}  // namespace onepass::math
