// sgd.cpp - the binding of SGD: two ways in (see optim.h), one kernel call a device and dtype.

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
constexpr Batch::ListNames kNames = {"params", "grads", "momentum_buffer_list", "", "", "", "emas"};

class SgdCall {
 public:
  SgdCall(const char* function, py::handle tail) : batch_(function, kNames), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }
  Batch& batch() { return batch_; }
  bool has_ema() const { return tail_.has_ema(); }
  bool zeroes_grads() const { return tail_.tail().zero_grad; }

  // options: (lr, momentum, dampening, weight_decay, nesterov, maximize, capturable, precision), see
  // precision_of.
  void open_group(const py::tuple& options, size_t group, size_t groups) {
    const char* function = batch_.function();
    OP_CHECK(options.size() == 8, ShapeError, function, ": options must have 8 entries, got ",
             options.size());
    capturable_ = py::cast<bool>(options[6]);
    precision_ = precision_of(options[7], function);
    batch_.open_group(group_number(groups, group), precision_);
    lr_ = scalar_of(options[0], function, "lr", batch_.reader());
    group_ = {};
    group_.lr = lr_.device;
    group_.ema_decay = tail_.ema_decay();
    group_.seed = precision_.seed;
    group_.group = int64_t(group);
    math::SgdOptions& o = group_.options;
    o.lr = lr_.value;
    o.momentum = py::cast<double>(options[1]);
    o.dampening = py::cast<double>(options[2]);
    o.weight_decay = py::cast<double>(options[3]);
    o.nesterov = py::cast<bool>(options[4]);
    o.maximize = py::cast<bool>(options[5]);
    check_range(function, "lr", o.lr, 0, kInfinity);
    check_range(function, "momentum", o.momentum, 0, kInfinity);
    check_range(function, "dampening", o.dampening, -kInfinity, kInfinity);
    check_range(function, "weight_decay", o.weight_decay, 0, kInfinity);
    open_ = false;
  }

  bool momentum() const { return group_.options.momentum != 0; }
  Precision::Mode precision() const { return precision_.mode; }
  bool has_low() const { return precision_.has_low(); }
  // The update itself asks for no count: it is there to draw anew at each step.
  bool counts_steps() const { return precision_.mode == Precision::Mode::kStochastic; }

  // row: what Batch::add takes.
  void add(PyObject* const* row, bool first, int64_t index, Plan::Turn* turn) {
    batch_.add(row, momentum() ? 3 : 2, index, momentum(), turn);
    lr_.check_reaches(batch_.device(), batch_.function(), "lr");
    group_.options.first = first;
    if (counts_steps()) counts_.read(batch_, index, capturable_, tail_.may_skip(), group_);
    const bool counts_on_host = !group_.device_step.data;
    if (!(open_ && counts_on_host && rules_.back().step == group_.step &&
          rules_.back().options.first == first)) {
      rules_.push_back(group_);
    }
    open_ = counts_on_host;
    batch_.set_rule(int64_t(rules_.size()) - 1);
    batch_.complete();
  }

  // All must be checked by now. Returns as TailCall::run.
  int64_t run(int threads) {
    return tail_.run(batch_, rules_, counts_, threads, [&] {
      run_family(batch_, threads,
                 [&](const TensorList& list, bool with_momentum, bool cuda, const Launch& launch) {
                   (cuda ? cuda::sgd : cpu::sgd)(list, rules_.data(), with_momentum, tail_.tail(), launch);
                 });
    });
  }

 private:
  Batch batch_;
  TailCall tail_;
  StepCounts counts_;
  SgdStep group_;
  Scalar lr_;
  Precision precision_;
  bool capturable_ = false;
  bool open_ = false;  // the last rule is of this group and counts on the host: it may serve the next tensor
  std::vector<SgdStep> rules_;
};

// The states of a parameter that are asked for, borrowed, at their places in the row; false if one is
// missing.
bool find_row(StateCursor& cursor, PyObject* param, const SgdCall& call, PyObject** row) {
  static PyObject* const kStep = PyUnicode_InternFromString("step");
  static PyObject* const kBuffer = PyUnicode_InternFromString("momentum_buffer");
  PyObject* names[3] = {};
  int places[3] = {};
  int count = 0;
  const auto also = [&](PyObject* name, int place) {
    names[count] = name;
    places[count++] = place;
  };
  if (call.counts_steps()) also(kStep, kStepCount);
  if (call.momentum()) also(kBuffer, kFirstState);
  if (call.has_ema()) also(ema_name(), kEma);
  if (count == 0 && !call.has_low()) return true;
  PyObject* own = cursor.find(param);
  PyObject* states[3] = {};
  if (!own || !find_states(own, names, count, states)) return false;
  for (int k = 0; k < count; ++k) {
    if (states[k] == Py_None) return false;  // a momentum buffer that torch has not made yet
    row[places[k]] = states[k];
  }
  row[kLow] = find_low(own, call.precision());
  return true;
}

// groups: [(params, options)]; tail: see TailCall. Returns the tensors that were written (parameters, and
// gradients if they are zeroed), or None if something is irregular, or how many doubles the workspace must
// have.
py::object sgd_step(Plan& plan, const py::dict& state, const py::list& groups, const py::object& tail,
                    int threads) {
  SgdCall call("sgd", tail);
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
        call.add(row, false, int64_t(i), &turn);
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

// groups: [(params, grads, momentum_buffer_list or None, first, state_steps or None, lows or None, emas or
// None, options, indices)]; first[i]: buffer i holds no value yet; lows: list kLow, an entry None where a
// parameter has none; indices: see ArgumentLists. Returns what SgdCall::run does.
int64_t sgd(const std::string& function, const py::list& groups, const py::object& tail, int threads) {
  SgdCall call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const py::tuple group = groups[g];
    call.open_group(group[7], g, groups.size());
    const ArgumentLists lists(function, group, call.momentum() ? 3 : 2, kNames);
    const auto first = py::cast<std::vector<bool>>(group[3]);
    const EntryList steps(function, group[4], call.counts_steps(), lists.size(), "state_steps");
    const EntryList lows(function, group[5], !group[5].is_none(), lists.size(), "lows");
    const EntryList emas(function, group[6], call.has_ema(), lists.size(), "emas");
    for (int64_t i = 0; i < lists.size(); ++i) {
      PyObject* row[kRowSize] = {lists.item(0, i), lists.item(1, i)};
      if (call.momentum()) row[kFirstState] = lists.item(2, i);
      row[kLow] = lows.item(i);
      row[kEma] = emas.item(i);
      row[kStepCount] = steps.item(i);
      call.add(row, call.momentum() && first.at(size_t(i)), lists.index(i), nullptr);
    }
  }
  call.batch().check_overlap();
  return call.run(threads);
}

}  // namespace

void register_sgd(py::module_& module) {
  module.def("sgd_step", &sgd_step, py::arg("plan"), py::arg("state"), py::arg("groups"), py::arg("tail"),
             py::arg("threads"));
  module.def("sgd", &sgd, py::arg("function"), py::arg("groups"), py::arg("tail"), py::arg("threads"));
}

}  // namespace onepass
