// sgd.cpp - the binding of SGD, see family_call.h.

#include "bind/optim/family_call.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace {

struct Sgd {
  using Step = RuleStep<math::SgdOptions>;
  static constexpr const char* kName = "sgd";
  static constexpr Batch::ListNames kLists = {"params", "grads", "momentum_buffer_list", "", "", "", "emas"};
  static constexpr const char* kStates[] = {"momentum_buffer"};
  static constexpr size_t kOptions = 8;
  static constexpr auto kKernel = &KernelTable::sgd;

  // given: (lr, momentum, dampening, weight_decay, nesterov, maximize, capturable, precision). The variant:
  // momentum.
  static bool read_options(const py::tuple& given, const char* function, math::SgdOptions& o) {
    o.momentum = py::cast<double>(given[1]);
    o.dampening = py::cast<double>(given[2]);
    o.weight_decay = py::cast<double>(given[3]);
    o.nesterov = py::cast<bool>(given[4]);
    o.maximize = py::cast<bool>(given[5]);
    check_range(function, "momentum", o.momentum, 0, kInfinity);
    check_range(function, "dampening", o.dampening, -kInfinity, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    return o.momentum != 0;
  }

  // group: (params, grads, momentum_buffer_list or None, first, ...), see run_lists; first[i]: buffer i holds
  // no value yet.
  static bool read_entry(const py::tuple& group, int64_t i, math::SgdOptions& o) {
    const bool before = o.first;
    o.first = o.momentum != 0 && py::cast<bool>(group[3][py::int_(i)]);
    return o.first != before;
  }

  // The update asks for no count: it is there to draw anew at each step.
  static bool counts_steps(Precision::Mode mode) { return mode == Precision::Mode::kStochastic; }
};

}  // namespace

void register_sgd(py::module_& module) { register_family<Sgd>(module); }

}  // namespace onepass
