// family_call.h - one step of an optimizer family: its two ways in (see optim.h), and from there one kernel
// call a device and dtype. What a family has of its own is in a class of its name (adam.cpp, sgd.cpp), whose
// base FamilyDefaults has what most families leave as it is:
//
//   kName           how Python calls it: core.adam.step, core.adam.step_lists
//   Step            its rule (kernels.h)
//   kLists          the names of its lists
//   kStates, kCodes keys of a parameter's states, and of their codes in 8 bits, in the order of the lists.
//   The variant has all of them, the
//                   plain rule all but the last
//   read_options    reads its own options by name, checked; returns whether they ask for the variant
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

// What a family has that has nothing else.
struct FamilyDefaults {
  template <class Options>
  static bool read_entry(const Record&, int64_t, Options&) {
    return false;
  }
  // The update needs no count; stochastic rounding, and that of codes, differs from step to step.
  static bool counts_steps(const Precision& precision) {
    return precision.mode == Precision::Mode::kStochastic || precision.coded;
  }
};

template <class Family>
class FamilyCall {
 public:
  FamilyCall(const char* function, pybind11::handle tail)
      : batch_(function, Family::kLists), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }

  // options: StepOptions (python/onepass/optim/_lists/records.py) with the family's own.
  void open_group(const pybind11::object& options, size_t group, size_t groups);
  // Adds the parameters of the open group that have a gradient, with their states. Appends what will be
  // written to `stepped`. False if a state is missing.
  bool add_params(const pybind11::list& params, StateCursor& cursor, Held& held, Plan::Turn& turn,
                  pybind11::list& stepped);
  // Adds the explicit lists of the open group, see run_lists.
  void add_lists(const Record& group);
  // What is to be checked when all are added.
  void check_all() {
    for (const dlpack::DLDevice device : batch_.devices()) {
      check_has_kernels(device, {batch_.function(), "params"});
    }
    batch_.check_overlap();
  }

  // All must be checked by now. Calls written() while the kernels run, or after a step that is not taken; it
  // has the GIL.
  template <class Written>
  void run(int threads, const Written& written);

 private:
  static constexpr int kMostStates = int(std::size(Family::kStates));

  int lists() const { return kFirstState + kMostStates - (variant_ ? 0 : 1); }
  bool counts_steps() const { return Family::counts_steps(precision_); }
  bool find_row(StateCursor& cursor, PyObject* param, PyObject** row, Held& held) const;
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
void FamilyCall<Family>::open_group(const pybind11::object& options, size_t group, size_t groups) {
  static const Field kLr("lr"), kCapturable("capturable"), kPrecision("precision");
  const char* function = batch_.function();
  const Record given(options, function, "options");
  capturable_ = given.flag(kCapturable);
  precision_ = precision_of(given.get(kPrecision), function);
  batch_.open_group(group_number(groups, group), precision_);
  lr_ = scalar_of(given.get(kLr), function, "lr", batch_.reader());
  check_range(function, "lr", lr_.value, 0, kInfinity);
  group_ = {};
  group_.lr = lr_.device;
  group_.ema_decay = tail_.ema_decay();
  group_.seed = precision_.seed;
  group_.part = precision_.part;
  group_.group = int64_t(group);
  group_.options.lr = lr_.value;
  variant_ = Family::read_options(given, function, group_.options);
  given.check_read();
  open_ = false;
}

template <class Family>
template <class Written>
void FamilyCall<Family>::run(int threads, const Written& written) {
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
  tail_.run(batch_, rules_, counts_, threads, [&] { run_family(batch_, threads, kernel, tell); });
  if (!told) tell();
  if (error) std::rethrow_exception(error);
}

// The states of a parameter that are asked for, borrowed, at their places in the row; false if one is
// missing.
template <class Family>
bool FamilyCall<Family>::find_row(StateCursor& cursor, PyObject* param, PyObject** row, Held& held) const {
  static const Field kStep("step"), kAverage("ema"), kScalesKey("scales");
  constexpr int kMost = kMostStates + 3;
  PyObject* names[kMost] = {};
  int places[kMost] = {};
  int count = 0;
  const auto also = [&](const Field& name, int place) {
    names[count] = name.key();
    places[count++] = place;
  };
  // In the order in which torch and we fill the dict.
  if (counts_steps()) also(kStep, kStepCount);
  const Field* states_of = precision_.coded ? Family::kCodes : Family::kStates;
  for (int k = kFirstState; k < lists(); ++k) also(states_of[k - kFirstState], k);
  if (precision_.coded && lists() > kFirstState) also(kScalesKey, kScales);
  if (tail_.has_ema()) also(kAverage, kEma);
  if (count == 0 && !precision_.has_low()) return true;
  const Entry own = cursor.find(param);
  PyObject* states[kMost] = {};
  if (!own || !find_states(own.ptr(), names, count, states, held)) return false;
  for (int k = 0; k < count; ++k) {
    if (states[k] == Py_None) return false;  // a momentum buffer that torch has not made yet
    row[places[k]] = states[k];
  }
  row[kLow] = held.keep(find_low(own.ptr(), precision_.mode));
  return true;
}

