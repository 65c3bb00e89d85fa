// family_call.h - one step of an optimizer family: its two ways in (see optim.h), and from there one kernel
// call a device and dtype. What a family has of its own is in a class of its name (adam.cpp, sgd.cpp):
//
//   kName           its list function; the other one is kName_step
//   Step            its rule (kernels.h)
//   kLists          the names of its lists
//   kStates         keys of a parameter's states, in the order of the lists; the last is the variant's alone
//   kOptions        how many options a group has
//   read_options    reads those between lr and capturable, checked; returns whether they ask for the variant
//   read_entry      reads what explicit lists say of parameter i alone; returns whether that changed the rule
//   counts_steps    whether the update, or its rounding, asks for the step count
//   kKernel         its kernel
#pragma once

#include <pybind11/pybind11.h>

#include <iterator>
#include <string>
#include <vector>

#include "bind/optim/families.h"
#include "bind/optim/tail.h"

namespace onepass {

template <class Family>
class FamilyCall {
 public:
  FamilyCall(const char* function, pybind11::handle tail)
      : batch_(function, Family::kLists), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }

  // options: (lr, the family's own ..., capturable, precision), see precision_of.
  void open_group(const pybind11::tuple& options, size_t group, size_t groups);
  // Of the group opened last: its parameters that have a gradient, with their states. Appends what will be
  // written to `stepped`. False if a state is missing.
  bool add_params(const pybind11::list& params, StateCursor& cursor, GradsHeld& grads, Plan::Turn& turn,
                  pybind11::list& stepped);
  // Of the group opened last: explicit lists, see run_lists.
  void add_lists(const pybind11::tuple& group);
  // What is to be checked when all are added.
  void check_all() {
    for (const dlpack::DLDevice device : batch_.devices()) {
      check_has_kernels(device, {batch_.function(), "params"});
    }
    batch_.check_overlap();
  }

  // All must be checked by now. Calls written() beside the kernels, or after a step that is not taken; it has
  // the GIL. Returns as TailCall::run, and calls nothing then but with 0.
  template <class Written>
  int64_t run(int threads, const Written& written);

 private:
  static constexpr int kMostStates = int(std::size(Family::kStates));

  int lists() const { return kFirstState + kMostStates - (variant_ ? 0 : 1); }
  bool counts_steps() const { return Family::counts_steps(precision_.mode); }
  bool find_row(StateCursor& cursor, PyObject* param, PyObject** row) const;
  // row: what Batch::add takes.
  void add(PyObject* const* row, int64_t index, Plan::Turn* turn);

  Batch batch_;
  TailCall tail_;
  StepCounts counts_;
  typename Family::Step group_;
  Scalar lr_;
  Precision precision_;
  bool variant_ = false;
  bool capturable_ = false;
  bool open_ = false;  // the last rule is of this group and counts on the host: it may serve the next tensor
  std::vector<typename Family::Step> rules_;
};

template <class Family>
void FamilyCall<Family>::open_group(const pybind11::tuple& options, size_t group, size_t groups) {
  const char* function = batch_.function();
  OP_CHECK(options.size() == Family::kOptions, ValueError, function, ": options must have ", Family::kOptions,
           " entries, got ", options.size());
  capturable_ = pybind11::cast<bool>(options[Family::kOptions - 2]);
  precision_ = precision_of(options[Family::kOptions - 1], function);
  batch_.open_group(group_number(groups, group), precision_);
  lr_ = scalar_of(options[0], function, "lr", batch_.reader());
  check_range(function, "lr", lr_.value, 0, kInfinity);
  group_ = {};
  group_.lr = lr_.device;
  group_.ema_decay = tail_.ema_decay();
  group_.seed = precision_.seed;
  group_.group = int64_t(group);
  group_.options.lr = lr_.value;
  variant_ = Family::read_options(options, function, group_.options);
  open_ = false;
}

template <class Family>
template <class Written>
int64_t FamilyCall<Family>::run(int threads, const Written& written) {
  bool told = false;
  std::exception_ptr error;
  // An error must not keep the step counts from being advanced.
  const auto tell = [&] {
    told = true;
    try {
      written();
    } catch (...) {
      error = std::current_exception();
    }
  };
  const auto kernel = [&](const TensorList& list, bool variant, const Target& target) {
    (target.kernels->*Family::kKernel)(list, rules_.data(), variant, tail_.tail(), target.launch);
  };
  const int64_t missing =
      tail_.run(batch_, rules_, counts_, threads, [&] { run_family(batch_, threads, kernel, tell); });
  if (missing == 0 && !told) tell();
  if (error) std::rethrow_exception(error);
  return missing;
}

// The states of a parameter that are asked for, borrowed, at their places in the row; false if one is
// missing.
template <class Family>
bool FamilyCall<Family>::find_row(StateCursor& cursor, PyObject* param, PyObject** row) const {
  static const auto kStates = interned(Family::kStates), kBeside = interned({"step", "ema"});
  constexpr int kMost = int(kStates.size() + kBeside.size());
  PyObject* names[kMost] = {};
  int places[kMost] = {};
  int count = 0;
  const auto also = [&](PyObject* name, int place) {
    names[count] = name;
    places[count++] = place;
  };
  // In the order in which torch and we fill the dict.
  if (counts_steps()) also(kBeside[0], kStepCount);
  for (int k = kFirstState; k < lists(); ++k) also(kStates[size_t(k - kFirstState)], k);
  if (tail_.has_ema()) also(kBeside[1], kEma);
  if (count == 0 && !precision_.has_low()) return true;
  PyObject* own = cursor.find(param);
  PyObject* states[kMost] = {};
  if (!own || !find_states(own, names, count, states)) return false;
  for (int k = 0; k < count; ++k) {
    if (states[k] == Py_None) return false;  // a momentum buffer that torch has not made yet
    row[places[k]] = states[k];
  }
  row[kLow] = find_low(own, precision_.mode);
  return true;
}

