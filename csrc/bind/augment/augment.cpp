// augment.cpp - the binding of augment: images of one size or of many, masks, and the records of what becomes
// of them.

#include <string_view>

#include "bind/augment/arrays.h"
#include "bind/augment/check.h"
#include "bind/core/named.h"
#include "bind/core/scratch.h"
#include "bind/register.h"
#include "kernels/augment/stages.h"

namespace py = pybind11;

namespace onepass {
namespace augment_binding {

// What both functions share: the images of one call, its output and its records.
class Call {
 public:
  Call(const char* function, NamedArguments& arguments)
      : function_(function), arguments_(arguments), reader_(function) {}

  // Reads a tensor of images, or a list of them, each of `order`: "HWC", "CHW" or, for masks, "HW".
  void set_images(const char* list, std::string_view order) {
    list_ = list;
    order_ = order;
    const py::handle images = arguments_[list];
    if (PyList_Check(images.ptr()) || PyTuple_Check(images.ptr())) {
      const py::sequence items = py::reinterpret_borrow<py::sequence>(images);
      for (size_t i = 0; i < items.size(); ++i) {
        const py::object item = items[i];
        const ArgumentName name{function_, list, int64_t(i)};
        add_image(reader_.read(item, name), name, 0);
      }
    } else {
      const ArgumentName name{function_, list};
      add_batch(reader_.read(images, name), name);
    }
    OP_CHECK(!images_.empty(), ValueError, function_, ": ", list, " must hold an image, got none");
  }

  ArrayView set_output(bool is_mask, bool& channels_last) {
    const ArgumentName name{function_, "output"};
    const ArrayView view = reader_.read(arguments_["output"], name);
    OP_CHECK(!view.read_only, ValueError, to_string(name), " must be writable, got a read-only array");
    check_device(view, name);
    const int32_t ndim = is_mask ? 3 : 4;
    OP_CHECK(view.ndim == ndim && view.numel() > 0, ValueError, to_string(name), " must have the shape ",
             is_mask ? "(n, h, w)" : "(n, c, h, w)", ", got ", shape_name(view.shape, view.ndim));
    OP_CHECK(view.shape[0] == int64_t(images_.size()), ValueError, to_string(name), " must hold ",
             images_.size(), " images like ", list_, ", got ", view.shape[0]);
    OP_CHECK(is_mask || view.shape[1] == images_[0].channels, ValueError, to_string(name), " must have ",
             images_[0].channels, " channels like ", list_, ", got ", view.shape[1]);
    channels_last = !is_mask && !ArrayReader::is_contiguous(view);
    OP_CHECK(!channels_last || is_channels_last(view), ValueError, to_string(name),
             is_mask ? " must be contiguous" : " must be contiguous or channels_last", ", got strides ",
             shape_name(view.strides, view.ndim), " for shape ", shape_name(view.shape, view.ndim));
    OP_CHECK(!is_mask || ArrayReader::is_contiguous(view), ValueError, to_string(name),
             " must be contiguous, got strides ", shape_name(view.strides, view.ndim));
    add_overlap(view, name, true);
    return view;
  }

  // Throws unless there are kernels for the images' device.
  Target target() {
    check_has_kernels(device_, {function_, list_});
    allocate_ = arguments_.find("allocate");
    return target_of(device_, int(arguments_.integer("threads")), reader_.tensors());
  }
  // What a GPU needs: allocate(table, bytes) copies the table to the images' device, after what runs there
  // now, and gives it and that many bytes of memory there. fill(memory) writes the table.
  template <class Fill>
  DeviceMemory device_memory(int64_t table, int64_t workspace, const Fill& fill) {
    OP_CHECK(allocate_ && !allocate_.is_none(), TypeError, function_, ": allocate must be given for ", list_,
             " on ", device_name(device_), ", got none");
    const py::object filled =
        py::reinterpret_steal<py::object>(PyByteArray_FromStringAndSize(nullptr, Py_ssize_t(table)));
    if (!filled) throw py::error_already_set();
    fill(PyByteArray_AS_STRING(filled.ptr()));
    lent_ = allocate_(filled, workspace);
    OP_CHECK(PyTuple_Check(lent_.ptr()) && PyTuple_GET_SIZE(lent_.ptr()) == 2, TypeError, function_,
             ": allocate must return a table and a workspace, got ", Py_TYPE(lent_.ptr())->tp_name);
    DeviceMemory memory;
    memory.table = bytes_on_device(PyTuple_GET_ITEM(lent_.ptr(), 0), "table", table);
    memory.workspace = bytes_on_device(PyTuple_GET_ITEM(lent_.ptr(), 1), "workspace", workspace);
    return memory;
  }
  void check_end() {
    arguments_.check_end();
    overlap_.run();
  }