template <class Family>
void FamilyCall<Family>::add(PyObject* const* row, int64_t index, Plan::Turn* turn) {
  batch_.add(row, lists(), index, variant_, turn);
  OP_CHECK(!precision_.coded || !uses_cuda_kernels(batch_.device()), ValueError,
           to_string(batch_.name(kParam, index)), " must be on the CPU with states in 8 bits, got ",
           device_name(batch_.device()));
  lr_.check_reaches(batch_.device(), batch_.function(), "lr");
  if (counts_steps()) counts_.read(batch_, index, capturable_, tail_.may_skip(), group_);
  const bool counts_on_host = !group_.device_step.data;
  if (!(open_ && counts_on_host && rules_.back().step == group_.step)) rules_.push_back(group_);
  open_ = counts_on_host;
  batch_.set_rule(int64_t(rules_.size()) - 1);
  batch_.complete();
}

template <class Family>
bool FamilyCall<Family>::add_params(const pybind11::list& params, StateCursor& cursor, Held& held,
                                    Plan::Turn& turn, pybind11::list& stepped) {
  for (size_t i = 0; i < params.size(); ++i) {
    const auto param =
        pybind11::reinterpret_borrow<pybind11::object>(list_entry(params.ptr(), Py_ssize_t(i)));
    PyObject* grad = held.grad_of(param.ptr());
    if (!grad) continue;
    PyObject* row[kRowSize] = {param.ptr(), grad};
    if (!find_row(cursor, param.ptr(), row, held)) return false;
    add(row, int64_t(i), &turn);
    stepped.append(param);
    if (tail_.tail().zero_grad) stepped.append(pybind11::handle(grad));
  }
  return true;
}

template <class Family>
void FamilyCall<Family>::add_lists(const Record& group) {
  static const Field kSteps("state_steps"), kLows("lows"), kEmas("emas"), kScaleLists("scales");
  const char* function = batch_.function();
  ArgumentLists given(function, group, lists(), Family::kLists);
  if (counts_steps()) given.also(function, kSteps.name(), group.get(kSteps));
  const EntryList lows(function, group.get(kLows), group.has(kLows), given.size(), kLows.name());
  const EntryList scales(function, group.get(kScaleLists), group.has(kScaleLists), given.size(),
                         kScaleLists.name());
  const EntryList emas(function, group.get(kEmas), tail_.has_ema(), given.size(), kEmas.name());
  for (int64_t i = 0; i < given.size(); ++i) {
    PyObject* row[kRowSize] = {};
    for (int k = 0; k < lists(); ++k) row[k] = given.item(k, i);
    row[kScales] = scales.item(i);
    row[kLow] = lows.item(i);
    row[kEma] = emas.item(i);
    if (counts_steps()) row[kStepCount] = given.item(lists(), i);
    if (Family::read_entry(group, i, group_.options)) open_ = false;
    add(row, given.index(i), nullptr);
  }
}

// groups: of StateGroup (python/onepass/optim/_lists/records.py); written: is called with the tensors that
// are written, parameters, and gradients if they are zeroed; tail: see TailCall. Returns false if something
// is irregular.
template <class Family>
bool run_state(Plan& plan, const pybind11::dict& state, const pybind11::list& groups,
               const pybind11::function& written, const pybind11::object& tail, int threads) {
  static const Field kParams("params"), kOptions("options");
  FamilyCall<Family> call(Family::kName, tail);
  Plan::Turn turn(plan);
  StateCursor cursor(state.ptr());
  pybind11::list stepped;
  Held held;
  const bool regular = gather_while_checking(turn, threads, [&] {
    for (size_t g = 0; g < groups.size(); ++g) {
      const Record group(PyList_GET_ITEM(groups.ptr(), Py_ssize_t(g)), Family::kName, "group");
      call.open_group(group.get(kOptions), g, groups.size());
      if (!call.add_params(group.get(kParams), cursor, held, turn, stepped)) return false;
    }
    call.check_all();
    return true;
  });
  if (!regular) return false;
  call.run(threads, [&] { written(stepped); });
  turn.keep();
  return true;
}

// groups: of ListGroup (python/onepass/optim/_lists/records.py).
template <class Family>
void run_lists(const std::string& function, const pybind11::list& groups, const pybind11::object& tail,
               int threads) {
  static const Field kOptions("options");
  FamilyCall<Family> call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const Record group(PyList_GET_ITEM(groups.ptr(), Py_ssize_t(g)), function.c_str(), "group");
    call.open_group(group.get(kOptions), g, groups.size());
    call.add_lists(group);
  }
  call.check_all();
  // The caller knows what it gave, and what of it were copies.
  call.run(threads, [] {});
}

template <class Family>
void register_family(pybind11::module_& module) {
  using pybind11::arg;
  pybind11::module_ rule = module.def_submodule(Family::kName);
  rule.def("step", &run_state<Family>, arg("plan"), arg("state"), arg("groups"), arg("written"), arg("tail"),
           arg("threads"));
  rule.def("step_lists", &run_lists<Family>, arg("function"), arg("groups"), arg("tail"), arg("threads"));
}

}  // namespace onepass
