// lion.cpp - the binding of Lion, see family_call.h.

#include "bind/optim/family_call.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace {

struct Lion : FamilyDefaults {
  using Step = RuleStep<math::LionOptions>;
  static constexpr const char* kName = "lion";
  static constexpr Batch::ListNames kLists = {"params", "grads", "exp_avgs", "", "", "scales", "", "emas"};
  static inline const Field kStates[] = {Field("exp_avg")};
  static inline const Field kCodes[] = {Field("exp_avg_codes")};
  static constexpr auto kKernel = &KernelTable::lion;

  // given: LionOptions (python/onepass/optim/lion.py). Every Lion has all states.
  static bool read_options(const Record& given, const char* function, math::LionOptions& o) {
    static const Field kBeta1("beta1"), kBeta2("beta2"), kWeightDecay("weight_decay"), kMaximize("maximize");
    o.beta1 = given.number(kBeta1);
    o.beta2 = given.number(kBeta2);
    o.weight_decay = given.number(kWeightDecay);
    o.maximize = given.flag(kMaximize);
    check_range(function, "betas[0]", o.beta1, 0, 1);
    check_range(function, "betas[1]", o.beta2, 0, 1);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    return true;
  }
};

}  // namespace

void register_lion(py::module_& module) { register_family<Lion>(module); }

}  // namespace onepass
