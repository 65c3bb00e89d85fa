// dropout.cpp - the binding of dropout: one function for all of its kinds, forward and backward.

#include <pybind11/stl.h>

#include <string>

#include "bind/core/layer.h"
#include "bind/register.h"
#include "core/check.h"

namespace py = pybind11;

namespace onepass {
namespace dropout_binding {

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

class Call : public LayerCall {
 public:
  Call(const py::object& x, bool planes, bool shared, int threads) : LayerCall("dropout", x, threads) {
    op_.dtype = dtype_;
    op_.x = input_.data;
    op_.places.planes = planes;
    op_.places.shared = shared;
    set_shape(name("input"));
  }

  DropoutCall& op() { return op_; }
  bool is_empty() const { return input_.numel == 0; }

  void set_terms(double p, const std::string& scaling, bool gradient) {
    OP_CHECK(p >= 0 && p <= 1, ValueError, "dropout: p must be from 0 to 1, got ", p);
    op_.p = p;
    op_.terms = math::dropout_terms(p, scaling_of(scaling), gradient);
    OP_CHECK(!op_.residual || !op_.terms.is_affine(), ValueError,
             "dropout: residual must be None with scaling=\"alpha\", got one");
  }

  void set_table(const py::object& table) {
    OP_CHECK(op_.places.has_table() != table.is_none(), ValueError,
             "dropout: table must be given if and only if planes or shared is True, got ",
             table.is_none() ? "None" : "one");
    if (table.is_none()) return;
    op_.places.table = static_cast<uint8_t*>(part("table", table, "torch.uint8", op_.places.draws(), true));
  }

 private:
  static math::Scaling scaling_of(const std::string& name) {
    if (name == "inverted") return math::Scaling::kInverted;
    if (name == "test_time") return math::Scaling::kTestTime;
    OP_CHECK(name == "alpha", ValueError,
             "dropout: scaling must be \"inverted\", \"test_time\" or \"alpha\", got \"", name, "\"");
    return math::Scaling::kAlpha;
  }

  void set_shape(const ArgumentName& where) {
    DropoutPlaces& places = op_.places;
    ChannelShape& shape = places.shape;
    const int32_t n = input_.ndim;
    const auto split = [&](int32_t a, int32_t b, bool last) {
      shape = {product(input_, 0, a), product(input_, a, b), product(input_, b, n), last};
    };
    if (places.planes) {
      OP_CHECK(n >= 2, ValueError, to_string(where), " must have at least 2 dimensions, got ", n);
      if (lies_as(input_, n, n)) return split(1, 2, false);
      if (lies_as(input_, 1, 2)) return split(1, 2, true);
    } else if (places.shared) {
      OP_CHECK(n >= 1, ValueError, to_string(where), " must have a dimension for the examples, got none");
      if (lies_as(input_, n, n)) return split(1, 1, false);
    } else {
      if (lies_as(input_, n, n)) return split(0, 0, false);
      for (int32_t a = 0; a < n; ++a) {
        for (int32_t b = a + 1; b < n; ++b) {
          if (lies_as(input_, a, b)) return split(a, b, true);
        }
      }
    }
    throw ValueError(concat(to_string(where), " must be contiguous",
                            places.shared && !places.planes ? "" : " or channels last", ", got strides ",
                            shape_name(input_.strides, n), " for shape ", shape_name(input_.shape, n)));
  }

  DropoutCall op_;
};

py::object dropout(const py::object& x, const py::object& y, const py::object& residual, double p,
                   const std::string& scaling, bool gradient, const Seed& seed, bool planes, bool shared,
                   const py::object& table, int threads) {
  Call call(x, planes, shared, threads);
  DropoutCall& op = call.op();
  op.y = call.like_input("y", y, op.dtype, true, true);
  OP_CHECK(op.y, TypeError, "dropout: y must be a tensor, got None");
  op.residual = call.like_input("residual", residual, op.dtype, false);
  call.set_terms(p, scaling, gradient);
  call.set_table(table);
  call.check_overlap();
  py::object drawn = call.set_seed(op, seed);
  if (call.is_empty()) return drawn;
  py::gil_scoped_release release;
  call.target().kernels->dropout(op, call.target().launch);
  return drawn;
}

}  // namespace dropout_binding

void register_dropout(py::module_& module) {
  using namespace dropout_binding;
  using py::arg;
  module.def("dropout", &dropout, arg("x"), arg("y"), arg("residual"), arg("p"), arg("scaling"),
             arg("gradient"), arg("seed"), arg("planes"), arg("shared"), arg("table"), arg("threads"));
}

}  // namespace onepass
