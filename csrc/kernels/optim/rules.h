// rules.h - the one list of update rules. A rule's kernel, the entries of the tables and its binding follow
// from its line (kernels.h, bind/register.h).
#pragma once

#include "math/adam.h"
#include "math/lion.h"
#include "math/sgd.h"

// X(name, type of its kernel)
#define ONEPASS_RULES(X)                 \
  X(sgd, RuleKernel<math::SgdOptions>)   \
  X(adam, RuleKernel<math::AdamOptions>) \
  X(lion, RuleKernel<math::LionOptions>)
