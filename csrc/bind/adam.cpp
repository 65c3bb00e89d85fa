// adam.cpp - the binding of Adam, AdamW and AMSGrad: two ways in (see optim.h), one kernel call a device and
// dtype.

#include <pybind11/stl.h>

#include <limits>

#include "bind/families.h"
#include "bind/optim.h"
#include "bind/tail.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Batch::ListNames kNames = {"params",          "grads", "exp_avgs", "exp_avg_sqs",
                                     "max_exp_avg_sqs", "",      "emas"};

class AdamCall {
 public:
  AdamCall(const char* function, py::handle tail) : batch_(function, kNames), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }
  Batch& batch() { return batch_; }
  bool has_ema() const { return tail_.has_ema(); }
  bool zeroes_grads() const { return tail_.tail().zero_grad; }

  // options: (lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay, capturable,
  // precision), see precision_of.
  void open_group(const py::tuple& options, size_t group, size_t groups) {
    const char* function = batch_.function();
    OP_CHECK(options.size() == 10, ShapeError, function, ": options must have 10 entries, got ",
             options.size());
    precision_ = precision_of(options[9], function);
    batch_.open_group(group_number(groups, group), precision_);
    lr_ = scalar_of(options[0], function, "lr", batch_.reader());
    group_ = {};
    group_.lr = lr_.device;
    group_.ema_decay = tail_.ema_decay();
    group_.seed = precision_.seed;
    group_.group = int64_t(group);
    math::AdamOptions& o = group_.options;
    o.lr = lr_.value;
    o.beta1 = py::cast<double>(options[1]);
    o.beta2 = py::cast<double>(options[2]);
    o.eps = py::cast<double>(options[3]);
    o.weight_decay = py::cast<double>(options[4]);
    amsgrad_ = py::cast<bool>(options[5]);
    o.maximize = py::cast<bool>(options[6]);
    o.decoupled = py::cast<bool>(options[7]);
    capturable_ = py::cast<bool>(options[8]);
    check_range(function, "lr", o.lr, 0, kInfinity);
    check_range(function, "betas[0]", o.beta1, 0, 1);
    check_range(function, "betas[1]", o.beta2, 0, 1);
    check_range(function, "eps", o.eps, 0, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    open_ = false;
  }

  int lists() const { return amsgrad_ ? 5 : 4; }
  bool amsgrad() const { return amsgrad_; }
  Precision::Mode precision() const { return precision_.mode; }

  // row: the lists of the rule, and what Batch::add takes beside them.
  void add(PyObject* const* row, int64_t index, Plan::Turn* turn) {
    batch_.add(row, lists(), index, amsgrad_, turn);
    lr_.check_reaches(batch_.device(), batch_.function(), "lr");
    counts_.read(batch_, index, capturable_, tail_.may_skip(), group_);
    const bool counts_on_host = !group_.device_step.data;
    if (!(open_ && counts_on_host && rules_.back().step == group_.step)) rules_.push_back(group_);
    open_ = counts_on_host;
    batch_.set_rule(int64_t(rules_.size()) - 1);
    batch_.complete();
  }

  // All must be checked by now. Returns as TailCall::run.
  int64_t run(int threads) {
    return tail_.run(batch_, rules_, counts_, threads, [&] {
      run_family(batch_, threads,
                 [&](const TensorList& list, bool with_amsgrad, bool cuda, const Launch& launch) {
                   (cuda ? cuda::adam : cpu::adam)(list, rules_.data(), with_amsgrad, tail_.tail(), launch);
                 });
    });
  }

 private:
  Batch batch_;
  TailCall tail_;
  StepCounts counts_;
  AdamStep group_;
  Scalar lr_;
  Precision precision_;
  bool amsgrad_ = false;
  bool capturable_ = false;
  bool open_ = false;  // the last rule is of this group and counts on the host: it may serve the next tensor
  std::vector<AdamStep> rules_;
};

