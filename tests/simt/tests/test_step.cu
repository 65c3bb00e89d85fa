// test_step.cu - the storages of half-precision parameters (loops/tensors/stored.cuh) and the statistics of a
// step (loops/tensors/measure.cuh): against a host loop over the same formulas.
#include <cmath>
#include <cstring>

#include "harness.h"
#include "kernels/kernels.h"
#include "math/draws.h"
#include "math/rounding.h"

namespace {

using onepass::DType;
using onepass::Storage;

const std::vector<size_t> kSizes = {1, 0, 3, 255, 4097, 519};
constexpr uint64_t kSeed = 0x0123456789abcdefull;
constexpr int kStep = 3;

uint16_t rounded(float value) {
  const __nv_bfloat16 stored = __float2bfloat16_rn(value);
  uint16_t bits;
  std::memcpy(&bits, static_cast<const void*>(&stored), sizeof bits);
  return bits;
}
float widened(uint16_t bits) { return onepass::float_of(uint32_t(bits) << 16); }

// One parameter's lists on the host: bfloat16 parameter, gradient and states, and 16 bits of list kLow.
struct Tensor {
  std::vector<uint16_t> param, grad, m, v, low;
};

Tensor random_tensor(size_t n, unsigned seed, Storage storage) {
  Tensor tensor;
  const auto fill = [&](std::vector<uint16_t>& list, unsigned which, bool positive) {
    for (const float value : random_floats(n, seed + which)) {
      list.push_back(rounded(positive ? std::fabs(value) : value));
    }
  };
  fill(tensor.param, 0, false);
  fill(tensor.grad, 1, false);
  fill(tensor.m, 2, false);
  fill(tensor.v, 3, true);
  for (size_t i = 0; i < n; ++i) {
    const bool remainder = storage == Storage::kRemainder;
    tensor.low.push_back(remainder ? uint16_t(i * 7919) : rounded(0x1p-12f * float(int(i % 7) - 3)));
  }
  return tensor;
}

onepass::RuleStep<onepass::math::AdamOptions> rule() {
  onepass::RuleStep<onepass::math::AdamOptions> step;
  step.options = {0.1, 0.9, 0.999, 1e-8, 0.01, true, false};
  step.step = kStep;
  step.seed = kSeed;
  return step;
}

uint32_t draw_of(uint32_t tensor, size_t i, int list) {
  const onepass::math::DrawPlace place = onepass::math::draw_place(int64_t(i) / 2);
  const auto words = onepass::math::draw_block({kSeed, kStep}, tensor, place.block);
  const uint32_t word = onepass::rotate_right(words.word[place.word], place.rotation);
  return onepass::rotate_right(word, onepass::math::list_rotation(list) + (i % 2 ? 16 : 0)) & 0xffffu;
}

float value_of(const Tensor& t, size_t i, Storage storage) {
  if (storage == Storage::kRemainder) return onepass::math::join(t.param[i], t.low[i]);
  const float stored = widened(t.param[i]), kept = widened(t.low[i]);
  if (storage != Storage::kKahan) return stored;
  // Some of the test's compensations are too large for their parameter.
  const uint16_t nearly = rounded(onepass::math::nearly_sum(stored, kept));
  return onepass::math::sum_or_stored(stored, kept, nearly, t.param[i]);
}

// Element i of the tensor after the step; adds what it contributes to the statistics.
void update(Tensor& t, size_t i, uint32_t number, Storage storage, onepass::math::Statistics& sum) {
  const auto step = onepass::math::Adam<float>::make(rule().options, kStep);
  const float before = value_of(t, i, storage), g = widened(t.grad[i]);
  float p = before, m = widened(t.m[i]), v = widened(t.v[i]);
  step(p, g, m, v);
  const bool stochastic = storage == Storage::kStochastic;
  const auto narrow = [&](float value, int list) {
    return stochastic ? onepass::math::stochastic_bfloat16(value, draw_of(number, i, list)) : rounded(value);
  };
  t.m[i] = narrow(m, 1);
  t.v[i] = narrow(v, 2);
  if (storage == Storage::kRemainder) {
    const auto both = onepass::math::split(p);
    t.param[i] = both.stored;
    t.low[i] = both.remainder;
  } else {
    t.param[i] = narrow(p, 0);
    if (storage == Storage::kKahan) {
      t.low[i] = rounded(onepass::math::residue(p, widened(t.param[i])));
    }
  }
  const double after = value_of(t, i, storage), change = after - double(before);
  sum = onepass::math::merge(
      sum, {double(g) * g, after * after, change * change, 0, float(after) == before && g != 0 ? 1.0 : 0.0});
}

void test_storage(unsigned seed, Storage storage, bool measured) {
  std::vector<Tensor> tensors;
  std::vector<Dev<uint16_t>> memory;
  std::vector<onepass::TensorItem> items;
  onepass::TensorList list{};
  int64_t leaves = 0;
  for (size_t k = 0; k < kSizes.size(); ++k) {
    tensors.push_back(random_tensor(kSizes[k], seed + unsigned(k) * 16, storage));
    onepass::TensorItem item{};
    item.numel = int64_t(kSizes[k]);
    item.begin = list.numel;
    item.number = uint32_t(k + 5);
    item.first_leaf = leaves;
    leaves += onepass::leaves_of(item.numel);
    list.numel += item.numel;
    const Tensor& t = tensors.back();
    int place = 0;
    for (const auto* values : {&t.param, &t.grad, &t.m, &t.v, &t.low}) {
      memory.emplace_back(*values, k % 2);  // every second tensor one element past a pack
      item.list[place == 4 ? onepass::kLow : place] = memory.back().get();
      ++place;
    }
    items.push_back(item);
  }
  list.items = items.data();
  list.count = int64_t(items.size());
  list.storage = storage;
  for (DType& dtype : list.dtype) dtype = DType::kBFloat16;
  const onepass::RuleStep<onepass::math::AdamOptions> step = rule();
  Dev<onepass::StatisticsRow> rows{size_t(leaves)};
  onepass::Tail tail;
  if (measured) tail.statistics = rows.get();
  onepass::cuda::adam(list, &step, false, tail, {});
  onepass::math::Statistics sum{};
  for (size_t k = 0; k < kSizes.size(); ++k) {
    Tensor& want = tensors[k];
    for (size_t i = 0; i < kSizes[k]; ++i) update(want, i, items[k].number, storage, sum);
    const std::vector<uint16_t>* lists[] = {&want.param, &want.grad, &want.m, &want.v, &want.low};
    for (size_t place = 0; place < 5; ++place) {
      CHECK(memory[k * 5 + place].host() == *lists[place], "storage %d tensor %zu list %zu", int(storage), k,
            place);
    }
  }
  if (!measured) return;
  Dev<onepass::GroupStatistics> groups(1);
  onepass::cuda::gather_statistics(rows.get(), leaves, groups.get(), 1, 2.0, {}, {});
  const onepass::GroupStatistics got = groups.host()[0];
  CHECK(close(got.grad_norm, std::sqrt(sum.grad_square) / 2, 1e-12), "%g", got.grad_norm);
  CHECK(close(got.param_norm, std::sqrt(sum.param_square), 1e-12), "%g", got.param_norm);
  CHECK(close(got.update_norm, std::sqrt(sum.update_square), 1e-12), "%g", got.update_norm);
  CHECK(got.nonfinite == 0 && got.lost == sum.lost, "%g %g", got.lost, sum.lost);
}

void run_all(unsigned seed) {
  for (const Storage storage :
       {Storage::kNearest, Storage::kStochastic, Storage::kKahan, Storage::kRemainder}) {
    test_storage(seed, storage, false);
    test_storage(seed, storage, true);
  }
}

}  // namespace

int main() { return test_main(run_all); }
