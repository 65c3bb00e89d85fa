// test_multi_tensor.cu - the optimizers' launchers (kernels/optim/sgd.cu, kernels/optim/adam.cu) over
// loops/tensors/multi_tensor.cuh: every bit that they write against a plain host loop over csrc/math, and
// every byte around it untouched.
//
// The host loop shares only the formula with the kernel, not the cutting into chunks, the peeling up to a
// 16-byte boundary, the tail or the table of tensors. With nvcc: -fmad=false, as in the package's build.
#include <cstring>
#include <string>

#include "harness.h"
#include "kernels/kernels.h"
#include "loops/tensors/multi_tensor.cuh"

namespace {

using onepass::DType;
using Bytes = std::vector<unsigned char>;

constexpr DType kF32 = DType::kFloat32, kF64 = DType::kFloat64, kBF16 = DType::kBFloat16,
                kF16 = DType::kFloat16;

// Guard bytes before and after each tensor. The address sanitizer has its own after each allocation, and also
// sees reads.
#if SIMT_ASAN
constexpr size_t kGuard = 0;
#else
constexpr size_t kGuard = 48;
#endif
constexpr unsigned char kGuardByte = 0xA5;

// The tolerance for rules made on the device: a GPU's pow differs from the host's. All else is exact
// everywhere.
#ifdef __CUDACC__
constexpr double kMadeThere = 1e-6;
#else
constexpr double kMadeThere = 0;
#endif

enum class Op { kSgd, kMomentum, kAdam, kAmsGrad };

int lists_of(Op op) { return 2 + int(op); }
bool is_sgd(Op op) { return op == Op::kSgd || op == Op::kMomentum; }

double decode(DType dtype, const unsigned char* from) {
  float f;
  double d;
  __half h;
  __nv_bfloat16 b;
  switch (dtype) {
    case kF32:
      return std::memcpy(&f, from, sizeof f), f;
    case kF64:
      return std::memcpy(&d, from, sizeof d), d;
    case kBF16:
      std::memcpy(static_cast<void*>(&b), from, sizeof b);
      return __bfloat162float(b);
    case kF16:
      break;
  }
  std::memcpy(static_cast<void*>(&h), from, sizeof h);
  return __half2float(h);
}

// Rounds to nearest even, halves from float: where the arithmetic is float, value is one.
void encode(DType dtype, double value, unsigned char* to) {
  const float f = float(value);
  const __half h = __float2half_rn(f);
  const __nv_bfloat16 b = __float2bfloat16_rn(f);
  const void* from = dtype == kF32 ? &f : dtype == kF64 ? static_cast<const void*>(&value) : &h;
  std::memcpy(to, dtype == kBF16 ? &b : from, size_t(onepass::size_of(dtype)));
}

// One tensor in device memory, `shift` elements past a 16-byte boundary, with guards around it.
struct Memory {
  DType dtype;
  size_t first;  // byte of element 0
  Bytes bytes;   // what the memory has to hold
  Dev<unsigned char> device;

  static size_t begin(DType dtype, int shift) { return kGuard + size_t(shift * onepass::size_of(dtype)); }

  static Bytes filled(DType dtype, int shift, const std::vector<float>& values) {
    const size_t size = size_t(onepass::size_of(dtype));
    Bytes bytes(begin(dtype, shift) + values.size() * size + kGuard, kGuardByte);
    for (size_t i = 0; i < values.size(); ++i)
      encode(dtype, values[i], &bytes[begin(dtype, shift) + i * size]);
    return bytes;
  }

  Memory(DType dtype_, int shift, const std::vector<float>& values)
      : dtype(dtype_), first(begin(dtype_, shift)), bytes(filled(dtype_, shift, values)), device(bytes) {}

