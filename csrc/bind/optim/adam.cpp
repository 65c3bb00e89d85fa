// adam.cpp - the binding of Adam, AdamW and AMSGrad, see family_call.h.

#include "bind/optim/family_call.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace {

struct Adam {
  using Step = RuleStep<math::AdamOptions>;
  static constexpr const char* kName = "adam";
  static constexpr Batch::ListNames kLists = {"params",          "grads", "exp_avgs", "exp_avg_sqs",
                                              "max_exp_avg_sqs", "",      "emas"};
  static constexpr const char* kStates[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  static constexpr size_t kOptions = 10;
  static constexpr auto kKernel = &KernelTable::adam;

  // given: (lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay, capturable,
  // precision). The variant: amsgrad.
  static bool read_options(const py::tuple& given, const char* function, math::AdamOptions& o) {
    o.beta1 = py::cast<double>(given[1]);
    o.beta2 = py::cast<double>(given[2]);
    o.eps = py::cast<double>(given[3]);
    o.weight_decay = py::cast<double>(given[4]);
    o.maximize = py::cast<bool>(given[6]);
    o.decoupled = py::cast<bool>(given[7]);
    check_range(function, "betas[0]", o.beta1, 0, 1);
    check_range(function, "betas[1]", o.beta2, 0, 1);
    check_range(function, "eps", o.eps, 0, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    return py::cast<bool>(given[5]);
  }

  // group: (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs or None, ...), see run_lists.
  static bool read_entry(const py::tuple&, int64_t, math::AdamOptions&) { return false; }

  static bool counts_steps(Precision::Mode) { return true; }
};

}  // namespace

void register_adam(py::module_& module) { register_family<Adam>(module); }

}  // namespace onepass
