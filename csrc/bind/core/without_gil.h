// without_gil.h - kernels, which need no GIL, and what Python has to do about what they write. On the CPU
// this thread does that first, while the others begin with the kernels; on a GPU afterwards, while the GPU
// works.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <optional>

#include "core/parallel.h"

namespace onepass {

// Calls kernels(), and python(), but not if the kernels found nothing to do on the CPU. gpu: where they run.
template <class Kernels, class Python>
void run_without_gil(bool gpu, const Kernels& kernels, const Python& python) {
  if (gpu) {
    {
      pybind11::gil_scoped_release release;
      kernels();
    }
    return python();
  }
  struct Work {
    const Python& python;
    std::optional<pybind11::gil_scoped_release> released;
    std::exception_ptr error{};
  } work{python, {}};
  const auto first = [](void* context) {
    Work& w = *static_cast<Work*>(context);
    try {
      w.python();
    } catch (...) {
      // The kernels run to their end: what is half written would be worse.
      w.error = std::current_exception();
    }
    w.released.emplace();
  };
  const BesideParallel beside(first, &work);
  kernels();
  work.released.reset();
  if (work.error) std::rethrow_exception(work.error);
}

}  // namespace onepass
