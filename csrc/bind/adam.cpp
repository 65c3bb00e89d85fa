// adam.cpp - the binding of Adam, AdamW and AMSGrad: two ways in (see optim.h), one kernel call a device and
// dtype. The step counts are advanced here once everything is checked.

#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "bind/families.h"
#include "bind/optim.h"
#include "bind/tail.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Batch::ListNames kNames = {"params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "emas"};

class AdamCall {
 public:
  AdamCall(const char* function, py::handle tail) : batch_(function, kNames), tail_(tail, function) {
    if (tail_.tail().zero_grad) batch_.write_grads();
  }
  Batch& batch() { return batch_; }
  bool has_ema() const { return tail_.has_ema(); }

  // options: (lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay, capturable).
  void open_group(const py::tuple& options, int64_t number) {
    batch_.open_group(number);
    const char* function = batch_.function();
    OP_CHECK(options.size() == 9, ShapeError, function, ": options must have 9 entries, got ",
             options.size());
    lr_ = scalar_of(options[0], function, "lr", batch_.reader());
    group_ = {};
    group_.lr = lr_.device;
    group_.ema_decay = tail_.ema_decay();
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

  // row: the lists of the rule, and at kStepCount the step count.
  void add(PyObject* const* row, int64_t index, Plan::Turn* turn) {
    batch_.add(row, lists(), index, amsgrad_, turn);
    lr_.check_reaches(batch_.device(), batch_.function(), "lr");
    const TensorView& step = batch_.step_count();
    const ArgumentName name = batch_.name(kStepCount, index);
    const DType dtype = batch_.step_dtype();
    OP_CHECK(step.numel == 1 && size_of(dtype) >= 4, ShapeError, to_string(name),
             " must be one torch.float32 or torch.float64, got ", step.numel, " of ", name_of(dtype));
    const bool counts_there = tail_.may_skip() && uses_cuda_kernels(batch_.device());
    if (capturable_ || counts_there || step.device.device_type == dlpack::kDLCUDA) {
      check_device_step(step, dtype, name);
      open_rule({step.data, dtype}, 1);
      device_steps_.push_back({step.device, step.data});
    } else {
      const double taken = dtype == DType::kFloat32 ? *reinterpret_cast<const float*>(step.data)
                                                    : *reinterpret_cast<const double*>(step.data);
      OP_CHECK(taken >= 0 && taken < kInfinity, ShapeError, to_string(name),
               " must be finite and at least 0, got ", taken);
      if (!open_ || rules_.back().step != taken + 1) open_rule({}, taken + 1);
      host_steps_.push_back({step.data, dtype});
    }
    batch_.set_rule(int64_t(rules_.size()) - 1);
    batch_.complete();
  }

  // All must be checked by now. Returns as TailCall::run.
  int64_t run(int threads) {
    return tail_.run(batch_, rules_, threads, [&] {
      increment_device_steps(threads);
      run_family(batch_, threads,
                 [&](const TensorList& list, bool with_amsgrad, bool cuda, const Launch& launch) {
                   (cuda ? cuda::adam : cpu::adam)(list, rules_.data(), with_amsgrad, tail_.tail(), launch);
                 });
      count_host_steps();
    });
  }

 private:
  struct DeviceStep {
    dlpack::DLDevice device;
    void* count;
  };

  void count_host_steps() const {
    for (const DeviceScalar& step : host_steps_) {
      void* count = const_cast<void*>(step.data);
      if (step.dtype == DType::kFloat32) {
        *static_cast<float*>(count) += 1;
      } else {
        *static_cast<double*>(count) += 1;
      }
    }
  }

  // One launch a device, before the update reads the counts.
  void increment_device_steps(int threads) {
    std::vector<DeviceStep> left = device_steps_;
    while (!left.empty()) {
      const dlpack::DLDevice device = left.back().device;
      const auto here = [&](const DeviceStep& s) { return s.device.device_id == device.device_id; };
      std::vector<float*> counts;
      for (const DeviceStep& s : left) {
        if (here(s)) counts.push_back(static_cast<float*>(s.count));
      }
      cuda::increment(counts.data(), int64_t(counts.size()), tail_.tail().control,
                      launch_on(device, threads, batch_.reader()));
      left.erase(std::remove_if(left.begin(), left.end(), here), left.end());
    }
  }

  void open_rule(DeviceScalar device_step, double step) {
    rules_.push_back(group_);
    rules_.back().device_step = device_step;
    rules_.back().step = step;
    open_ = !device_step.data;
  }

  void check_device_step(const TensorView& step, DType dtype, const ArgumentName& name) const {
    const dlpack::DLDevice device = batch_.device();
    OP_CHECK(uses_cuda_kernels(device), ShapeError, to_string(batch_.name(kParam, name.index)),
             " must be on CUDA with ", capturable_ ? "capturable=True" : "its step count there", ", got ",
             device_name(device));
    OP_CHECK(step.device.device_type == device.device_type && step.device.device_id == device.device_id,
             ShapeError, to_string(name), " must be on ", device_name(device), " like its parameter, got ",
             device_name(step.device));
    OP_CHECK(dtype == DType::kFloat32, KindError, to_string(name), " must be torch.float32 on a device, got ",
             name_of(dtype));
  }

  Batch batch_;
  TailCall tail_;
  AdamStep group_;
  Scalar lr_;
  bool amsgrad_ = false;
  bool capturable_ = false;
  bool open_ = false;  // the last rule is of this group and counts on the host: it may serve the next tensor
  std::vector<AdamStep> rules_;
  Scratch<DeviceScalar, AdamCall> host_steps_;
  std::vector<DeviceStep> device_steps_;
};

// The states of a parameter, borrowed, in the order of the lists of the rule and at kStepCount the count;
// false if one is missing.
bool find_row(StateCursor& cursor, PyObject* param, bool amsgrad, bool ema, PyObject** row) {
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
  if (amsgrad) also(kLargest, kFirstState + 2);
  if (ema) also(ema_name(), kEma);
  PyObject* own = cursor.find(param);
  PyObject* states[5] = {};
  if (!own || !find_states(own, names, count, states)) return false;
  for (int k = 0; k < count; ++k) row[places[k]] = states[k];
  return true;
}

// groups: [(params, options)]; tail: see TailCall. Returns the parameters that were updated, or None if
// something is irregular, or how many doubles the workspace must have.
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
      call.open_group(group[1], group_number(groups, g));
      const py::list params = group[0];
      for (size_t i = 0; i < params.size(); ++i) {
        const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), Py_ssize_t(i)));
        PyObject* grad = grads.of(param.ptr());
        if (!grad) continue;
        PyObject* row[kRowSize] = {param.ptr(), grad};
        if (!find_row(cursor, param.ptr(), call.amsgrad(), call.has_ema(), row)) return false;
        call.add(row, int64_t(i), &turn);
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

// groups: [(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs or None, state_steps, emas or None,
// options, indices)]; indices: see ArgumentLists. Returns what AdamCall::run does.
int64_t adam(const std::string& function, const py::list& groups, const py::object& tail, int threads) {
  AdamCall call(function.c_str(), tail);
  for (size_t g = 0; g < groups.size(); ++g) {
    const py::tuple group = groups[g];
    call.open_group(group[7], group_number(groups, g));
    const ArgumentLists lists(function, group, call.lists(), kNames);
    const py::list steps = group[5];
    OP_CHECK(int64_t(steps.size()) == lists.size(), ShapeError, function, ": state_steps must have ",
             lists.size(), " entries like params, got ", steps.size());
    const EntryList emas(function, group[6], call.has_ema(), lists.size(), "emas");
    for (int64_t i = 0; i < lists.size(); ++i) {
      PyObject* row[kRowSize] = {};
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
