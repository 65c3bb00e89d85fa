// families.h - parts of an optimizer family's step (family_call.h): hold the gradients, walk the explicit
// lists, run the buckets without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "bind/core/record.h"
#include "bind/core/without_gil.h"
#include "bind/optim/batch.h"
#include "bind/optim/optim.h"
#include "core/check.h"
#include "core/parallel.h"

namespace onepass {

// Runs what gathers a step from the optimizer's state. Returns false if gathering raised. The caller then
// takes the way of explicit lists, which finds the same error and reports it with the user's argument names.
template <class Gather>
bool is_regular(const Gather& gather) {
  try {
    return gather();
  } catch (pybind11::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // KeyboardInterrupt
    return false;
  } catch (const std::exception&) {
    return false;
  }
}

// is_regular(gather) on this thread, which has the GIL, while another looks whether the remembered states are
// where they were. False if they are not.
template <class Gather>
bool gather_while_checking(const Plan::Turn& turn, int threads, const Gather& gather) {
  struct Work {
    const Plan::Turn& turn;
    const Gather& gather;
    std::thread::id here = std::this_thread::get_id();
    std::atomic<bool> taken{false};
    bool unmoved = false, regular = false;
    std::exception_ptr error{};
  } work{turn, gather};
  const auto body = [](void* context) {
    Work& w = *static_cast<Work*>(context);
    if (std::this_thread::get_id() == w.here) {
      try {
        w.regular = is_regular(w.gather);
      } catch (...) {
        w.error = std::current_exception();
      }
    }
    // The other thread, or this one if that one comes too late or not at all.
    if (!w.taken.exchange(true)) w.unmoved = w.turn.states_unmoved();
  };
  parallel_run(turn.is_large() && threads > 1 ? 2 : 1, body, &work);
  if (work.error) std::rethrow_exception(work.error);
  return work.regular && work.unmoved;
}

// The parameters, gradients and states of a ListGroup (python/onepass/optim/_lists/records.py): lists of
// equal length.
class ArgumentLists {
 public:
  // names: of the first `count` lists; from kFirstState on they are the states'.
  ArgumentLists(const char* function, const Record& group, int count, const Batch::ListNames& names) {
    static const Field kStates("states"), kIndices("indices");
    indices_ = group.get(kIndices);
    const pybind11::object states = group.get(kStates);
    const Record named(states, function, "states");
    for (int k = 0; k < count; ++k) {
      const Field name(names[size_t(k)]);
      also(function, name.name(), (k < kFirstState ? group : named).get(name));
    }
  }
  // One more list, the next of item().
  void also(const char* function, const char* name, const pybind11::object& given) {
    OP_CHECK(PyList_Check(given.ptr()), TypeError, function, ": ", name, " must be a list, got ",
             Py_TYPE(given.ptr())->tp_name);
    lists_.push_back(given);
    const int64_t own = PyList_GET_SIZE(given.ptr());
    OP_CHECK(own == size(), ValueError, function, ": ", name, " must have ", size(),
             " entries like params, got ", own);
  }
  int64_t size() const { return PyList_GET_SIZE(lists_[0].ptr()); }
  // Where in its param group parameter i stands, for messages: those without a gradient are left out of the
  // lists.
  int64_t index(int64_t i) const {
    return indices_.is_none() ? i : pybind11::cast<int64_t>(indices_[pybind11::int_(i)]);
  }
  PyObject* item(int list, int64_t i) const {  // lists that run.py makes for one call
    return PyList_GET_ITEM(lists_[size_t(list)].ptr(), Py_ssize_t(i));
  }

 private:
  std::vector<pybind11::object> lists_;
  pybind11::object indices_;
};

// One more list of a group, as long as the others, where the call has it.
class EntryList {
 public:
  EntryList(const std::string& function, const pybind11::object& given, bool wanted, int64_t size,
            const char* name) {
    if (!wanted) return;
    OP_CHECK(PyList_Check(given.ptr()) && int64_t(PyList_GET_SIZE(given.ptr())) == size, ValueError, function,
             ": ", name, " must be a list of ", size, " entries like params, got ",
             PyList_Check(given.ptr()) ? concat("one of ", PyList_GET_SIZE(given.ptr()))
                                       : std::string(Py_TYPE(given.ptr())->tp_name));
    list_ = given;
  }
  // Borrowed; nullptr if the call has no such list, or None stands there.
  PyObject* item(int64_t i) const {
    PyObject* entry = list_ ? PyList_GET_ITEM(list_.ptr(), Py_ssize_t(i)) : Py_None;
    return entry == Py_None ? nullptr : entry;
  }

 private:
  pybind11::object list_;
};

// How messages number a group: not at all if it is the only one.
inline int64_t group_number(size_t groups, size_t group) { return groups > 1 ? int64_t(group) : -1; }

// Calls kernel(list, variant, target) for each bucket, without the GIL, and python() meanwhile. Targets are
// resolved first: a stream is asked for with the GIL.
template <class Kernel, class Python>
void run_family(Batch& batch, int threads, const Kernel& kernel, const Python& python) {
  std::vector<Target> targets;
  bool on_gpu = false;
  for (const dlpack::DLDevice device : batch.devices()) {
    targets.push_back(target_of(device, threads, batch.reader()));
    on_gpu = on_gpu || targets.back().on_gpu;
  }
  const auto kernels = [&] {
    batch.for_each_bucket([&](const TensorList& list, bool variant, dlpack::DLDevice device) {
      for (const Target& target : targets) {
        if (same_device(target.device, device)) kernel(list, variant, target);
      }
    });
  };
  run_without_gil(on_gpu, kernels, python);
}

}  // namespace onepass
