// dropout.cpp - the binding of dropout: one function for all of its kinds, forward and backward.

#include <pybind11/stl.h>

#include <string>
#include <variant>
#include <vector>

#include "bind/optim.h"
#include "bind/overlap.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace {

using Seed = std::variant<uint64_t, py::object>;

// Product of the sizes of dimensions first .. last - 1.
int64_t product(const TensorView& view, int32_t first, int32_t last) {
  int64_t sizes = 1;
  for (int32_t d = first; d < last; ++d) sizes *= view.shape[d];
  return sizes;
}

// Whether memory holds dimensions [0, a), then [b, ndim), then [a, b).
bool lies_as(const TensorView& view, int32_t a, int32_t b) {
  int64_t expected = 1;
  const auto follows = [&](int32_t first, int32_t last) {
    for (int32_t d = last - 1; d >= first; --d) {
      if (view.shape[d] == 1) continue;
      if (view.strides && view.strides[d] != expected) return false;
      expected *= view.shape[d];
    }
    return true;
  };
  return follows(a, b) && follows(b, view.ndim) && follows(0, a);
}

class Call {
 public:
  Call(const py::object& x, const py::object& y, bool planes, bool shared) {
    const ArgumentName where = name("x");
    x_ = reader_.read(x.ptr(), where);
    op_.dtype = float_dtype(x_, where);
    OP_CHECK(x_.device.device_type == dlpack::kDLCPU || uses_cuda_kernels(x_.device), ShapeError,
             to_string(where), " must be on cpu or cuda, got ", device_name(x_.device));
    op_.places.planes = planes;
    op_.places.shared = shared;
    set_shape(where);
    op_.x = x_.data;
    op_.y = like_x("y", y, true);
    if (op_.y != op_.x) overlap_.add(x_, bytes(), false, where);
  }

  DropoutCall& op() { return op_; }
  bool is_empty() const { return x_.numel == 0; }
  bool cuda() const { return uses_cuda_kernels(x_.device); }
  Launch launch(int threads) { return launch_on(x_.device, threads, reader_); }
  void check_overlap() { overlap_.run(); }

  // A tensor that has x's shape, dtype and strides.
  void* like_x(const char* list, const py::object& tensor, bool written) {
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    const DType dtype = float_dtype(view, where);
    OP_CHECK(dtype == op_.dtype, KindError, to_string(where), " must be ", name_of(op_.dtype),
             " like input, got ", name_of(dtype));
    OP_CHECK(same_shape(view, x_), ShapeError, to_string(where), " must have input's shape ",
             shape_name(x_.shape, x_.ndim), ", got ", shape_name(view.shape, view.ndim));
    OP_CHECK(same_strides(view, x_), ShapeError, to_string(where),
             " must have input's strides, got other ones");
    overlap_.add(view, bytes(), written, where);
    return view.data;
  }

  void set_terms(double p, const std::string& scaling, bool gradient) {
    OP_CHECK(p >= 0 && p <= 1, ShapeError, "dropout: p must be from 0 to 1, got ", p);
    op_.p = p;
    op_.terms = math::dropout_terms(p, scaling_of(scaling), gradient);
    OP_CHECK(!op_.residual || !op_.terms.is_affine(), ShapeError,
             "dropout: residual must be None with scaling=\"alpha\", got one");
  }

  void set_seed(const Seed& seed) {
    if (const uint64_t* value = std::get_if<uint64_t>(&seed)) {
      op_.seed = *value;
      return;
    }
    const TensorView view = plain("seed", std::get<py::object>(seed), "torch.int64", 1, false);
    op_.device_seed = reinterpret_cast<const int64_t*>(view.data);
  }

  void set_table(const py::object& table) {
    OP_CHECK(op_.places.has_table() != table.is_none(), ShapeError,
             "dropout: table must be given if and only if planes or shared is True");
    if (table.is_none()) return;
    const int64_t draws = op_.places.draws();
    const TensorView view = plain("table", table, "torch.uint8", draws, true);
    overlap_.add(view, draws, true, name("table"));
    op_.places.table = reinterpret_cast<uint8_t*>(view.data);
  }

