// threads.cpp - two threads with kernels of their own at once, each of which shares its work out among more
// threads. ThreadSanitizer makes the program fail if any two of them meet.
//
//   threads optimizers|batch_norms|planted      planted: both threads step the same tensors, which is a race

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/parallel.h"
#include "kernels/kernels.h"

namespace {

using namespace onepass;

constexpr int kThreads = 3, kSteps = 12;
// Enough for a thread each, and remainders.
constexpr int64_t kSizes[] = {70'001, 5, 33, 40'000};

std::vector<float> numbers(int64_t count, int seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[size_t(i)] = float(std::sin(double(i * 7 + seed)));
  return values;
}

// The tensors of an optimizer, and AdamW's steps with clipping, as the bindings take them.
class Optimizer {
 public:
  explicit Optimizer(int seed) {
    for (const int64_t size : kSizes) {
      Tensor& tensor = tensors_.emplace_back();
      for (int k = 0; k < 4; ++k) tensor.list[k] = k < 2 ? numbers(size, seed + k) : numbers(size, 0);
      for (float& square : tensor.list[3]) square = std::fabs(square);
    }
  }

  void step(int number) {
    std::vector<TensorItem> items;
    int64_t numel = 0, leaves = 0;
    for (Tensor& tensor : tensors_) {
      TensorItem& item = items.emplace_back();
      item = {};
      for (int k = 0; k < 4; ++k) item.list[k] = tensor.list[k].data();
      item.numel = int64_t(tensor.list[0].size());
      item.begin = numel;
      numel += item.numel;
      leaves += leaves_of(item.numel);
    }
    TensorList list{items.data(), int64_t(items.size()), numel, {}};
    for (DType& dtype : list.dtype) dtype = DType::kFloat32;
    const Launch launch{kThreads};
    norms_.resize(size_t(leaves));
    Decision decision;
    decision.options.clips = true;
    decision.options.max_norm = 1;
    StepControl control{};
    baseline::norm(list, kGrad, 2, norms_.data(), launch);
    baseline::decide(norms_.data(), leaves, decision, &control, launch);
    RuleStep<math::AdamOptions> rule;
    rule.options = {1e-2, 0.9, 0.999, 1e-8, 0.1, true, false, control.factor};
    rule.step = number + 1;
    // As the bindings do: this thread has something else to do while the others begin.
    const auto count = [](void* counted) { ++*static_cast<int*>(counted); };
    const BesideParallel beside(count, &counted_);
    baseline::adam(list, &rule, false, {}, launch);
  }

  bool operator==(const Optimizer& other) const {
    bool same = counted_ == other.counted_;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      for (int k = 0; k < 4; ++k) same = same && tensors_[i].list[k] == other.tensors_[i].list[k];
    }
    return same;
  }

 private:
  struct Tensor {
    std::vector<float> list[4];
  };
  std::vector<Tensor> tensors_;
  std::vector<Leaf> norms_;
  int counted_ = 0;
};

// A layer in training, forward and backward.
class Layer {
 public:
  explicit Layer(int seed) : x_(numbers(kShape.numel(), seed)), y_(x_.size()), dx_(x_.size()) {}

  void step(int) {
    std::vector<double> workspace(size_t(baseline::batch_norm_workspace(kShape)));
    BatchNorm op;
    op.shape = kShape;
    op.x = x_.data();
    op.y = y_.data();
    op.running_mean = running_[0].data();
    op.running_var = running_[1].data();
    op.mean = saved_[0].data();
    op.invstd = saved_[1].data();
    op.momentum = 0.1;
    op.eps = 1e-5;
    op.relu = true;
    op.workspace = workspace.data();
    baseline::batch_norm_forward(op, {kThreads});
    op.dy = y_.data();
    op.dx = dx_.data();
    baseline::batch_norm_backward(op, {kThreads});
  }

  bool operator==(const Layer& other) const {
    return y_ == other.y_ && dx_ == other.dx_ && running_[0] == other.running_[0] &&
           running_[1] == other.running_[1];
  }

 private:
  static constexpr ChannelShape kShape{16, 24, 200, false};
  std::vector<float> x_, y_, dx_;
  std::vector<float> running_[2] = {std::vector<float>(24), std::vector<float>(24)};
  std::vector<float> saved_[2] = {std::vector<float>(24), std::vector<float>(24)};
};

template <class Worker>
void run(Worker& worker) {
  for (int step = 0; step < kSteps; ++step) worker.step(step);
}

template <class Worker>
void run_at_once(Worker& first, Worker& second) {
  std::thread other([&] { run(second); });
  run(first);
  other.join();
}

// Whether two at once have the bits of two one after the other.
template <class Worker>
bool agree() {
  Worker alone[] = {Worker(1), Worker(2)}, at_once[] = {Worker(1), Worker(2)};
  run_at_once(at_once[0], at_once[1]);
  for (Worker& worker : alone) run(worker);
  return at_once[0] == alone[0] && at_once[1] == alone[1];
}

}  // namespace

int main(int count, char** arguments) {
  const std::string wanted = count == 2 ? arguments[1] : "";
  bool right = false;
  if (wanted == "optimizers") right = agree<Optimizer>();
  if (wanted == "batch_norms") right = agree<Layer>();
  if (wanted == "planted") {
    Optimizer shared(1);
    run_at_once(shared, shared);
  }
  std::printf("%s: %s\n", wanted.c_str(), right ? "the bits of one thread" : "other bits");
  return right ? 0 : 1;
}
