#include "bind/core/tensor.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <unordered_map>

#include "bind/core/record.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

constexpr int kMaxDims = 64;  // torch's own limit

// Fills the caller's view field by field: a copy of the whole struct would stall on the narrow stores before
// it.
void fill(TensorView& view, const dlpack::DLTensor& t) {
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  view.ndim = t.ndim;
  view.shape = t.shape;
  view.strides = t.strides;
  view.stored = t.dtype;
  view.device = t.device;
  view.numel = 1;
  for (int32_t d = 0; d < t.ndim; ++d) view.numel *= t.shape[d];
  if (t.device.device_type == dlpack::kDLCUDAHost) view.device = {dlpack::kDLCPU, 0};
}

// The pending Python error as text, cleared.
std::string take_python_error() {
  py::error_already_set error;
  std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

// Wrapper subclasses (DTensor, FakeTensor, functional tensors) inherit DLPack from torch.Tensor but have no
// memory of their own. They are recognised by a __torch_dispatch__ other than torch's disabled one.
bool hides_its_memory(py::handle type) {
  py::object dispatch = py::getattr(type, "__torch_dispatch__", py::none());
  if (dispatch.is_none()) return false;
  const auto name = py::cast<std::string>(py::str(py::getattr(dispatch, "__name__", py::str(""))));
  return name != "_disabled_torch_dispatch_impl";
}

const dlpack::DLPackExchangeAPI* exchange_api_of(py::handle type) {
  py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  auto* api = static_cast<const dlpack::DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return api->version.major == 1 ? api : nullptr;
}

// Torch negates some views only when they are read: the imaginary part of a conjugated tensor. Its elements
// are not next to each other, so that only a view of one element passes as a dense tensor.
bool is_negated(PyObject* object) {
  static const Field kIsNeg("is_neg");
  const py::object answer =
      py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object, kIsNeg.key()));
  if (!answer) PyErr_Clear();
  return answer.ptr() == Py_True;
}

int64_t stride_of(const TensorView& view, int32_t d) {
  if (view.strides) return view.strides[d];
  int64_t stride = 1;
  for (int32_t k = d + 1; k < view.ndim; ++k) stride *= view.shape[k];
  return stride;
}

}  // namespace

std::string to_string(const ArgumentName& name) { return concat(name.function, ": ", place_of(name)); }

std::string place_of(const ArgumentName& name) {
  if (name.index < 0) return name.list;
  const std::string entry = concat(name.list, "[", name.index, "]");
  return name.group < 0 ? entry : concat("param_groups[", name.group, "].", entry);
}

const TensorReader::Producer& TensorReader::producer_of(PyObject* object, const ArgumentName& name) {
  // A class in this map is kept alive, so that no other class gets its address. Entries never move.
  static Guard guard;
  static std::unordered_map<PyTypeObject*, Producer> producers;
  PyTypeObject* type = Py_TYPE(object);
  if (last_ && last_->type == type) return *last_;
  {
    const std::lock_guard<Guard> hold(guard);
    const auto known = producers.find(type);
    if (known != producers.end()) return *(last_ = &known->second);
  }
  py::handle handle(reinterpret_cast<PyObject*>(type));
  OP_CHECK(!hides_its_memory(handle), TypeError, to_string(name), " must be a plain tensor, got ",
           type->tp_name, ", whose memory is not its own (for a DTensor pass its to_local())");
  const bool is_tensor = py::hasattr(handle, "__dlpack__");
  OP_CHECK(is_tensor, TypeError, to_string(name), " must be a torch.Tensor or a numpy.ndarray, got ",
           type->tp_name);
  const Producer producer{type, exchange_api_of(handle)};
  const std::lock_guard<Guard> hold(guard);
  // Another thread may have been faster.
  const auto [known, is_new] = producers.emplace(type, producer);
  if (is_new) Py_INCREF(type);
  return *(last_ = &known->second);
}

TensorView TensorReader::read(PyObject* object, const ArgumentName& name) {
  const Producer& producer = producer_of(object, name);
  TensorView view;
  if (producer.api) {
    dlpack::DLTensor tensor;
    if (producer.api->dltensor_from_py_object_no_sync(object, &tensor) != 0) {
      throw TypeError(
          concat(to_string(name), " must be a dense tensor with memory, got ", take_python_error()));
    }
    fill(view, tensor);
    OP_CHECK(view.numel != 1 || !is_negated(object), TypeError, to_string(name),
             " must hold its values as they are, got a view that negates its element (as of x.conj().imag)");
  } else {
    read_capsule(object, name, view);
  }
  OP_CHECK(view.data || view.numel == 0, ValueError, to_string(name), " must have memory, got ", view.numel,
           " elements whose storage is freed or was never there");
  return view;
}