  const double* set_values(int64_t& count) {
    const py::handle values = arguments_["values"];
    const ArgumentName name{function_, "values"};
    const ArrayView view = reader_.read(values, name);
    count = view.numel();
    return reader_.records<double>(values, "values", count);
  }
  template <class Element>
  const Element* records(const char* list, int64_t count) {
    return reader_.records<Element>(arguments_[list], list, count);
  }
  // How many records each of `rows` has, from the array's size.
  template <class Element>
  int64_t records_each(const char* list, int64_t rows) {
    const ArgumentName name{function_, list};
    const ArrayView view = reader_.read(arguments_[list], name);
    const int64_t bytes = view.numel() * view.item, each = rows * int64_t(sizeof(Element));
    OP_CHECK(bytes % each == 0, ValueError, to_string(name), " must hold the same number of records of ",
             sizeof(Element), " bytes for each of ", rows, " rows, got ", bytes, " bytes");
    return bytes / each;
  }
  const Scratch<ImageView, Call>& images() const { return images_; }
  const dlpack::DLDataType& stored() const { return stored_; }
  int64_t item() const { return item_; }
  PixelType pixel_type(const dlpack::DLDataType& dtype, const ArgumentName& name) const {
    const bool one = dtype.lanes == 1;
    if (one && dtype.code == dlpack::kDLUInt && dtype.bits == 8) return PixelType::kUint8;
    if (one && dtype.code == dlpack::kDLFloat && dtype.bits == 32) return PixelType::kFloat32;
    if (one && dtype.code == dlpack::kDLFloat && dtype.bits == 16) return PixelType::kFloat16;
    if (one && dtype.code == dlpack::kDLBfloat && dtype.bits == 16) return PixelType::kBFloat16;
    throw TypeError(concat(to_string(name),
                           " must be torch.uint8, torch.float32, torch.float16 or torch.bfloat16, got ",
                           dtype.bits ? dtype_name(dtype) : std::string("another dtype")));
  }

 private:
  void check_device(const ArrayView& view, const ArgumentName& name) const {
    OP_CHECK(same_device(view.device, device_), ValueError, to_string(name), " must be on ",
             device_name(device_), " like ", list_, ", got ", device_name(view.device));
  }
  char* bytes_on_device(py::handle object, const char* list, int64_t bytes) {
    const ArgumentName name{function_, list};
    const ArrayView view = reader_.read(object, name);
    check_device(view, name);
    OP_CHECK(ArrayReader::is_contiguous(view) && view.numel() * view.item >= bytes, ValueError,
             to_string(name), " must hold ", bytes, " bytes one after the other, got shape ",
             shape_name(view.shape, view.ndim), " of ", view.item, " bytes each");
    return view.data;
  }

  void add_overlap(const ArrayView& view, const ArgumentName& name, bool written) {
    int64_t bytes;
    const TensorView extent = extent_of(view, bytes);
    overlap_.add(extent, bytes, written, name);
  }

  static bool is_channels_last(const ArrayView& view) {
    int64_t expected = 1;
    for (const int32_t d : {1, 3, 2, 0}) {
      if (view.shape[d] != 1 && view.strides[d] != expected) return false;
      expected *= view.shape[d];
    }
    return true;
  }

  void add_batch(const ArrayView& view, const ArgumentName& name) {
    const int32_t ndim = int32_t(order_.size()) + 1;
    OP_CHECK(view.ndim == ndim, ValueError, to_string(name), " must have ", ndim, " dimensions, N", order_,
             ", or be a list, got shape ", shape_name(view.shape, view.ndim));
    add_overlap(view, name, false);
    for (int64_t i = 0; i < view.shape[0]; ++i) {
      ArrayView image = view;
      image.data += i * view.strides[0] * view.item;
      image.ndim = ndim - 1;
      ++image.shape;
      ++image.strides;
      add_view(image, name, i);
    }
  }

