#include "bind/optim/precision.h"

#include <string>

#include "bind/core/record.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

bool is_half(DType dtype) { return size_of(dtype) == 2; }

bool is_stored(const TensorView& view, uint8_t code, uint8_t bits) {
  return view.stored.code == code && view.stored.bits == bits && view.stored.lanes == 1;
}

}  // namespace

Precision precision_of(py::handle option, const char* function) {
  if (option.is_none()) return {};
  static const Field kMode("mode"), kSeed("seed"), kFirst("first");
  const Record given(option, function, "precision");
  Precision precision;
  const auto mode = py::cast<std::string>(given.get(kMode));
  OP_CHECK(mode == "stochastic" || mode == "kahan" || mode == "master", ValueError, function,
           ": precision.mode must be stochastic, kahan or master, got ", mode);
  precision.mode = mode == "stochastic" ? Precision::Mode::kStochastic
                   : mode == "kahan"    ? Precision::Mode::kKahan
                                        : Precision::Mode::kMaster;
  precision.seed = py::cast<uint64_t>(given.get(kSeed));
  precision.first = py::cast<int64_t>(given.get(kFirst));
  given.check_read();
  return precision;
}

Storage storage_of(Precision::Mode mode, DType param, DType state, int states) {
  switch (mode) {
    case Precision::Mode::kNearest:
      break;
    case Precision::Mode::kStochastic:
      if (is_half(param) || (states > 0 && is_half(state))) return Storage::kStochastic;
      break;
    case Precision::Mode::kKahan:
      if (is_half(param)) return Storage::kKahan;
      break;
    case Precision::Mode::kMaster:
      if (is_half(param)) return param == DType::kBFloat16 ? Storage::kRemainder : Storage::kMaster;
      break;
  }
  return Storage::kNearest;
}

void check_low(const TensorView& low, Storage storage, DType param, const ArgumentName& name) {
  if (storage == Storage::kRemainder) {
    OP_CHECK(is_stored(low, dlpack::kDLInt, 16), TypeError, to_string(name), " must be torch.int16, got ",
             dtype_name(low.stored));
    return;
  }
  const DType wanted = storage == Storage::kMaster ? DType::kFloat32 : param;
  const DType dtype = float_dtype(low, name);
  OP_CHECK(dtype == wanted, TypeError, to_string(name), " must be ", name_of(wanted), ", got ",
           name_of(dtype));
}

const char* low_name(Storage storage) {
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

PyObject* find_low(PyObject* own, Precision::Mode mode) {
  static PyObject* const kKahan = PyUnicode_InternFromString(low_name(Storage::kKahan));
  static PyObject* const kRemainder = PyUnicode_InternFromString(low_name(Storage::kRemainder));
  static PyObject* const kMaster = PyUnicode_InternFromString(low_name(Storage::kMaster));
  const auto entry = [&](PyObject* name) {
    PyObject* found = PyDict_GetItemWithError(own, name);
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    return found;
  };
  if (mode == Precision::Mode::kKahan) return entry(kKahan);
  if (mode != Precision::Mode::kMaster) return nullptr;
  PyObject* remainder = entry(kRemainder);
  return remainder ? remainder : entry(kMaster);
}

}  // namespace onepass