template <class Family>
void FamilyCall<Family>::add(PyObject* const* row, int64_t index, Plan::Turn* turn) {
  batch_.add(row, lists(), index, variant_, turn);
  lr_.check_reaches(batch_.device(), batch_.function(), "lr");
  if (counts_steps()) counts_.read(batch_, index, capturable_, tail_.may_skip(), group_);
  const bool counts_on_host = !group_.device_step.data;
  if (!(open_ && counts_on_host && rules_.back().step == group_.step)) rules_.push_back(group_);
  open_ = counts_on_host;
  batch_.set_rule(int64_t(rules_.size()) - 1);
  batch_.complete();
}

template <class Family>
bool FamilyCall<Family>::add_params(const pybind11::list& params, StateCursor& cursor, GradsHeld& grads,
                                    Plan::Turn& turn, pybind11::list& stepped) {
  for (size_t i = 0; i < params.size(); ++i) {
    const auto param =
        pybind11::reinterpret_borrow<pybind11::object>(PyList_GET_ITEM(params.ptr(), Py_ssize_t(i)));
    PyObject* grad = grads.of(param.ptr());
    if (!grad) continue;
    PyObject* row[kRowSize] = {param.ptr(), grad};
    if (!find_row(cursor, param.ptr(), row)) return false;
    add(row, int64_t(i), &turn);
    stepped.append(param);
    if (tail_.tail().zero_grad) stepped.append(pybind11::handle(grad));
  }
  return true;
}

template <class Family>
void FamilyCall<Family>::add_lists(const pybind11::tuple& group) {
  const size_t end = group.size();
  ArgumentLists given(batch_.function(), group, lists(), Family::kLists);
  if (counts_steps()) given.also(batch_.function(), "state_steps", group[end - 5]);
  const EntryList lows(batch_.function(), group[end - 4], !group[end - 4].is_none(), given.size(), "lows");
  const EntryList emas(batch_.function(), group[end - 3], tail_.has_ema(), given.size(), "emas");
  for (int64_t i = 0; i < given.size(); ++i) {
    PyObject* row[kRowSize] = {};
    for (int k = 0; k < lists(); ++k) row[k] = given.item(k, i);
    row[kLow] = lows.item(i);
    row[kEma] = emas.item(i);
    if (counts_steps()) row[kStepCount] = given.item(lists(), i);
    if (Family::read_entry(group, i, group_.options)) open_ = false;
    add(row, given.index(i), nullptr);
  }
}

// groups: [(params, options)]; written: is called with the tensors that are written, parameters, and
// gradients if they are zeroed; tail: see TailCall. Returns True, or False if something is irregular, or how
// many doubles the workspace must have.
template <class Family>
pybind11::object run_state(Plan& plan, const pybind11::dict& state, const pybind11::list& groups,
                           const pybind11::function& written, const pybind11::object& tail, int threads) {
  FamilyCall<Family> call(Family::kName, tail);
  Plan::Turn turn(plan);
  StateCursor cursor(state.ptr());
  pybind11::list stepped;
  GradsHeld grads;
  const bool regular = gather_beside(turn, threads, [&] {
    for (size_t g = 0; g < groups.size(); ++g) {
      const pybind11::tuple group = groups[g];
      call.open_group(group[1], g, groups.size());
      if (!call.add_params(group[0], cursor, grads, turn, stepped)) return false;
    }
    call.check_all();
    return true;
  });
  if (!regular) return pybind11::bool_(false);
  if (const int64_t missing = call.run(threads, [&] { written(stepped); })) return pybind11::int_(missing);
  turn.keep();
  return pybind11::bool_(true);
}

// groups: [(the lists of the family ..., state_steps or None, lows or None, emas or None, options, indices)];
// lows: list kLow, an entry None where a parameter has none; indices: see ArgumentLists. Returns what
// FamilyCall::run does.
template <class Family>
int64_t run_lists(const std::string& function, const pybind11::list& groups, const pybind11::object& tail,
                  int threads) {
  FamilyCall<Family> call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const pybind11::tuple group = groups[g];
    call.open_group(group[group.size() - 2], g, groups.size());
    call.add_lists(group);
  }
  call.check_all();
  // The caller knows what it gave, and what of it were copies.
  return call.run(threads, [] {});
}

template <class Family>
void register_family(pybind11::module_& module) {
  using pybind11::arg;
  module.def((std::string(Family::kName) + "_step").c_str(), &run_state<Family>, arg("plan"), arg("state"),
             arg("groups"), arg("written"), arg("tail"), arg("threads"));
  module.def(Family::kName, &run_lists<Family>, arg("function"), arg("groups"), arg("tail"), arg("threads"));
}

}  // namespace onepass
