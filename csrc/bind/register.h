// register.h - one function a family, each defined in its own file and called by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace onepass {

void register_batch_norm(pybind11::module_& module);
void register_dropout(pybind11::module_& module);
void register_cross_entropy(pybind11::module_& module);
void register_clip(pybind11::module_& module);
void register_sgd(pybind11::module_& module);
void register_adam(pybind11::module_& module);
void register_param_groups(pybind11::module_& module);
void register_statistics(pybind11::module_& module);
#if defined(ONEPASS_SIMT)
// Captured graphs, for tests (tests/simt/src/bind_graph.cpp).
void register_simt_graph(pybind11::module_& module);
#endif
void register_stream(pybind11::module_& module);

}  // namespace onepass
