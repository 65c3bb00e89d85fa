// sgd.cpp - the binding of SGD: two ways in (see optim.h), one kernel call a device and dtype.

#include <pybind11/stl.h>

#include <limits>

#include "bind/families.h"
#include "bind/optim.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Batch::ListNames kNames = {"params", "grads", "momentum_buffer_list", "", ""};

class SgdCall {
 public:
  explicit SgdCall(const char* function) : batch_(function, kNames) {}
  Batch& batch() { return batch_; }

  // options: (lr, momentum, dampening, weight_decay, nesterov, maximize).
  void open_group(const py::tuple& options, int64_t number) {
    batch_.open_group(number);
    const char* function = batch_.function();
    OP_CHECK(options.size() == 6, ShapeError, function, ": options must have 6 entries, got ",
             options.size());
    lr_ = scalar_of(options[0], function, "lr", batch_.reader());
    group_ = {};
    group_.lr = lr_.device;
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

  void add(PyObject* param, PyObject* grad, PyObject* buffer, bool first, int64_t index, Plan::Turn* turn) {
    PyObject* const row[kRowSize] = {param, grad, buffer};
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

  // All must be checked by now.
  void run(int threads) {
    run_family(batch_, threads,
               [&](const TensorList& list, bool with_momentum, bool cuda, const Launch& launch) {
                 (cuda ? cuda::sgd : cpu::sgd)(list, rules_.data(), with_momentum, launch);
               });
  }

 private:
  Batch batch_;
  SgdStep group_;
  Scalar lr_;
  int64_t rule_of_first_[2] = {-1, -1};
  std::vector<SgdStep> rules_;
};

// The momentum buffer of a parameter, borrowed, or nullptr.
PyObject* find_buffer(StateCursor& cursor, PyObject* param) {
  static PyObject* const kBuffer = PyUnicode_InternFromString("momentum_buffer");
  PyObject* buffer = nullptr;
  PyObject* own = cursor.find(param);
  return own && find_states(own, &kBuffer, 1, &buffer) && buffer != Py_None ? buffer : nullptr;
}

// groups: [(params, options)]. Returns the parameters that were updated, or None if something is irregular.
py::object sgd_step(Plan& plan, const py::dict& state, const py::list& groups, int threads) {
  SgdCall call("sgd");
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
        PyObject* buffer = call.momentum() ? find_buffer(cursor, param.ptr()) : nullptr;
        if (call.momentum() && !buffer) return false;
        call.add(param.ptr(), grad, buffer, false, int64_t(i), &turn);
        stepped.append(param);
      }
    }
    call.batch().check_overlap();
    return true;
  });
  if (!regular) return py::none();
  call.run(threads);
  turn.keep();
  return stepped;
}

// groups: [(params, grads, momentum_buffer_list or None, first, options, indices)]; first[i]: buffer i holds
// no value yet; indices: see ArgumentLists.
void sgd(const std::string& function, const py::list& groups, int threads) {
  SgdCall call(function.c_str());
  for (size_t g = 0; g < groups.size(); ++g) {
    const py::tuple group = groups[g];
    call.open_group(group[4], group_number(groups, g));
    const ArgumentLists lists(function, group, call.momentum() ? 3 : 2, kNames);
    const auto first = py::cast<std::vector<bool>>(group[3]);
    for (int64_t i = 0; i < lists.size(); ++i) {
      PyObject* buffer = call.momentum() ? lists.item(2, i) : nullptr;
      call.add(lists.item(0, i), lists.item(1, i), buffer, call.momentum() && first.at(size_t(i)),
               lists.index(i), nullptr);
    }
  }
  call.batch().check_overlap();
  call.run(threads);
}

}  // namespace

void register_sgd(py::module_& module) {
  module.def("sgd_step", &sgd_step, py::arg("plan"), py::arg("state"), py::arg("groups"), py::arg("threads"));
  module.def("sgd", &sgd, py::arg("function"), py::arg("groups"), py::arg("threads"));
}

}  // namespace onepass