// The states of a parameter, borrowed, in the order of the lists of the rule and at kStepCount the count;
// false if one is missing.
bool find_row(StateCursor& cursor, PyObject* param, const AdamCall& call, PyObject** row) {
  // In the order in which torch and we fill the dict.
  static PyObject* const kStep = PyUnicode_InternFromString("step");
  static PyObject* const kAvg = PyUnicode_InternFromString("exp_avg");
  static PyObject* const kSquare = PyUnicode_InternFromString("exp_avg_sq");
  static PyObject* const kLargest = PyUnicode_InternFromString("max_exp_avg_sq");
  PyObject* names[5] = {kStep, kAvg, kSquare};
  int places[5] = {kStepCount, kFirstState, kFirstState + 1};
  int count = 3;
  const auto also = [&](PyObject* name, int place) {
    names[count] = name;
    places[count++] = place;
  };
  if (call.amsgrad()) also(kLargest, kFirstState + 2);
  if (call.has_ema()) also(ema_name(), kEma);
  PyObject* own = cursor.find(param);
  PyObject* states[5] = {};
  if (!own || !find_states(own, names, count, states)) return false;
  for (int k = 0; k < count; ++k) row[places[k]] = states[k];
  row[kLow] = find_low(own, call.precision());
  return true;
}

// groups: [(params, options)]; tail: see TailCall. Returns the tensors that were written (parameters, and
// gradients if they are zeroed), or None if something is irregular, or how many doubles the workspace must
// have.
py::object adam_step(Plan& plan, const py::dict& state, const py::list& groups, const py::object& tail,
                     int threads) {
  AdamCall call("adam", tail);
  Plan::Turn turn(plan);
  StateCursor cursor(state.ptr());
  py::list stepped;
  GradsHeld grads;
  const bool regular = gather_beside(turn, threads, [&] {
    for (size_t g = 0; g < groups.size(); ++g) {
      const py::tuple group = groups[g];
      call.open_group(group[1], g, groups.size());
      const py::list params = group[0];
      for (size_t i = 0; i < params.size(); ++i) {
        const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), Py_ssize_t(i)));
        PyObject* grad = grads.of(param.ptr());
        if (!grad) continue;
        PyObject* row[kRowSize] = {param.ptr(), grad};
        if (!find_row(cursor, param.ptr(), call, row)) return false;
        call.add(row, int64_t(i), &turn);
        stepped.append(param);
        if (call.zeroes_grads()) stepped.append(py::handle(grad));
      }
    }
    call.batch().check_overlap();
    return true;
  });
  if (!regular) return py::none();
  if (const int64_t missing = call.run(threads)) return py::int_(missing);
  turn.keep();
  return stepped;
}

// groups: [(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs or None, state_steps, lows or None, emas or
// None, options, indices)]; lows: list kLow, an entry None where a parameter has none; indices: see
// ArgumentLists. Returns what AdamCall::run does.
int64_t adam(const std::string& function, const py::list& groups, const py::object& tail, int threads) {
  AdamCall call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const py::tuple group = groups[g];
    call.open_group(group[8], g, groups.size());
    const ArgumentLists lists(function, group, call.lists(), kNames);
    const py::list steps = group[5];
    OP_CHECK(int64_t(steps.size()) == lists.size(), ShapeError, function, ": state_steps must have ",
             lists.size(), " entries like params, got ", steps.size());
    const EntryList lows(function, group[6], !group[6].is_none(), lists.size(), "lows");
    const EntryList emas(function, group[7], call.has_ema(), lists.size(), "emas");
    for (int64_t i = 0; i < lists.size(); ++i) {
      PyObject* row[kRowSize] = {};
      row[kLow] = lows.item(i);
      row[kEma] = emas.item(i);
      for (int k = 0; k < call.lists(); ++k) row[k] = lists.item(k, i);
      row[kStepCount] = PyList_GET_ITEM(steps.ptr(), Py_ssize_t(i));
      call.add(row, lists.index(i), nullptr);
    }
  }
  call.batch().check_overlap();
  return call.run(threads);
}

}  // namespace

void register_adam(py::module_& module) {
  module.def("adam_step", &adam_step, py::arg("plan"), py::arg("state"), py::arg("groups"), py::arg("tail"),
             py::arg("threads"));
  module.def("adam", &adam, py::arg("function"), py::arg("groups"), py::arg("tail"), py::arg("threads"));
}

}  // namespace onepass
