// register.h - the one list of what the module binds: a function each, defined in the file of that name and
// called by module.cpp. The update rules have a list of their own (kernels/optim/rules.h).
#pragma once

#include <pybind11/pybind11.h>

#include "kernels/optim/rules.h"

#define ONEPASS_BINDINGS(X) \
  X(plan)                   \
  ONEPASS_RULES(X)          \
  X(clip)                   \
  X(param_groups)           \
  X(statistics)             \
  X(probe)                  \
  X(read_numbers)           \
  X(batch_norm)             \
  X(merge_ranks)            \
  X(row_norm)               \
  X(dropout)                \
  X(cross_entropy)          \
  X(augment)                \
  X(augment_draws)          \
  X(augment_plan)

namespace onepass {

#define ONEPASS_DECLARE(name, ...) void register_##name(pybind11::module_& module);
ONEPASS_BINDINGS(ONEPASS_DECLARE)
#undef ONEPASS_DECLARE
#if defined(ONEPASS_SIMT)
// Captured graphs, for tests (tests/simt/src/bind_graph.cpp).
void register_simt_graph(pybind11::module_& module);
#endif

}  // namespace onepass