  unsigned char* element(int64_t i) { return bytes.data() + first + size_t(i * onepass::size_of(dtype)); }
  double get(int64_t i) { return decode(dtype, element(i)); }
  void set(int64_t i, double value) { encode(dtype, value, element(i)); }
  void* address() const { return device.get() + first; }
};

// Elements past a 16-byte boundary, for the parameter and for its other lists.
struct Shape {
  int64_t numel;
  int shift = 0;
  int others = 0;
  int64_t rule = 0;
};

struct Dtypes {
  const char* name;
  DType param, grad, state;
};

struct Rules {
  std::vector<onepass::RuleStep<onepass::math::SgdOptions>> sgd;
  std::vector<onepass::RuleStep<onepass::math::AdamOptions>> adam;
};

// Three rules that share no value, each with other switches.
Rules host_rules() {
  Rules rules;
  for (const onepass::math::SgdOptions& options : {onepass::math::SgdOptions{0.1, 0.9, 0.0, 0.01},
                                                   {0.03, 0.7, 0.25, 0.0, false, true},
                                                   {0.5, 0.6, 0.0, 0.2, true, false, true}}) {
    rules.sgd.emplace_back().options = options;
  }
  for (const onepass::math::AdamOptions& options :
       {onepass::math::AdamOptions{0.1, 0.9, 0.999, 1e-8, 0.01, true},
        {0.02, 0.3, 0.9, 1e-3, 0.1, false, true},
        {0.004, 0.8, 0.95, 1e-5}}) {
    rules.adam.emplace_back().options = options;
  }
  rules.adam[1].step = 7;
  rules.adam[2].step = 1000;
  return rules;
}

// The update of one tensor, element by element.
template <class Rule, class T>
void update_host(const Rule& rule, std::vector<Memory>& lists, int64_t numel) {
  for (int64_t i = 0; i < numel; ++i) {
    T x[onepass::kMaxLists];
    for (size_t k = 0; k < lists.size(); ++k) x[k] = T(lists[k].get(i));
    if constexpr (Rule::kStates == 0) rule(x[0], x[1]);
    if constexpr (Rule::kStates == 1) rule(x[0], x[1], x[2]);
    if constexpr (Rule::kStates == 2) rule(x[0], x[1], x[2], x[3]);
    if constexpr (Rule::kStates == 3) rule(x[0], x[1], x[2], x[3], x[4]);
    for (size_t k = 0; k < lists.size(); ++k) {
      if (k != size_t(onepass::kGrad)) lists[k].set(i, x[k]);
    }
  }
}

template <class T>
void update_host(Op op, const Rules& rules, int64_t index, std::vector<Memory>& lists, int64_t numel) {
  using namespace onepass::math;
  const auto& sgd = rules.sgd[size_t(index)].options;
  const auto& adam = rules.adam[size_t(index)];
  switch (op) {
    case Op::kSgd:
      return update_host<Sgd<T>, T>(Sgd<T>::make(sgd, 1), lists, numel);
    case Op::kMomentum:
      return update_host<SgdMomentum<T>, T>(SgdMomentum<T>::make(sgd, 1), lists, numel);
    case Op::kAdam:
      return update_host<Adam<T>, T>(Adam<T>::make(adam.options, adam.step), lists, numel);
    case Op::kAmsGrad:
      return update_host<AmsGrad<T>, T>(AmsGrad<T>::make(adam.options, adam.step), lists, numel);
  }
}

using Tensors = std::vector<std::vector<Memory>>;

Tensors make_tensors(Op op, const Dtypes& dtypes, const std::vector<Shape>& shapes, unsigned seed) {
  Tensors tensors;
  for (const Shape& shape : shapes) {
    std::vector<Memory>& lists = tensors.emplace_back();
    lists.reserve(size_t(lists_of(op)));
    for (int k = 0; k < lists_of(op); ++k) {
      std::vector<float> values = random_floats(size_t(shape.numel), seed++);
      // Second moments are squares.
      if (k > onepass::kFirstState) {
        for (float& value : values) value *= value;
      }
      const DType dtype = k == onepass::kParam  ? dtypes.param
                          : k == onepass::kGrad ? dtypes.grad
                                                : dtypes.state;
      lists.emplace_back(dtype, k == onepass::kParam ? shape.shift : shape.others, values);
    }
  }
  return tensors;
}

void launch(Op op, const Dtypes& dtypes, Tensors& tensors, const std::vector<Shape>& shapes,
            const Rules& rules) {
  std::vector<onepass::TensorItem> items;
  int64_t begin = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    onepass::TensorItem item{{}, shapes[i].numel, begin, shapes[i].rule};
    for (size_t k = 0; k < tensors[i].size(); ++k) item.list[k] = tensors[i][k].address();
    begin += item.numel;
    items.push_back(item);
  }
  onepass::TensorList list{items.data(), int64_t(items.size()), begin, {dtypes.param, dtypes.grad}};
  for (int k = onepass::kFirstState; k < onepass::kMaxLists; ++k) list.dtype[k] = dtypes.state;
  if (is_sgd(op)) {
    onepass::cuda::sgd(list, rules.sgd.data(), op == Op::kMomentum, {}, {});
  } else {
    onepass::cuda::adam(list, rules.adam.data(), op == Op::kAmsGrad, {}, {});
  }
}

