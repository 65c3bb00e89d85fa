// dropout.cpp - the binding of dropout: one function for all of its kinds, forward and backward.

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string_view>

#include "bind/core/draw_places.h"
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

class Call : public LayerCall {
 public:
  explicit Call(NamedArguments& arguments) : LayerCall("dropout", arguments, true) {
    op_.dtype = dtype_;
    op_.x = input_.data;
    op_.places.planes = arguments_.flag("planes");
    op_.places.shared = arguments_.flag("shared");
    set_shape(name("input"));
  }

  DropoutCall& op() { return op_; }
  bool is_empty() const { return input_.numel == 0; }

  void set_tensors() {
    op_.y = like_input("y", op_.dtype, Access::kWrite, true);
    OP_CHECK(op_.y, TypeError, "dropout: y must be a tensor, got None");
    op_.residual = like_input("residual", op_.dtype, Access::kRead);
  }

  void set_terms() {
    op_.p = arguments_.number("p");
    OP_CHECK(op_.p >= 0 && op_.p <= 1, ValueError, "dropout: p must be from 0 to 1, got ", op_.p);
    const math::Scaling scaling = scaling_of(arguments_.text("scaling"));
    op_.terms = math::dropout_terms(op_.p, scaling, arguments_.flag("gradient"));
    OP_CHECK(!op_.residual || !op_.terms.is_affine(), ValueError,
             "dropout: residual must be None with scaling=\"alpha\", got one");
  }

  // Where the draws are among those of the whole tensor: the first one, then sizes, then strides.
  void set_part() {
    const py::handle part = arguments_.find("part");
    if (!part || part.is_none()) return;
    DrawPlaces& of_whole = op_.places.of_whole;
    of_whole = draw_places_of(part, "dropout", "part");
    int64_t draws = 1;
    for (int k = 0; k < of_whole.count; ++k) draws *= of_whole.sizes[k];
    OP_CHECK(of_whole.count > 0 && draws == op_.places.draws(), ValueError, "dropout: part must have ",
             op_.places.draws(), " draws, got ", draws, " in ", of_whole.count, " dimensions");
    OP_CHECK(op_.places.has_table() || !op_.places.shape.channels_last, ValueError, to_string(name("input")),
             " must be contiguous with a part, got channels last");
  }

  void set_table() {
    const py::handle table = arguments_["table"];
    OP_CHECK(op_.places.has_table() != table.is_none(), ValueError,
             "dropout: table must be given if and only if planes or shared is True, got ",
             table.is_none() ? "None" : "one");
    if (table.is_none()) return;
    op_.places.table =
        static_cast<uint8_t*>(part("table", table, kUint8, op_.places.draws(), Access::kWrite));
  }

 private:
  static math::Scaling scaling_of(const char* name) {
    const std::string_view text = name ? name : "None";
    if (text == "inverted") return math::Scaling::kInverted;
    if (text == "test_time") return math::Scaling::kTestTime;
    OP_CHECK(text == "alpha", ValueError,
             "dropout: scaling must be \"inverted\", \"test_time\" or \"alpha\", got \"", text, "\"");
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

py::object dropout(NamedArguments& arguments) {
  Call call(arguments);
  DropoutCall& op = call.op();
  call.set_tensors();
  call.set_terms();
  call.set_table();
  call.set_part();
  const py::handle seed = arguments["seed"];
  call.check_end();
  py::object drawn = call.set_seed(op, seed);
  if (call.is_empty()) return drawn;
  call.run(&KernelTable::dropout, op);
  return drawn;
}

}  // namespace dropout_binding

void register_dropout(py::module_& module) {
  using namespace dropout_binding;
  NamedFunction<&dropout>::define(module, "dropout");
}

}  // namespace onepass
