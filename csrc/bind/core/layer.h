// layer.h - what the bindings of layers share: the tensors of one call, compared with its input, and the
// seed.
#pragma once

#include <memory>
#include <mutex>

#include "bind/core/named.h"
#include "bind/core/overlap.h"
#include "bind/core/target.h"
#include "core/check.h"

namespace onepass {

// What a kernel does with a tensor's memory.
enum class Access { kRead, kWrite };

// Reads and checks the tensors of one call by their names, the input first. None gives nullptr.
class LayerCall {
 public:
  // function: for messages. runs: kernels, by `threads`; else only sizes are asked for. Throws TypeError
  // unless the input is of floating point, ValueError unless there are kernels for its device.
  LayerCall(const char* function, NamedArguments& arguments, bool runs);

  const Target& target() const { return target_; }
  // To be called when all arguments are read: checks that there are no others, and what shares memory.
  void check_end();
  // Runs a kernel without the GIL. turn: held meanwhile, if the kernel writes what threads may share.
  template <class Kernel, class Op>
  void run(Kernel KernelTable::* kernel, const Op& op, std::mutex* turn = nullptr) const {
    pybind11::gil_scoped_release release;
    const auto hold = turn ? std::unique_lock<std::mutex>(*turn) : std::unique_lock<std::mutex>();
    (target_.kernels->*kernel)(op, target_.launch);
  }

  // A tensor that has the input's shape and strides. in_place: it may be the input itself.
  void* like_input(const char* list, DType dtype, Access access, bool in_place = false) {
    return like_input(list, arguments_[list], dtype, access, in_place);
  }
  // A dense tensor of numel elements.
  void* part(const char* list, dlpack::DLDataType dtype, int64_t numel, Access access) {
    return part(list, arguments_[list], dtype, numel, access);
  }
  // Memory for `needed` doubles. On the CPU it may be None: then the call has its own.
  double* workspace(int64_t needed);

  // Sets op.seed or op.device_seed, and returns the tensor, or None for a number. seed: a number, a tensor
  // that holds one, or a function that makes such a tensor. It is called when all checks are done: a function
  // advances its generator, which a rejected call must leave as it was.
  template <class Op>
  pybind11::object set_seed(Op& op, pybind11::handle seed) {
    if (PyLong_Check(seed.ptr())) {
      op.seed = PyLong_AsUnsignedLongLong(seed.ptr());
      if (op.seed == uint64_t(-1) && PyErr_Occurred()) {
        PyErr_Clear();
        throw ValueError(concat(to_string(name("seed")), " must be 0 to 2**64 - 1, got ",
                                pybind11::str(seed).cast<std::string>()));
      }
      return pybind11::none();
    }
    const bool draws = PyCallable_Check(seed.ptr());
    const pybind11::object tensor = draws ? seed() : pybind11::reinterpret_borrow<pybind11::object>(seed);
    OP_CHECK(!tensor.is_none(), TypeError, to_string(name("seed")),
             " must be a number or a tensor, got None");
    op.device_seed = static_cast<const int64_t*>(part("seed", tensor, kInt64, 1, Access::kRead));
    return tensor;
  }

 protected:
  static constexpr dlpack::DLDataType kInt64{dlpack::kDLInt, 64, 1};
  static constexpr dlpack::DLDataType kUint8{dlpack::kDLUInt, 8, 1};
  static constexpr dlpack::DLDataType kFloat32{dlpack::kDLFloat, 32, 1};
  static constexpr dlpack::DLDataType kFloat64{dlpack::kDLFloat, 64, 1};

  ArgumentName name(const char* list) const { return {function_, list}; }
  void* like_input(const char* list, pybind11::handle tensor, DType dtype, Access access, bool in_place);
  void* part(const char* list, pybind11::handle tensor, dlpack::DLDataType dtype, int64_t numel,
             Access access);
  // Throws unless it is on the input's device, and writable if it is written.
  TensorView read(pybind11::handle tensor, const ArgumentName& where, Access access);
  // A dense tensor that was read already.
  void* part(const TensorView& view, const ArgumentName& where, int64_t numel, Access access);
  // Throws unless the dtype is `wanted`. like: which argument has that dtype, for the message.
  void expect(const TensorView& view, const ArgumentName& where, DType wanted, const char* like) const;
  // Whether parameters may have this dtype: the input's, or float32 with a half precision one; and which
  // those are.
  bool goes_with_input(DType dtype) const;
  std::string dtypes_with_input() const;
  // Whether the input's memory has its dimensions in order: with the second one, of channels or classes,
  // moved to the end if `last`.
  bool lies_in_order(bool last) const;

  const char* const function_;
  NamedArguments& arguments_;
  TensorReader reader_;
  TensorView input_;
  DType dtype_;
  Target target_;

 private:
  OverlapCheck overlap_;
  std::unique_ptr<double[]> own_workspace_;
  bool in_place_ = false;
};

// Whether memory holds dimensions [0, a), then [b, ndim), then [a, b). Dimensions of size 1 do not matter.
bool lies_as(const TensorView& view, int32_t a, int32_t b);

}  // namespace onepass