// Compares whole allocations, elements and guards, to the bit where tolerance is 0.
void check_memory(Memory& want, const Shape& shape, double tolerance, const std::string& where) {
  Bytes got = want.device.host();
  const size_t size = size_t(onepass::size_of(want.dtype));
  for (int64_t i = 0; tolerance > 0 && i < shape.numel; ++i) {
    unsigned char* from = &got[want.first + size_t(i) * size];
    if (close(decode(want.dtype, from), want.get(i), tolerance)) std::memcpy(from, want.element(i), size);
  }
  size_t at = 0;
  while (at < got.size() && got[at] == want.bytes[at]) ++at;
  const bool inside = at >= want.first && at < want.first + size_t(shape.numel) * size;
  const int64_t element = (int64_t(at) - int64_t(want.first)) / int64_t(size);
  CHECK(at == got.size(), "%s of %lld (shift %d, others %d): byte %lld, %s %lld: got %g, want %g",
        where.c_str(), static_cast<long long>(shape.numel), shape.shift, shape.others,
        static_cast<long long>(at), inside ? "element" : "outside, element", static_cast<long long>(element),
        inside ? decode(want.dtype, &got[want.first + size_t(element) * size]) : 0.,
        inside ? want.get(element) : 0.);
}

// `launched` may hold device scalars; `meant` holds the values they stand for.
void check_step(Op op, const Dtypes& dtypes, const std::vector<Shape>& shapes, unsigned seed,
                const Rules& launched, const Rules& meant, double tolerance) {
  Tensors tensors = make_tensors(op, dtypes, shapes, seed);
  launch(op, dtypes, tensors, shapes, launched);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (dtypes.param == kF64) {
      update_host<double>(op, meant, shapes[i].rule, tensors[i], shapes[i].numel);
    } else {
      update_host<float>(op, meant, shapes[i].rule, tensors[i], shapes[i].numel);
    }
    for (size_t k = 0; k < tensors[i].size(); ++k) {
      const std::string where = std::string(dtypes.name) + ", op " + std::to_string(int(op)) + ", list " +
                                std::to_string(k) + " of tensor " + std::to_string(i);
      check_memory(tensors[i][k], shapes[i], tolerance, where);
    }
  }
}

void check_step(Op op, const Dtypes& dtypes, const std::vector<Shape>& shapes, unsigned seed) {
  check_step(op, dtypes, shapes, seed, host_rules(), host_rules(), 0);
}

int pack_of(const Dtypes& dtypes) { return onepass::gpu::kPackBytes / int(onepass::size_of(dtypes.param)); }

// All lengths up to two packs and one element, at every place in a pack, the other lists in step or not.
void check_lengths(Op op, const Dtypes& dtypes, unsigned seed) {
  const int pack = pack_of(dtypes);
  std::vector<Shape> shapes;
  for (int shift = 0; shift < pack; ++shift) {
    for (int numel = 0; numel <= 2 * pack + 1; ++numel) {
      const int others = (numel + int(seed)) % 3 == 0 ? (shift + 1) % pack : shift;
      shapes.push_back({numel, shift, others, int64_t(shapes.size() % 3)});
    }
  }
  check_step(op, dtypes, shapes, seed);
}

// Lengths around one and two chunks, and with enough elements in the list for chunks that are longer.
void check_chunks(Op op, const Dtypes& dtypes, int64_t elements, unsigned seed) {
  const int pack = pack_of(dtypes);
  int processors = onepass::multiprocessor_count(0);
  const int64_t unit = int64_t(onepass::gpu::kThreads) * pack;
  std::vector<Shape> shapes;
  int64_t chunk = unit;
  for (int64_t numel : {int64_t(0), chunk - 1, chunk, chunk + 1, 2 * chunk - pack, 2 * chunk + 1, elements}) {
    const int shift = int(shapes.size() + seed) % pack;
    shapes.push_back({numel, shift, shapes.size() % 2 ? shift : 0, int64_t(shapes.size() % 3)});
  }
  int64_t total = 0;
  for (const Shape& shape : shapes) total += shape.numel;
  chunk = onepass::gpu::chunk_size(total, processors, pack);
#ifndef __CUDACC__
  CHECK((chunk > unit) == (elements > 0), "chunk %lld", static_cast<long long>(chunk));
#endif
  // The head belongs to the first chunk, so this ends on a boundary, or one element past it.
  for (int more : {0, 1}) shapes.push_back({pack - 1 + chunk + more, 1, 1, 0});
  check_step(op, dtypes, shapes, seed);
}

template <class Rule>
constexpr int capacity_of() {
  return onepass::gpu::Table<onepass::gpu::Slot<Rule, onepass::kFirstState + Rule::kStates>>::kCapacity;
}

// More tensors than a launch's table holds, empty ones among them, some in several chunks. At exactly one and
// exactly two full tables no launch may be left out or be empty.
void check_tables(Op op, const Dtypes& dtypes, int capacity, unsigned seed) {
  const int64_t long_numel = int64_t(onepass::gpu::kThreads) * pack_of(dtypes) + 3;
  for (int filled : {capacity - 1, capacity, capacity + 1, 2 * capacity}) {
    std::vector<Shape> shapes(2, Shape{0});
    for (int i = 0; i < filled; ++i) {
      if (i % capacity == 0 || i % 97 == 5) shapes.push_back({0});
      const bool is_long = i == 0 || i % capacity == capacity - 1 || i % 101 == 0;
      shapes.push_back({is_long ? long_numel : 1 + i % 3, i % 2, 0, i % 3});
    }
    shapes.push_back({0});
    check_step(op, dtypes, shapes, seed);
  }
}

