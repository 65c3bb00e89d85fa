// adam.cpp - the binding of Adam, AdamW and AMSGrad, see family_call.h.

#include "bind/optim/family_call.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace {

struct Adam : FamilyDefaults {
  using Step = RuleStep<math::AdamOptions>;
  static constexpr const char* kName = "adam";
  static constexpr Batch::ListNames kLists = {"params",          "grads",  "exp_avgs", "exp_avg_sqs",
                                              "max_exp_avg_sqs", "scales", "",         "emas"};
  static inline const Field kStates[] = {Field("exp_avg"), Field("exp_avg_sq"), Field("max_exp_avg_sq")};
  static inline const Field kCodes[] = {Field("exp_avg_codes"), Field("exp_avg_sq_codes"),
                                        Field("max_exp_avg_sq_codes")};
  static constexpr auto kKernel = &KernelTable::adam;

  // given: AdamOptions (python/onepass/optim/adam.py). The variant: amsgrad.
  static bool read_options(const Record& given, const char* function, math::AdamOptions& o) {
    static const Field kBeta1("beta1"), kBeta2("beta2"), kEps("eps"), kWeightDecay("weight_decay"),
        kAmsgrad("amsgrad"), kMaximize("maximize"), kDecoupled("decoupled_weight_decay");
    o.beta1 = given.number(kBeta1);
    o.beta2 = given.number(kBeta2);
    o.eps = given.number(kEps);
    o.weight_decay = given.number(kWeightDecay);
    o.maximize = given.flag(kMaximize);
    o.decoupled = given.flag(kDecoupled);
    check_range(function, "betas[0]", o.beta1, 0, 1);
    check_range(function, "betas[1]", o.beta2, 0, 1);
    check_range(function, "eps", o.eps, 0, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    return given.flag(kAmsgrad);
  }

  static bool counts_steps(const Precision&) { return true; }
};

}  // namespace

void register_adam(py::module_& module) { register_family<Adam>(module); }

}  // namespace onepass
