// augment_plan.cpp - the binding of the plan of a batch (kernels/augment/batch_plan.h). Called by
// onepass.augment alone: what a user gives is checked there.

#include <limits>

#include "bind/augment/numbers.h"
#include "bind/register.h"

namespace py = pybind11;

namespace onepass {
namespace plan_binding {

using Array = py::array_t<double>;

template <class Value, size_t kCount>
Value named(const char* function, const char* argument, std::string_view text,
            const std::pair<std::string_view, Value> (&known)[kCount]) {
  for (const auto& [name, value] : known) {
    if (name == text) return value;
  }
  throw ValueError(
      concat(function, ": ", argument, " must be a name that the plan knows, got \"", text, "\""));
}

constexpr std::pair<std::string_view, Filter> kFilters[] = {{"nearest", Filter::kNearest},
                                                            {"nearest-exact", Filter::kNearestExact},
                                                            {"bilinear", Filter::kBilinear},
                                                            {"bicubic", Filter::kBicubic}};
constexpr std::pair<std::string_view, Padding> kPaddings[] = {
    {"constant", {true, math::Border::kEdge}},
    {"edge", {false, math::Border::kEdge}},
    {"reflect", {false, math::Border::kReflect}},
    {"symmetric", {false, math::Border::kSymmetric}}};
constexpr std::pair<std::string_view, Mixing> kMixings[] = {{"mixup", Mixing::kMixup},
                                                            {"cutmix", Mixing::kCutmix}};
constexpr std::pair<std::string_view, double ImageSample::*> kMixed[] = {{"lam", &ImageSample::lam},
                                                                         {"left", &ImageSample::left},
                                                                         {"top", &ImageSample::top},
                                                                         {"right", &ImageSample::right},
                                                                         {"bottom", &ImageSample::bottom}};

BatchPlan make(int64_t count, py::handle heights, py::handle widths, int64_t channels, double unit,
               bool masks) {
  NumberReader reader("AugmentPlan", count);
  return {count, channels, unit, masks, reader.each(heights, "heights"), reader.each(widths, "widths")};
}

template <double SamplePlan::* kSide>
Array sizes(const BatchPlan& plan) {
  Array sides(plan.count());
  for (int64_t i = 0; i < plan.count(); ++i) sides.mutable_data()[i] = plan.sample(i).*kSide;
  return sides;
}

// (height, width) of the smallest sides.
py::tuple least(const BatchPlan& plan) {
  constexpr double kMost = std::numeric_limits<double>::infinity();
  double height = kMost, width = kMost;
  for (int64_t i = 0; i < plan.count(); ++i) {
    height = math::lesser(height, plan.sample(i).height);
    width = math::lesser(width, plan.sample(i).width);
  }
  return py::make_tuple(height, width);
}

// (height, width) where all samples have one size, else None.
py::object common(const BatchPlan& plan) {
  if (plan.count() == 0) return py::none();
  const SamplePlan& first = plan.sample(0);
  for (int64_t i = 1; i < plan.count(); ++i) {
    const SamplePlan& sample = plan.sample(i);
    if (sample.height != first.height || sample.width != first.width) return py::none();
  }
  return py::make_tuple(int64_t(first.height), int64_t(first.width));
}

// The share that each sample has of its mix.
Array shares(const BatchPlan& plan) {
  Array made(plan.count());
  for (int64_t i = 0; i < plan.count(); ++i) {
    const ImageSample& sample = plan.samples()[size_t(i)];
    made.mutable_data()[i] = sample.mixing == 0 ? 1 : sample.lam;
  }
  return made;
}

// What masks cannot have; the user's words, since only here it is known.
void check_masks(const BatchPlan& plan, const std::vector<double>& fill) {
  OP_CHECK(!plan.splits_masks(), ValueError,
           "Compose: masks must be made by one map; padding_mode must be 'constant' after a transform that "
           "samples or pads, got another one");
  OP_CHECK(!plan.masks || fill.size() < 2, ValueError, "Compose: fill must be one number with masks, got ",
           fill.size(), " numbers");
}

void crop(BatchPlan& plan, py::handle top, py::handle left, py::handle height, py::handle width,
          py::handle on) {
  NumberReader reader("AugmentPlan.crop", plan.count());
  plan.crop(reader.each(top, "top"), reader.each(left, "left"), reader.each(height, "height"),
            reader.each(width, "width"), reader.chosen(on));
  check_masks(plan, {});
}

void flip(BatchPlan& plan, int axis, py::handle on) {
  plan.flip(axis, NumberReader("AugmentPlan.flip", plan.count()).chosen(on));
  check_masks(plan, {});
}

void turn(BatchPlan& plan, py::handle quarters, py::handle on) {
  NumberReader reader("AugmentPlan.turn", plan.count());
  plan.turn(reader.each(quarters, "quarters"), reader.chosen(on));
  check_masks(plan, {});
}

void warp(BatchPlan& plan, py::handle matrix, bool linear, py::handle fill, py::handle on, py::handle size) {
  NumberReader reader("AugmentPlan.warp", plan.count());
  // A blend with 0 where there is no fill.
  const double power = fill.is_none() ? 0 : 2;
  const std::vector<double> values = fill.is_none() ? std::vector<double>{0.0} : reader.list(fill);
  Each height{}, width{};
  if (!size.is_none()) {
    const auto sides = py::reinterpret_borrow<py::tuple>(size);
    height = reader.each(sides[0], "size");
    width = reader.each(sides[1], "size");
  }
  plan.warp(reader.maps(matrix), linear, power, values, reader.chosen(on), size.is_none() ? nullptr : &height,
            size.is_none() ? nullptr : &width);
  check_masks(plan, values);
}

void pad(BatchPlan& plan, const py::sequence& sides, std::string_view mode, py::handle fill, py::handle on) {
  NumberReader reader("AugmentPlan.pad", plan.count());
  const std::vector<double> values = reader.list(fill);
  const Padding padding = named("AugmentPlan.pad", "mode", mode, kPaddings);
  const py::object left = sides[0], top = sides[1], right = sides[2], bottom = sides[3];
  const Each each[4] = {reader.each(left, "sides"), reader.each(top, "sides"), reader.each(right, "sides"),
                        reader.each(bottom, "sides")};
  const bool filled = plan.pad(each, padding, values, reader.chosen(on));
  check_masks(plan, filled ? values : std::vector<double>());
}

void resize(BatchPlan& plan, py::handle height, py::handle width, std::string_view interpolation,
            bool antialias, py::handle on) {
  NumberReader reader("AugmentPlan.resize", plan.count());
  const Filter filter = named("AugmentPlan.resize", "interpolation", interpolation, kFilters);
  plan.resize(reader.each(height, "height"), reader.each(width, "width"), filter, antialias,
              reader.chosen(on));
  check_masks(plan, {});
}

void op(BatchPlan& plan, py::handle kind, const py::sequence& a, py::handle on, py::handle level,
        py::handle values) {
  if (plan.masks) return;
  NumberReader reader("AugmentPlan.op", plan.count());
  constexpr size_t kMost = sizeof(ImageOp::a) / sizeof(double);
  OP_CHECK(a.size() <= kMost, ValueError, "AugmentPlan.op: a must have at most ", kMost, " parameters, got ",
           a.size());
  std::vector<py::object> held;
  std::vector<Each> parameters;
  for (const py::handle number : a) {
    held.push_back(py::reinterpret_borrow<py::object>(number));
    parameters.push_back(reader.each(number, "a"));
  }
  const std::vector<double> list = reader.list(values);
  const int64_t first = list.empty() ? 0 : plan.add_values(list);
  plan.add_op({reader.each(kind, "kind"), parameters.data(), int64_t(parameters.size()),
               reader.each(level, "level"), first},
              reader.chosen(on));
}

void mix(BatchPlan& plan, std::string_view kind, py::handle on, const py::kwargs& fields) {
  NumberReader reader("AugmentPlan.mix", plan.count());
  const Chosen chosen = reader.chosen(on);
  plan.mix(named("AugmentPlan.mix", "kind", kind, kMixings), chosen);
  for (const auto& [name, value] : fields) {
    const auto field = named("AugmentPlan.mix", "field", name.cast<std::string_view>(), kMixed);
    plan.set_mixed(field, reader.each(value, "field"), chosen);
  }
}

// An array that owns what a vector holds.
template <class Record>
Array lent(std::vector<Record> records, std::vector<Py_ssize_t> shape) {
  auto* held = new std::vector<Record>(std::move(records));
  const py::capsule owner(held, [](void* memory) { delete static_cast<std::vector<Record>*>(memory); });
  shape.push_back(Py_ssize_t(sizeof(Record) / sizeof(double)));
  return Array(shape, reinterpret_cast<const double*>(held->data()), owner);
}

// Arrays of float64: samples (n, 7), passes (n, P, 19), operations (n, P, K, 16), values.
py::tuple records(const BatchPlan& plan) {
  std::vector<ImagePass> passes = plan.passes();
  int64_t op_count = 0;
  std::vector<ImageOp> ops = plan.ops(passes, op_count);
  const Py_ssize_t count = plan.count(), each = plan.pass_count();
  std::vector<double> values = plan.values();
  if (values.empty()) values.push_back(0);
  const auto value_count = Py_ssize_t(values.size());
  return py::make_tuple(lent(plan.samples(), {count}), lent(std::move(passes), {count, each}),
                        lent(std::move(ops), {count, each, op_count}), Array(value_count, values.data()));
}

py::tuple fills(const BatchPlan& plan) {
  py::tuple numbers(plan.values().size());
  for (size_t k = 0; k < plan.values().size(); ++k) numbers[k] = py::float_(plan.values()[k]);
  return numbers;
}

}  // namespace plan_binding

void register_augment_plan(py::module_& module) {
  using namespace plan_binding;
  using py::arg;
  py::class_<BatchPlan>(module, "AugmentPlan", py::module_local())
      .def(py::init(&make), arg("n"), arg("heights"), arg("widths"), arg("channels"), arg("unit") = 1.0,
           arg("masks") = false)
      .def_property_readonly("n", &BatchPlan::count)
      .def_property_readonly("channels", &BatchPlan::channels)
      .def_property_readonly("height", &sizes<&SamplePlan::height>)
      .def_property_readonly("width", &sizes<&SamplePlan::width>)
      .def_property_readonly("least", &least)
      .def_property_readonly("common", &common)
      .def_readwrite("unit", &BatchPlan::unit)
      .def_readonly("masks", &BatchPlan::masks)
      .def_property_readonly("fills", &fills)
      .def_property_readonly("shares", &shares)
      .def("crop", &crop, arg("top"), arg("left"), arg("height"), arg("width"), arg("on") = py::none())
      .def("flip", &flip, arg("axis"), arg("on"))
      .def("turn", &turn, arg("quarters"), arg("on"))
      .def("warp", &warp, arg("matrix"), arg("linear"), arg("fill"), arg("on") = py::none(),
           arg("size") = py::none())
      .def("pad", &pad, arg("sides"), arg("mode"), arg("fill"), arg("on") = py::none())
      .def("resize", &resize, arg("height"), arg("width"), arg("interpolation"), arg("antialias"),
           arg("on") = py::none())
      .def("op", &op, arg("kind"), arg("a") = py::tuple(), arg("on") = py::none(),
           arg("level") = int(Level::kPointwise), arg("values") = py::tuple())
      .def("mix", &mix, arg("kind"), arg("on"))
      .def("records", &records);
}

}  // namespace onepass
