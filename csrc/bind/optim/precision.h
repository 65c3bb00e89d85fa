// precision.h - how an optimizer asks its parameters to be kept between steps, at the boundary.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/core/shared.h"
#include "bind/core/tensor.h"
#include "loops/tensors/tensor_list.h"
#include "math/draws.h"

namespace onepass {

// The options of one param group. They concern only what is narrower than float32.
struct Precision {
  enum class Mode { kNearest, kStochastic, kKahan, kMaster };
  Mode mode = Mode::kNearest;
  bool coded = false;  // states are kept in 8 bits (math/codes.h)
  uint64_t seed = 0;
  DrawPlaces part;    // that the group's parameters are of those by which draws are numbered
  int64_t first = 0;  // number of the group's first parameter among all of the optimizer

  bool has_low() const { return mode == Mode::kKahan || mode == Mode::kMaster; }
};

// option: None, or a record Precision (python/onepass/optim/_lists/records.py).
Precision precision_of(pybind11::handle option, const char* function);

// states: number of states, the first of which is of this dtype.
Storage storage_of(Precision::Mode mode, DType param, DType state, int states);

// Throws TypeError unless the list kLow has the dtype that this storage needs.
void check_low(const TensorView& low, Storage storage, DType param, const ArgumentName& name);

// What the list kLow is called in a parameter's state, and in messages.
constexpr const char* low_name(Storage storage) {
  switch (storage) {
    case Storage::kKahan:
      return "kahan_comp";
    case Storage::kRemainder:
      return "remainder";
    case Storage::kMaster:
      return "master_param";
    default:
      return "";
  }
}

// The entry of a parameter's state that is its list kLow; none, and false, if there is none.
Entry find_low(PyObject* own, Precision::Mode mode);

}  // namespace onepass
