#include "bind/optim/precision.h"

#include <string>

#include "bind/core/draw_places.h"
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
  static const Field kMode("mode"), kSeed("seed"), kFirst("first"), kPart("part"), kCoded("coded");
  const Record given(option, function, "precision");
  Precision precision;
  const auto mode = py::cast<std::string>(given.get(kMode));
  precision.coded = given.flag(kCoded);
  OP_CHECK(
      (mode == "nearest" && precision.coded) || mode == "stochastic" || mode == "kahan" || mode == "master",
      ValueError, function, ": precision.mode must be stochastic, kahan or master, got ", mode);
  precision.mode = mode == "nearest"      ? Precision::Mode::kNearest
                   : mode == "stochastic" ? Precision::Mode::kStochastic
                   : mode == "kahan"      ? Precision::Mode::kKahan
                                          : Precision::Mode::kMaster;
  precision.seed = py::cast<uint64_t>(given.get(kSeed));
  precision.first = py::cast<int64_t>(given.get(kFirst));
  const py::object part = given.get(kPart);
  if (!part.is_none()) precision.part = draw_places_of(part, function, "precision.part");
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

Entry find_low(PyObject* own, Precision::Mode mode) {
  static const Field kKahan(low_name(Storage::kKahan)), kRemainder(low_name(Storage::kRemainder)),
      kMaster(low_name(Storage::kMaster));
  if (mode == Precision::Mode::kKahan) return dict_entry(own, kKahan.key());
  if (mode != Precision::Mode::kMaster) return {};
  Entry remainder = dict_entry(own, kRemainder.key());
  return remainder ? remainder : dict_entry(own, kMaster.key());
}

}  // namespace onepass