  void add_image(const ArrayView& view, const ArgumentName& name, int64_t) {
    OP_CHECK(view.ndim == int32_t(order_.size()), ValueError, to_string(name), " must have ", order_.size(),
             " dimensions, ", order_, ", got shape ", shape_name(view.shape, view.ndim));
    add_overlap(view, name, false);
    add_view(view, name, name.index);
  }

  void add_view(const ArrayView& view, const ArgumentName& name, int64_t i) {
    OP_CHECK(view.numel() > 0, ValueError, to_string(name), " must have pixels, got shape ",
             shape_name(view.shape, view.ndim));
    const bool is_mask = order_ == "HW", channels_last = order_ == "HWC";
    const int d = order_ == "CHW" ? 1 : 0;  // of the rows
    ImageView& image = images_.emplace_back();
    image.data = view.data;
    image.height = view.shape[d];
    image.width = view.shape[d + 1];
    image.row = view.strides[d];
    image.column = view.strides[d + 1];
    image.channels = is_mask ? 1 : view.shape[channels_last ? 2 : 0];
    image.channel = is_mask ? 0 : view.strides[channels_last ? 2 : 0];
    constexpr int64_t kMost = 1 << 24;
    OP_CHECK(image.height <= kMost && image.width <= kMost, ValueError, to_string(name),
             " must have at most ", kMost, " rows and columns, got shape ",
             shape_name(view.shape, view.ndim));
    if (!is_mask) image.type = pixel_type(view.stored, name);
    if (i == 0) {
      stored_ = view.stored;
      item_ = view.item;
      device_ = view.device;
      return;
    }
    const ImageView& first = images_[0];
    OP_CHECK(view.stored.code == stored_.code && view.item == item_, TypeError, to_string(name), " must be ",
             dtype_name(stored_), " like the first, got ", dtype_name(view.stored));
    OP_CHECK(image.channels == first.channels, ValueError, to_string(name), " must have ", first.channels,
             " channels like the first, got ", image.channels);
    OP_CHECK(same_device(view.device, device_), ValueError, to_string(name), " must be on ",
             device_name(device_), " like the first, got ", device_name(view.device));
  }

