// probe.cpp - the bindings of the bandwidth probes of benchmarks.

#include <vector>

#include "bind/core/tensor.h"
#include "bind/register.h"
#include "core/check.h"
#include "kernels/kernels.h"

namespace py = pybind11;

namespace onepass {
namespace {

// The memory of an array on the CPU, which must have this dtype and numel elements; numel < 0: takes its
// number.
char* memory_of(const TensorView& view, const char* dtype, const ArgumentName& where, int64_t& numel) {
  OP_CHECK(dtype_name(view.stored) == dtype, TypeError, to_string(where), " must be ", dtype, ", got ",
           dtype_name(view.stored));
  OP_CHECK(view.device.device_type == dlpack::kDLCPU && is_dense(view), ValueError, to_string(where),
           " must be contiguous on the CPU, got one that is not");
  if (numel < 0) numel = view.numel;
  OP_CHECK(view.numel == numel, ValueError, to_string(where), " must have ", numel, " elements, got ",
           view.numel);
  return view.data;
}

// Appends the arrays of `list` to `pointers`; all must be float32.
void read_arrays(const py::list& list, const char* function, const char* name, TensorReader& reader,
                 int64_t& numel, std::vector<float*>& pointers) {
  for (size_t i = 0; i < list.size(); ++i) {
    const ArgumentName where{function, name, int64_t(i)};
    const TensorView view = reader.read(py::object(list[i]).ptr(), where);
    pointers.push_back(reinterpret_cast<float*>(memory_of(view, "torch.float32", where, numel)));
  }
}

void probe(const py::list& reads, const py::list& writes, int threads) {
  OP_CHECK(reads.size() == 1 && writes.size() >= 1 && writes.size() <= 4, ValueError,
           "probe: reads must have 1 array and writes 1 to 4, got ", reads.size(), " and ", writes.size());
  TensorReader reader;
  std::vector<float*> read_pointers, write_pointers;
  int64_t numel = -1;
  read_arrays(reads, "probe", "reads", reader, numel, read_pointers);
  read_arrays(writes, "probe", "writes", reader, numel, write_pointers);
  Launch launch;
  launch.threads = threads;
  py::gil_scoped_release release;
  cpu_kernels().probe(read_pointers.data(), int(reads.size()), write_pointers.data(), int(writes.size()),
                      numel, launch);
}

void probe_copy(const py::object& from, const py::object& to, int threads) {
  TensorReader reader;
  std::vector<float*> pointers;
  int64_t numel = -1;
  py::list arrays;
  arrays.append(from);
  arrays.append(to);
  read_arrays(arrays, "probe_copy", "arrays", reader, numel, pointers);
  Launch launch;
  launch.threads = threads;
  py::gil_scoped_release release;
  cpu_kernels().probe_copy(pointers[0], pointers[1], numel, launch);
}

void probe_widen(const py::object& source, const py::object& target, int threads) {
  TensorReader reader;
  int64_t numel = -1;
  const ArgumentName from{"probe_widen", "source"}, to{"probe_widen", "target"};
  const char* bytes = memory_of(reader.read(source.ptr(), from), "torch.uint8", from, numel);
  char* floats = memory_of(reader.read(target.ptr(), to), "torch.float32", to, numel);
  Launch launch;
  launch.threads = threads;
  py::gil_scoped_release release;
  cpu_kernels().probe_widen(reinterpret_cast<const uint8_t*>(bytes), reinterpret_cast<float*>(floats), numel,
                            launch);
}

void probe_taps(const py::object& source, const py::object& target, int64_t side, int threads) {
  OP_CHECK(side >= 16 && side <= 4096, ValueError, "probe_taps: side must be 16 to 4096, got ", side);
  TensorReader reader;
  int64_t numel = -1;
  const ArgumentName from{"probe_taps", "source"}, to{"probe_taps", "target"};
  const char* bytes = memory_of(reader.read(source.ptr(), from), "torch.uint8", from, numel);
  char* floats = memory_of(reader.read(target.ptr(), to), "torch.float32", to, numel);
  Launch launch;
  launch.threads = threads;
  py::gil_scoped_release release;
  cpu_kernels().probe_taps(reinterpret_cast<const uint8_t*>(bytes), reinterpret_cast<float*>(floats),
                           numel / (side * side * 3), side, launch);
}

}  // namespace

void register_probe(py::module_& module) {
  module.def("probe", &probe, py::arg("reads"), py::arg("writes"), py::arg("threads"));
  module.def("probe_copy", &probe_copy, py::arg("source"), py::arg("target"), py::arg("threads"));
  module.def("probe_widen", &probe_widen, py::arg("source"), py::arg("target"), py::arg("threads"));
  module.def("probe_taps", &probe_taps, py::arg("source"), py::arg("target"), py::arg("side"),
             py::arg("threads"));
}

}  // namespace onepass
