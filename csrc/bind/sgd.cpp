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
constexpr Batch::ListNames kNames = {"params", "grads", "momentum_buffer_list", "", "", "emas"};

class SgdCall {
 public:
  SgdCall(const char* function, py::handle tail) : batch_(function, kNames), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }
  Batch& batch() { return batch_; }
  bool has_ema() const { return tail_.has_ema(); }

  // options: (lr, momentum, dampening, weight_decay, nesterov, maximize).
  void open_group(const py::tuple& options, int64_t number) {
    batch_.open_group(number);
    const char* function = batch_.function();
    OP_CHECK(options.size() == 6, ShapeError, function, ": options must have 6 entries, got ",
             options.size());
    lr_ = scalar_of(options[0], function, "lr", batch_.reader());
    group_ = {};
    group_.lr = lr_.device;
    group_.ema_decay = tail_.ema_decay();
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
    rule_of_first_[0] = rule_of_first_[1] = -1;
  }

  bool momentum() const { return group_.options.momentum != 0; }

  void add(PyObject* param, PyObject* grad, PyObject* buffer, PyObject* ema, bool first, int64_t index,
           Plan::Turn* turn) {
    PyObject* row[kRowSize] = {param, grad, buffer};
    row[kEma] = ema;
    int64_t& rule = rule_of_first_[first];
    if (rule < 0) {
      rule = int64_t(rules_.size());
      rules_.push_back(group_);
      rules_.back().options.first = first;
    }
    batch_.add(row, momentum() ? 3 : 2, index, momentum(), turn);
    batch_.set_rule(rule);
    lr_.check_reaches(batch_.device(), batch_.function(), "lr");
    batch_.complete();
  }

  // All must be checked by now. Returns as TailCall::run.
  int64_t run(int threads) {
    return tail_.run(batch_, rules_, threads, [&] {
      run_family(batch_, threads,
                 [&](const TensorList& list, bool with_momentum, bool cuda, const Launch& launch) {
                   (cuda ? cuda::sgd : cpu::sgd)(list, rules_.data(), with_momentum, tail_.tail(), launch);
                 });
    });
  }

 private:
  Batch batch_;
  TailCall tail_;
  SgdStep group_;
  Scalar lr_;
  int64_t rule_of_first_[2] = {-1, -1};
  std::vector<SgdStep> rules_;
};

// The states of a parameter that are asked for, borrowed; false if one is missing.
bool find_row(StateCursor& cursor, PyObject* param, bool momentum, bool ema, PyObject** buffer,
              PyObject** average) {
  static PyObject* const kBuffer = PyUnicode_InternFromString("momentum_buffer");
  if (!momentum && !ema) return true;
  PyObject* names[2] = {kBuffer, ema_name()};
  PyObject* found[2] = {};
  PyObject* own = cursor.find(param);
  const int first = momentum ? 0 : 1, count = int(momentum) + int(ema);
  if (!own || !find_states(own, names + first, count, found + first) || found[0] == Py_None) return false;
  *buffer = found[0];
  *average = found[1];
  return true;
}

// groups: [(params, options)]; tail: see TailCall. Returns the parameters that were updated, or None if
// something is irregular, or how many doubles the workspace must have.
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
      call.open_group(group[1], group_number(groups, g));
      const py::list params = group[0];
      for (size_t i = 0; i < params.size(); ++i) {
        const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), Py_ssize_t(i)));
        PyObject* grad = grads.of(param.ptr());
        if (!grad) continue;
        PyObject *buffer = nullptr, *ema = nullptr;
        if (!find_row(cursor, param.ptr(), call.momentum(), call.has_ema(), &buffer, &ema)) return false;
        call.add(param.ptr(), grad, buffer, ema, false, int64_t(i), &turn);
        stepped.append(param);
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

// groups: [(params, grads, momentum_buffer_list or None, first, emas or None, options, indices)]; first[i]:
// buffer i holds no value yet; indices: see ArgumentLists. Returns what SgdCall::run does.
int64_t sgd(const std::string& function, const py::list& groups, const py::object& tail, int threads) {
  SgdCall call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const py::tuple group = groups[g];
    call.open_group(group[5], group_number(groups, g));
    const ArgumentLists lists(function, group, call.momentum() ? 3 : 2, kNames);
    const auto first = py::cast<std::vector<bool>>(group[3]);
    const EntryList emas(function, group[4], call.has_ema(), lists.size(), "emas");
    for (int64_t i = 0; i < lists.size(); ++i) {
      PyObject* buffer = call.momentum() ? lists.item(2, i) : nullptr;
      call.add(lists.item(0, i), lists.item(1, i), buffer, emas.item(i),
               call.momentum() && first.at(size_t(i)), lists.index(i), nullptr);
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