void TensorReader::read_capsule(PyObject* object, const ArgumentName& name, TensorView& view) {
  py::object tensor = py::reinterpret_borrow<py::object>(object);
  py::object capsule;
  try {
    // torch exports no tensor that requires grad; its detached alias has the same memory.
    if (py::hasattr(tensor, "detach")) tensor = tensor.attr("detach")();
    py::dict versioned;
    versioned["max_version"] = py::make_tuple(1, 1);
    try {
      capsule = tensor.attr("__dlpack__")(**versioned);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      capsule = tensor.attr("__dlpack__")();  // a producer of DLPack 0.x
    }
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // KeyboardInterrupt is no complaint about the tensor
    const std::string text = error.what();
    throw TypeError(
        concat(to_string(name), " must be a dense writable tensor, got ", text.substr(0, text.find('\n'))));
  }
  kept_.push_back(capsule);
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    // The place of the other fields is only known for this major version.
    OP_CHECK(managed->version.major == 1, TypeError, to_string(name),
             " must be handed over by DLPack 1.x or older, got version ", managed->version.major);
    fill(view, managed->dl_tensor);
    view.read_only = managed->flags & dlpack::kReadOnlyFlag;
  } else {
    OP_CHECK(PyCapsule_IsValid(capsule.ptr(), "dltensor"), TypeError, to_string(name),
             " must be handed over by __dlpack__ as an unused DLPack capsule, got ",
             Py_TYPE(capsule.ptr())->tp_name);
    fill(view,
         static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->dl_tensor);
  }
  OP_CHECK(view.ndim <= kMaxDims, ValueError, to_string(name), " must have at most ", kMaxDims,
           " dimensions, got ", view.ndim);
}

void* TensorReader::current_stream(int device) {
  if (last_ && last_->api && last_->api->current_work_stream) {
    void* stream = nullptr;
    if (last_->api->current_work_stream(dlpack::kDLCUDA, device, &stream) != 0) {
      throw RuntimeError(concat("the current CUDA stream: ", take_python_error()));
    }
    return stream;
  }
  py::object stream = py::module_::import("torch.cuda").attr("current_stream")(device);
  return reinterpret_cast<void*>(py::cast<uintptr_t>(stream.attr("cuda_stream")));
}

DType float_dtype(const TensorView& view, const ArgumentName& name) {
  const auto [code, bits, lanes] = view.stored;
  if (lanes == 1 && code == dlpack::kDLFloat && bits == 32) return DType::kFloat32;
  if (lanes == 1 && code == dlpack::kDLFloat && bits == 64) return DType::kFloat64;
  if (lanes == 1 && code == dlpack::kDLFloat && bits == 16) return DType::kFloat16;
  if (lanes == 1 && code == dlpack::kDLBfloat && bits == 16) return DType::kBFloat16;
  throw TypeError(concat(to_string(name),
                         " must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, got ",
                         dtype_name(view.stored)));
}

std::string dtype_name(dlpack::DLDataType dtype) {
  static constexpr std::array<const char*, 7> kStems = {"int",    "uint",    "float", "opaque",
                                                        "bfloat", "complex", "bool"};
  if (dtype.code >= kStems.size())
    return concat("DLPack type ", int(dtype.code), " of ", int(dtype.bits), " bits");
  if (dtype.code == 6) return "torch.bool";
  return concat("torch.", kStems[dtype.code], int(dtype.bits));
}

std::string device_name(dlpack::DLDevice device) {
  if (device.device_type == dlpack::kDLCPU) return "cpu";
  if (device.device_type == dlpack::kDLCUDA) return concat("cuda:", device.device_id);
  return concat("DLPack device ", device.device_type);
}

std::string shape_name(const int64_t* sizes, int32_t ndim) {
  std::string text = "(";
  for (int32_t d = 0; d < ndim; ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
  return text + (ndim == 1 ? ",)" : ")");
}

bool is_dense(const TensorView& view) {
  if (!view.strides || view.numel <= 1) return true;
  std::array<std::pair<int64_t, int64_t>, kMaxDims> dims;  // stride, size
  int32_t count = 0;
  int64_t expected = 1;
  bool contiguous = true;
  for (int32_t d = view.ndim - 1; d >= 0; --d) {
    if (view.shape[d] == 1) continue;
    contiguous = contiguous && view.strides[d] == expected;
    expected *= view.shape[d];
    dims[count++] = {view.strides[d], view.shape[d]};
  }
  if (contiguous) return true;
  std::sort(dims.begin(), dims.begin() + count);
  expected = 1;
  for (int32_t k = 0; k < count; ++k) {
    if (dims[k].first != expected) return false;
    expected *= dims[k].second;
  }
  return true;
}

bool same_shape(const TensorView& a, const TensorView& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

bool same_strides(const TensorView& a, const TensorView& b) {
  if (a.numel <= 1) return true;
  for (int32_t d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != 1 && stride_of(a, d) != stride_of(b, d)) return false;
  }
  return true;
}

}  // namespace onepass
