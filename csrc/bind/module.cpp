// module.cpp - the extension module: the bindings of register.h, and what it was built with.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/register.h"
#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace py = pybind11;

#define ONEPASS_TEXT_(x) #x
#define ONEPASS_TEXT(x) ONEPASS_TEXT_(x)

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = ONEPASS_TEXT(ONEPASS_VERSION);
  info["compiler"] = ONEPASS_TEXT(ONEPASS_COMPILER);
  info["isa_compiled"] = onepass::compiled_isas();
  info["isa"] = onepass::name_of(onepass::isa());
#if defined(ONEPASS_CUDA_VERSION)
  py::dict cuda;
  cuda["version"] = ONEPASS_TEXT(ONEPASS_CUDA_VERSION);
  cuda["architectures"] = py::str(ONEPASS_TEXT(ONEPASS_CUDA_ARCHITECTURES)).attr("split")("/");
  info["cuda"] = cuda;
#else
  info["cuda"] = py::none();
#endif
  if (const char* path = onepass::openmp_path()) {
    info["openmp"] = path;
  } else {
    info["openmp"] = py::none();
  }
#if defined(ONEPASS_SIMT)
  info["simt"] = true;
#else
  info["simt"] = false;
#endif
  return info;
}

}  // namespace

// A free-threaded interpreter leaves its GIL off: what threads share is guarded (bind/core/shared.h).
PYBIND11_MODULE(ONEPASS_MODULE, module, py::mod_gil_not_used()) {
  module.doc() = "The native core of onepass.";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const onepass::TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const onepass::RuntimeError& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
  });
  // An impossible ONEPASS_ISA fails here, at import, and not in the middle of a training step.
  onepass::isa();
  module.def("build_info", &build_info);
#define ONEPASS_REGISTER(name, ...) onepass::register_##name(module);
  ONEPASS_BINDINGS(ONEPASS_REGISTER)
#undef ONEPASS_REGISTER
#if defined(ONEPASS_SIMT)
  onepass::register_simt_graph(module);
#endif
}
