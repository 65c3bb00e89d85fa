// layer.h - what the bindings of layers share: the tensors of one call, compared with its input, and the
// seed.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <variant>

#include "bind/core/overlap.h"
#include "bind/core/target.h"
#include "core/check.h"

namespace onepass {

// The start of the random draws: a number, a tensor that holds one, or a function that makes such a tensor.
using Seed = std::variant<uint64_t, pybind11::object>;

// Reads and checks the tensors of one call, the input first. None gives nullptr.
class LayerCall {
 public:
  // Throws TypeError unless the input is of floating point, ValueError unless there are kernels for its
  // device.
  LayerCall(const char* function, pybind11::handle input, int threads);

  const Target& target() const { return target_; }
  // Checks the input and all tensors that were read.
  void check_overlap();

  // A tensor that has the input's shape and strides. in_place: it may be the input itself.
  void* like_input(const char* list, pybind11::handle tensor, DType dtype, bool written,
                   bool in_place = false);
  // A dense tensor of numel elements of a dtype, by torch's name.
  void* part(const char* list, pybind11::handle tensor, const char* dtype, int64_t numel, bool written);
  // Memory for `needed` doubles. On the CPU the tensor may be None: then the call has its own.
  double* workspace(pybind11::handle tensor, int64_t needed);

  // Sets op.seed or op.device_seed, and returns the tensor, or None for a number. It is called when all
  // checks are done: a function advances its generator, which a rejected call must leave as it was.
  template <class Op>
  pybind11::object set_seed(Op& op, const Seed& seed) {
    if (const uint64_t* value = std::get_if<uint64_t>(&seed)) {
      op.seed = *value;
      return pybind11::none();
    }
    pybind11::object tensor = std::get<pybind11::object>(seed);
    if (PyCallable_Check(tensor.ptr())) tensor = tensor();
    OP_CHECK(!tensor.is_none(), TypeError, to_string(name("seed")),
             " must be a number or a tensor, got None");
    op.device_seed = static_cast<const int64_t*>(part("seed", tensor, "torch.int64", 1, false));
    return tensor;
  }

 protected:
  ArgumentName name(const char* list) const { return {function_, list}; }
  // Throws unless it is on the input's device, and writable if it is written.
  TensorView read(pybind11::handle tensor, const ArgumentName& where, bool written);
  // A dense tensor that was read already.
  void* part(const TensorView& view, const ArgumentName& where, int64_t numel, bool written);
  // Throws unless the dtype is `wanted`. like: which argument has that dtype, for the message.
  void expect(const TensorView& view, const ArgumentName& where, DType wanted, const char* like) const;

  const char* const function_;
  TensorReader reader_;
  TensorView input_;
  DType dtype_;
  Target target_;

 private:
  OverlapCheck overlap_;
  std::unique_ptr<double[]> own_workspace_;
  bool in_place_ = false;
};

}  // namespace onepass