// Learning rates and step counts in device memory, of both dtypes, next to rules that have none. What the
// host holds in their place is nan and must not be used.
void check_device_scalars(Op op, const Dtypes& dtypes, unsigned seed) {
  Rules meant = host_rules(), launched = meant;
  const Dev<float> lr_f32(std::vector<float>{0.125f}), step_f32(std::vector<float>{3.f});
  const Dev<double> lr_f64(std::vector<double>{0.3}), step_f64(std::vector<double>{12.});
  const onepass::DeviceScalar lr[] = {{lr_f32.get(), kF32}, {}, {lr_f64.get(), kF64}};
  const onepass::DeviceScalar step[] = {{}, {step_f32.get(), kF32}, {step_f64.get(), kF64}};
  meant.sgd[0].options.lr = meant.adam[0].options.lr = 0.125;
  meant.sgd[2].options.lr = meant.adam[2].options.lr = 0.3;
  meant.adam[1].step = 3;
  meant.adam[2].step = 12;
  for (size_t r = 0; r < 3; ++r) {
    launched.sgd[r].lr = launched.adam[r].lr = lr[r];
    launched.adam[r].device_step = step[r];
    if (lr[r].data) launched.sgd[r].options.lr = launched.adam[r].options.lr = double(NAN);
    if (step[r].data) launched.adam[r].step = double(NAN);
  }
  std::vector<Shape> shapes;
  for (int64_t numel : {1, 0, 5, 64, 1031, 2, 19, 2050}) {
    const int64_t i = int64_t(shapes.size());
    shapes.push_back({numel, int(i % 2), 0, i % 3});
  }
  check_step(op, dtypes, shapes, seed, launched, meant, is_sgd(op) ? 0 : kMadeThere);
  // One rule that the device makes, after a whole list of others: all are made there.
  for (size_t r = 0; r < 2; ++r) {
    launched.sgd[r] = meant.sgd[r];
    launched.adam[r] = meant.adam[r];
  }
  for (Shape& shape : shapes) shape.rule = &shape == &shapes.back() ? 2 : 1;
  check_step(op, dtypes, shapes, seed, launched, meant, is_sgd(op) ? 0 : kMadeThere);
}

// Every second float is updated; those between must stay. 4000 fit in one launch.
void check_increment(int count) {
  const std::vector<float> before = random_floats(size_t(2 * count), 7);
  const Dev<float> memory(before);
  std::vector<float*> counts;
  for (int i = count - 1; i >= 0; --i) counts.push_back(memory.get() + 2 * i);
  onepass::cuda::increment(counts.data(), count, nullptr, {});
  const std::vector<float> after = memory.host();
  for (size_t i = 0; i < after.size(); ++i) {
    const float want = i % 2 ? before[i] : before[i] + 1;
    CHECK(after[i] == want, "increment %d: %zu: got %g, want %g", count, i, after[i], want);
  }
}

void run_all(unsigned seed) {
  const Op ops[] = {Op::kSgd, Op::kMomentum, Op::kAdam, Op::kAmsGrad};
  const Dtypes stored[] = {{"f32", kF32, kF32, kF32},     {"f64", kF64, kF64, kF64},
                           {"bf16", kBF16, kBF16, kBF16}, {"bf16 and f32", kBF16, kBF16, kF32},
                           {"f16", kF16, kF16, kF16},     {"f16 and f32", kF16, kF16, kF32}};
  // Each op with each dtype of parameter and state, and in four orders with each dtype of gradient, too.
  unsigned turn = seed;
  for (Dtypes dtypes : stored) {
    for (DType grad : {kF32, kF64, kBF16, kF16}) {
      dtypes.grad = grad;
      check_lengths(ops[turn++ % 4], dtypes, seed);
    }
    ++turn;
    for (Op op : ops) check_chunks(op, dtypes, 0, seed);
  }
  check_chunks(Op::kMomentum, stored[1], 129 * 512, seed);
  for (Op op : ops) {
    for (int i : {0, 1}) check_device_scalars(op, stored[i], seed);
  }
  using namespace onepass::math;
  check_tables(Op::kSgd, stored[0], capacity_of<Sgd<float>>(), seed);
  check_tables(Op::kAmsGrad, stored[1], capacity_of<AmsGrad<double>>(), seed);
  check_step(Op::kAdam, stored[0], {}, seed);
  check_step(Op::kAdam, stored[0], std::vector<Shape>(3, Shape{0}), seed);
  for (int count : {0, 1, 257, 4000, 4001}) check_increment(count);
}

}  // namespace

int main() { return test_main(run_all); }
