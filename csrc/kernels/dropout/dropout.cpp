// dropout.cpp - dropout on the CPU: math/dropout.h over loops/elements/elementwise.h. CUDA: dropout.cu.
//
// x and the residual are read once, y is written once.

#include "kernels/kernels.h"
#include "loops/elements/elementwise.h"

namespace onepass::ONEPASS_ISA {
namespace {

// x and y may be the same memory: an element depends on no other.
template <class F, class T>
ONEPASS_HD void drop_run(const F& formula, const T* x, const T* residual, const uint8_t* kept, T* y,
                         int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    y[i] = formula(x[i], kept[i] != 0, F::kReadsResidual ? residual[i] : T(0));
  }
}

// Pairs of bfloat16 (core/convert.h says why).
template <class F>
ONEPASS_HD void drop_run(const F& formula, const BFloat16* x, const BFloat16* residual, const uint8_t* kept,
                         BFloat16* y, int64_t n) {
  const int64_t pairs = n / 2;
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < pairs; ++i) {
    uint16_t flags;
    std::memcpy(&flags, kept + 2 * i, sizeof flags);
    const uint32_t both = flags;
    const BFloat16Pair value = from_bfloat16_pair(&x[2 * i].bits);
    const BFloat16Pair other =
        F::kReadsResidual ? from_bfloat16_pair(&residual[2 * i].bits) : BFloat16Pair{0, 0};
    to_bfloat16_pair({formula(value.first, (both & 0xffu) != 0, other.first),
                      formula(value.second, (both & 0xff00u) != 0, other.second)},
                     &y[2 * i].bits);
  }
  if (n % 2 == 0) return;
  const int64_t i = n - 1;
  narrow(formula(widen(x[i]), kept[i] != 0, F::kReadsResidual ? widen(residual[i]) : 0.0f), y[i]);
}

template <class F, class S>
ONEPASS_WALK void drop_elements(const F formula, const S* x, const S* residual, const uint8_t* kept, S* y,
                                int64_t n) {
  drop_run(formula, x, residual, kept, y, n);
}

// The same past the caches: whole lines.
template <class F, class S>
ONEPASS_WALK void drop_nontemporal(const F formula, const S* __restrict x, const S* __restrict residual,
                                   const uint8_t* __restrict kept, S* __restrict y, int64_t n) {
  fill_nontemporal(y, n, [&](int64_t begin, S* __restrict block, auto count) {
    const S* other = F::kReadsResidual ? residual + begin : residual;
    drop_run(formula, x + begin, other, kept + begin, block, count);
  });
}

// Reading, drawing and writing one after the other would leave memory idle while draws are made. So while a
// part of a strip is drawn its x is fetched, and the same part of the strip before is written.
template <class F, class S>
class Visitor {
 public:
  Visitor(const DropoutCall& op, const F& formula) : op_(op), formula_(formula) {
    // What is overwritten in place is in the cache already; float16 passes through strips of floats.
    nontemporal_ = stored_as(op.dtype, S{}) && op.x != op.y &&
                   op.places.shape.numel() * int64_t(sizeof(S)) >= kNontemporalLeast;
  }

  // Inlined between the draws, as write_part is: a call there costs a twentieth of the whole walk.
  ONEPASS_HD void prepare(int64_t begin, int64_t n, int64_t part) {
    const int64_t skip = part * kStripPart, left = n - skip, here = left < kStripPart ? left : kStripPart;
    if (here > 0) {
      fetch_elements(op_.dtype, op_.x, begin + skip, here);
      if (op_.residual) fetch_elements(op_.dtype, op_.residual, begin + skip, here);
    }
    write_part(part);
  }

  void visit(int64_t begin, int64_t n, const uint8_t* kept) {
    if (nontemporal_) {
      waiting_ = begin;
      waiting_n_ = n;
      waiting_kept_ = kept;
      return;
    }
    const S* x = read_strip(op_.dtype, op_.x, begin, n, buffer_[0]);
    const S* residual = op_.residual ? read_strip(op_.dtype, op_.residual, begin, n, buffer_[1]) : nullptr;
    const Output out{op_.dtype, op_.y, false};
    S* strip = out.open(begin, buffer_[0]);
    drop_elements(formula_, x, residual, kept, strip, n);
    out.close(begin, strip, n);
  }

  void finish() {
    for (int64_t part = 0; part < kStrip / kStripPart; ++part) write_part(part);
  }

 private:
  // Writes a part of the strip that visit() had last.
  ONEPASS_HD void write_part(int64_t part) {
    const int64_t skip = part * kStripPart, left = waiting_n_ - skip,
                  n = left < kStripPart ? left : kStripPart;
    if (n <= 0) return;
    const int64_t at = waiting_ + skip;
    const S *x = static_cast<const S*>(op_.x) + at, *residual = static_cast<const S*>(op_.residual);
    if (residual) residual += at;
    S* y = static_cast<S*>(op_.y) + at;
    const uint8_t* kept = waiting_kept_ + skip;
    const auto other = [&](int64_t begin) { return residual ? residual + begin : nullptr; };
    split_at_lines(
        y, n,
        [&](int64_t begin, int64_t end) {
          drop_elements(formula_, x + begin, other(begin), kept + begin, y + begin, end - begin);
        },
        [&](int64_t begin, int64_t end) {
          drop_nontemporal(formula_, x + begin, other(begin), kept + begin, y + begin, end - begin);
        });
  }

  const DropoutCall& op_;
  const F& formula_;
  bool nontemporal_;
  int64_t waiting_ = 0, waiting_n_ = 0;
  const uint8_t* waiting_kept_ = nullptr;
  alignas(64) S buffer_[2][kStrip];
};

template <class F, class S>
void walk(const DropoutCall& op, const math::Dropout& dropout, int threads) {
  const F formula = F::make(op.terms);
  walk_kept(op.places, dropout, threads, [&] { return Visitor<F, S>(op, formula); });
}

template <class S>
void with_formula(const DropoutCall& op, const math::Dropout& dropout, int threads) {
  using T = arithmetic<S>;
  if (op.terms.is_affine()) return walk<math::Dropped<T, true, false>, S>(op, dropout, threads);
  if (op.residual) return walk<math::Dropped<T, false, true>, S>(op, dropout, threads);
  walk<math::Dropped<T, false, false>, S>(op, dropout, threads);
}

}  // namespace

void dropout(const DropoutCall& op, const Launch& launch) {
  const auto drawn = math::Dropout::make(op.p, seed_of(op.device_seed, op.seed));
  if (op.dtype == DType::kFloat64) return with_formula<double>(op, drawn, launch.threads);
  if (op.dtype == DType::kBFloat16) return with_formula<BFloat16>(op, drawn, launch.threads);
  with_formula<float>(op, drawn, launch.threads);
}

}  // namespace onepass::ONEPASS_ISA
