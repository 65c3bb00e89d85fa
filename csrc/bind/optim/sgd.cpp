// sgd.cpp - the binding of SGD, see family_call.h.

#include "bind/optim/family_call.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace {

struct Sgd : FamilyDefaults {
  using Step = RuleStep<math::SgdOptions>;
  static constexpr const char* kName = "sgd";
  static constexpr Batch::ListNames kLists = {"params", "grads", "momentum_buffer_list", "", "", "scales",
                                              "",       "emas"};
  static inline const Field kStates[] = {Field("momentum_buffer")};
  static inline const Field kCodes[] = {Field("momentum_buffer_codes")};
  static constexpr auto kKernel = &KernelTable::sgd;

  // given: SgdOptions (python/onepass/optim/sgd.py). The variant: momentum.
  static bool read_options(const Record& given, const char* function, math::SgdOptions& o) {
    static const Field kMomentum("momentum"), kDampening("dampening"), kWeightDecay("weight_decay"),
        kNesterov("nesterov"), kMaximize("maximize");
    o.momentum = given.number(kMomentum);
    o.dampening = given.number(kDampening);
    o.weight_decay = given.number(kWeightDecay);
    o.nesterov = given.flag(kNesterov);
    o.maximize = given.flag(kMaximize);
    check_range(function, "momentum", o.momentum, 0, kInfinity);
    check_range(function, "dampening", o.dampening, -kInfinity, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    return o.momentum != 0;
  }

  // group.first[i]: buffer i holds no value yet.
  static bool read_entry(const Record& group, int64_t i, math::SgdOptions& o) {
    static const Field kFirst("first");
    const bool before = o.first;
    o.first = o.momentum != 0 && py::cast<bool>(group.get(kFirst)[py::int_(i)]);
    return o.first != before;
  }
};

}  // namespace

void register_sgd(py::module_& module) { register_family<Sgd>(module); }

}  // namespace onepass
