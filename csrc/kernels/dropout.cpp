// dropout.cpp - dropout on the CPU: math/dropout.h over loops/elementwise.h. CUDA: dropout.cu.
//
// x and the residual are read once, y is written once.

#include "kernels/kernels.h"
#include "loops/elementwise.h"

namespace onepass::ONEPASS_ISA {
namespace {

// x and y may be the same memory: an element depends on no other.
template <class F, class T>
ONEPASS_WALK void drop_elements(const F formula, const T* x, const T* residual, const uint8_t* kept, T* y,
                                int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    y[i] = formula(x[i], kept[i] != 0, F::kReadsResidual ? residual[i] : T(0));
  }
}

// Pairs of bfloat16 (core/convert.h says why).
template <class F>
ONEPASS_WALK void drop_pairs(const F formula, const uint16_t* x, const uint16_t* residual,
                             const uint8_t* kept, uint16_t* y, int64_t n) {
  const int64_t pairs = n / 2;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < pairs; ++i) {
    uint16_t flags;
    std::memcpy(&flags, kept + 2 * i, sizeof flags);
    const uint32_t both = flags;
    const BFloat16Pair value = from_bfloat16_pair(x + 2 * i);
    const BFloat16Pair other = F::kReadsResidual ? from_bfloat16_pair(residual + 2 * i) : BFloat16Pair{0, 0};
    to_bfloat16_pair({formula(value.first, (both & 0xffu) != 0, other.first),
                      formula(value.second, (both & 0xff00u) != 0, other.second)},
                     y + 2 * i);
  }
  if (n % 2 == 0) return;
  const int64_t i = n - 1;
  y[i] = to_bfloat16(
      formula(from_bfloat16(x[i]), kept[i] != 0, F::kReadsResidual ? from_bfloat16(residual[i]) : 0.0f));
}

constexpr int64_t kLineBytes = 64;

// Asks for the lines of elements begin .. begin + n - 1.
ONEPASS_HD void fetch(const void* from, int64_t begin, int64_t n, int64_t size) {
#if defined(__GNUC__)
  const char* at = static_cast<const char*>(from) + begin * size;
  for (int64_t i = 0; i < n * size; i += kLineBytes) __builtin_prefetch(at + i);
#else
  (void)from, (void)begin, (void)n, (void)size;
#endif
}

// Reading, drawing and writing one after the other would leave memory idle while draws are made. So while a
// part of a row is drawn its x is fetched, and the same part of the row before is streamed out.
template <class F, class T>
class Visitor {
 public:
  Visitor(const DropoutCall& op, const F& formula) : op_(op), formula_(formula), size_(size_of(op.dtype)) {
    // Narrow rows wait for the draws, not for memory. What is overwritten in place is in the cache already.
    streams_ = op.x != op.y && size_ >= 4 && op.places.shape.numel() * size_ >= kStreamedBytes;
  }

  void prepare(int64_t begin, int64_t n, int64_t part) {
    const int64_t skip = part * kRowPart, left = n - skip, here = left < kRowPart ? left : kRowPart;
    if (here > 0) {
      fetch(op_.x, begin + skip, here, size_);
      if (op_.residual) fetch(op_.residual, begin + skip, here, size_);
    }
    stream_part(part);
  }

  void visit(int64_t begin, int64_t n, const uint8_t* kept) {
    if constexpr (std::is_same_v<T, float>) {
      if (op_.dtype == DType::kBFloat16) {
        const auto* residual = static_cast<const uint16_t*>(op_.residual);
        return drop_pairs(formula_, static_cast<const uint16_t*>(op_.x) + begin,
                          residual ? residual + begin : nullptr, kept, static_cast<uint16_t*>(op_.y) + begin,
                          n);
      }
    }
    const T* x = read_row(op_.dtype, op_.x, begin, n, buffer_[0]);
    const T* residual = op_.residual ? read_row(op_.dtype, op_.residual, begin, n, buffer_[1]) : nullptr;
    if (streams_) {
      drop_elements(formula_, x, residual, kept, buffer_[2], n);
      waiting_ = begin;
      waiting_n_ = n;
      return;
    }
    const Output out{op_.dtype, op_.y, false};
    T* row = out.open(begin, buffer_[2]);
    drop_elements(formula_, x, residual, kept, row, n);
    out.close(begin, row, n);
  }

  void finish() {
    for (int64_t part = 0; part < kChannelRow / kRowPart; ++part) stream_part(part);
  }

 private:
  // A part of the row that visit() has left in the buffer.
  void stream_part(int64_t part) {
    const int64_t skip = part * kRowPart, left = waiting_n_ - skip, here = left < kRowPart ? left : kRowPart;
    if (here <= 0) return;
    stream_row(static_cast<T*>(op_.y) + waiting_ + skip, buffer_[2] + skip, here * int64_t(sizeof(T)));
  }

  const DropoutCall& op_;
  const F& formula_;
  int64_t size_;
  bool streams_;
  int64_t waiting_ = 0, waiting_n_ = 0;
  alignas(64) T buffer_[3][kChannelRow];
};

template <class F, class T>
void walk(const DropoutCall& op, const math::Dropout& dropout, int threads) {
  const F formula = F::make(op.terms);
  walk_kept(op.places, dropout, threads, [&] { return Visitor<F, T>(op, formula); });
}

template <class T>
void with_formula(const DropoutCall& op, const math::Dropout& dropout, int threads) {
  if (op.terms.is_affine()) return walk<math::Dropped<T, true, false>, T>(op, dropout, threads);
  if (op.residual) return walk<math::Dropped<T, false, true>, T>(op, dropout, threads);
  walk<math::Dropped<T, false, false>, T>(op, dropout, threads);
}

}  // namespace

void dropout(const DropoutCall& op, const Launch& launch) {
  const auto drawn = math::Dropout::make(op.p, op.device_seed ? uint64_t(*op.device_seed) : op.seed);
  if (op.dtype == DType::kFloat64) return with_formula<double>(op, drawn, launch.threads);
  with_formula<float>(op, drawn, launch.threads);
}

}  // namespace onepass::ONEPASS_ISA
