// bind_graph.cpp - captured graphs of the simulated device for Python tests: onepass._core_simt.Graph.

#include <pybind11/pybind11.h>

#include "bind/register.h"
#include "simt/simt.h"

namespace py = pybind11;

void onepass::register_simt_graph(py::module_& module) {
  py::class_<simt::Graph>(module, "Graph", py::module_local())
      .def(py::init<>())
      .def("begin", &simt::Graph::begin)
      .def("end", [](const simt::Graph&) { simt::Graph::end(); })
      .def("replay", &simt::Graph::replay)
      .def("__len__", &simt::Graph::size);
}