 private:
  static ArgumentName name(const char* list) { return {"dropout", list}; }
  int64_t bytes() const { return x_.numel * size_of(op_.dtype); }

  static math::Scaling scaling_of(const std::string& name) {
    if (name == "inverted") return math::Scaling::kInverted;
    if (name == "test_time") return math::Scaling::kTestTime;
    OP_CHECK(name == "alpha", ShapeError,
             "dropout: scaling must be \"inverted\", \"test_time\" or \"alpha\", got \"", name, "\"");
    return math::Scaling::kAlpha;
  }

  void set_shape(const ArgumentName& where) {
    DropoutPlaces& places = op_.places;
    ChannelShape& shape = places.shape;
    const int32_t n = x_.ndim;
    const auto split = [&](int32_t a, int32_t b, bool last) {
      shape = {product(x_, 0, a), product(x_, a, b), product(x_, b, n), last};
    };
    if (places.planes) {
      OP_CHECK(n >= 2, ShapeError, to_string(where), " must have at least 2 dimensions, got ", n);
      if (lies_as(x_, n, n)) return split(1, 2, false);
      if (lies_as(x_, 1, 2)) return split(1, 2, true);
    } else if (places.shared) {
      OP_CHECK(n >= 1, ShapeError, to_string(where), " must have a dimension for the examples, got none");
      if (lies_as(x_, n, n)) return split(1, 1, false);
    } else {
      if (lies_as(x_, n, n)) return split(0, 0, false);
      for (int32_t a = 0; a < n; ++a) {
        for (int32_t b = a + 1; b < n; ++b) {
          if (lies_as(x_, a, b)) return split(a, b, true);
        }
      }
    }
    throw ShapeError(concat(to_string(where), " must be contiguous",
                            places.shared && !places.planes ? "" : " or channels last", ", got strides ",
                            shape_name(x_.strides, n), " for shape ", shape_name(x_.shape, n)));
  }

  TensorView read(const py::object& tensor, const ArgumentName& where, bool written) {
    const TensorView view = reader_.read(tensor.ptr(), where);
    OP_CHECK(view.device.device_type == x_.device.device_type && view.device.device_id == x_.device.device_id,
             ShapeError, to_string(where), " must be on ", device_name(x_.device), " like input, got ",
             device_name(view.device));
    OP_CHECK(!written || !view.read_only, ShapeError, to_string(where),
             " must be writable, got a read-only array");
    return view;
  }

  // `what`: torch's name of the type.
  TensorView plain(const char* list, const py::object& tensor, const char* what, int64_t numel,
                   bool written) {
    const ArgumentName where = name(list);
    const TensorView view = read(tensor, where, written);
    OP_CHECK(dtype_name(view.stored) == what, KindError, to_string(where), " must be ", what, ", got ",
             dtype_name(view.stored));
    OP_CHECK(view.numel == numel && is_dense(view), ShapeError, to_string(where), " must be dense and have ",
             numel, numel == 1 ? " element" : " elements", ", got ", view.numel);
    return view;
  }

  TensorReader reader_;
  OverlapCheck overlap_;
  TensorView x_;
  DropoutCall op_;
};

void dropout(const py::object& x, const py::object& y, const py::object& residual, double p,
             const std::string& scaling, bool gradient, const Seed& seed, bool planes, bool shared,
             const py::object& table, int threads) {
  Call call(x, y, planes, shared);
  DropoutCall& op = call.op();
  if (!residual.is_none()) op.residual = call.like_x("residual", residual, false);
  call.set_terms(p, scaling, gradient);
  call.set_seed(seed);
  call.set_table(table);
  call.check_overlap();
  if (call.is_empty()) return;
  const Launch launch = call.launch(threads);
  py::gil_scoped_release release;
  (call.cuda() ? cuda::dropout : cpu::dropout)(op, launch);
}

}  // namespace

void register_dropout(py::module_& module) {
  using py::arg;
  module.def("dropout", &dropout, arg("x"), arg("y"), arg("residual"), arg("p"), arg("scaling"),
             arg("gradient"), arg("seed"), arg("planes"), arg("shared"), arg("table"), arg("threads"));
}

}  // namespace onepass