  const char* function_;
  NamedArguments& arguments_;
  py::handle allocate_;
  py::object lent_;
  ArrayReader reader_;
  OverlapCheck overlap_;
  Scratch<ImageView, Call> images_;
  const char* list_ = nullptr;
  std::string_view order_;
  dlpack::DLDataType stored_{};
  dlpack::DLDevice device_{dlpack::kDLCPU, 0};
  int64_t item_ = 0;
};

std::string_view order_of(const char* text) {
  const std::string_view layout = text ? text : "None";
  OP_CHECK(layout == "NHWC" || layout == "NCHW", ValueError,
           "augment: layout must be \"NHWC\" or \"NCHW\", got \"", layout, "\"");
  return layout == "NHWC" ? "HWC" : "CHW";
}

py::object augment(NamedArguments& arguments) {
  Call call("augment", arguments);
  call.set_images("images", order_of(arguments.text("layout")));
  Augment op{};
  const ArrayView output = call.set_output(false, op.channels_last);
  op.images = call.images().data();
  op.count = int64_t(call.images().size());
  op.channels = output.shape[1];
  op.height = output.shape[2];
  op.width = output.shape[3];
  op.output = output.data;
  op.stored = call.pixel_type(output.stored, {"augment", "output"});
  op.samples = call.records<ImageSample>("samples", op.count);
  op.pass_count = call.records_each<ImagePass>("passes", op.count);
  op.passes = call.records<ImagePass>("passes", op.count * op.pass_count);
  op.op_count = call.records_each<ImageOp>("ops", op.count * op.pass_count);
  op.ops = call.records<ImageOp>("ops", op.count * op.pass_count * op.op_count);
  op.values = call.set_values(op.value_count);
  const Target target = call.target();
  call.check_end();
  const RecordCheck check("augment", op.height, op.width, op.channels, op.value_count);
  for (int64_t i = 0; i < op.count; ++i) {
    check.sample(op.samples[i], i, op.count);
    check.passes(op.passes + i * op.pass_count, op.pass_count, i, op.images[i].height, op.images[i].width);
    for (int64_t p = 0; p < op.pass_count; ++p) {
      check.ops(op.ops + (i * op.pass_count + p) * op.op_count, op.op_count, i);
    }
  }
  StagePlan plan;
  if (target.on_gpu) {
    plan = StagePlan::make(op);
    op.device = call.device_memory(plan.table.bytes, plan.workspace, [&](char* to) { plan.fill(op, to); });
    op.device.plan = &plan;
  }
  py::gil_scoped_release release;
  target.kernels->augment(op, target.launch);
  return py::none();
}

// Elements are moved, not computed with.
void check_mask_records(const AugmentMasks& op) {
  for (int64_t i = 0; i < op.count; ++i) {
    const auto kind = Interpolation(int(op.passes[i].interpolation));
    OP_CHECK(PassKind(int(op.passes[i].kind)) == PassKind::kGather &&
                 (kind == Interpolation::kNearest || kind == Interpolation::kFloor),
             ValueError, "augment_masks: passes of sample ", i,
             " must be a gather with interpolation 0 or 2, got kind ", op.passes[i].kind,
             " with interpolation ", op.passes[i].interpolation);
    const ImageOp* ops = op.ops + i * op.op_count;
    for (int64_t k = 0; k < op.op_count && ops[k].kind != 0; ++k) {
      OP_CHECK(OpKind(int(ops[k].kind)) == OpKind::kBlend && ops[k].a[kBlendSoft] == 0, ValueError,
               "augment_masks: ops of sample ", i, " must be blends that are not soft, got kind ",
               ops[k].kind);
    }
  }
}

py::object augment_masks(NamedArguments& arguments) {
  Call call("augment_masks", arguments);
  call.set_images("masks", "HW");
  AugmentMasks op{};
  bool channels_last;
  const ArrayView output = call.set_output(true, channels_last);
  const int64_t item = call.item();
  OP_CHECK(call.stored().bits && (item == 1 || item == 2 || item == 4 || item == 8), TypeError,
           "augment_masks: masks must have elements of 1, 2, 4 or 8 bytes, got ", item);
  OP_CHECK(call.stored().code != dlpack::kDLFloat && call.stored().code != dlpack::kDLBfloat, TypeError,
           "augment_masks: masks must hold integers or bools, got ", dtype_name(call.stored()));
  OP_CHECK(output.item == item && output.stored.code == call.stored().code, TypeError,
           "augment_masks: output must be ", dtype_name(call.stored()), " like masks, got ",
           dtype_name(output.stored));
  op.masks = call.images().data();
  op.count = int64_t(call.images().size());
  op.bytes = item;
  op.output = output.data;
  op.height = output.shape[1];
  op.width = output.shape[2];
  op.passes = call.records<ImagePass>("passes", op.count);
  op.op_count = call.records_each<ImageOp>("ops", op.count);
  op.ops = call.records<ImageOp>("ops", op.count * op.op_count);
  op.values = call.set_values(op.value_count);
  const Target target = call.target();
  call.check_end();
  const RecordCheck check("augment_masks", op.height, op.width, 1, op.value_count);
  for (int64_t i = 0; i < op.count; ++i) {
    check.passes(op.passes + i, 1, i, op.masks[i].height, op.masks[i].width);
    check.ops(op.ops + i * op.op_count, op.op_count, i);
  }
  check_mask_records(op);
  if (target.on_gpu) {
    op.device = call.device_memory(masks_table(op).bytes, 0, [&](char* to) { fill_masks_table(op, to); });
  }
  py::gil_scoped_release release;
  target.kernels->augment_masks(op, target.launch);
  return py::none();
}

}  // namespace augment_binding

void register_augment(py::module_& module) {
  using namespace augment_binding;
  NamedFunction<&augment>::define(module, "augment");
  NamedFunction<&augment_masks>::define(module, "augment_masks");
}

}  // namespace onepass
