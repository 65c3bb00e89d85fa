// walk.h - applies a formula, made of each channel's parameters, to elements that follow each other in
// memory, on the CPU (channels.h). Along: elements of one plane, which share one formula. Across: elements of
// a row, each of another channel.
//
// Results that go past the caches are stored a line at a time as soon as they are made, so that reading and
// writing go on together. To fill a long strip first and store it afterwards takes 1.5 times as long.
#pragma once

#include "loops/channels/reduce_last.h"
#include "math/batch_norm.h"

namespace onepass::ONEPASS_ISA {

constexpr int kRowsAtOnce = 4;

// out = formula(a, b) of one element; with F::kFlags its flag too.
template <class F, class S>
ONEPASS_HD void walk_element(const F& formula, const S* a, const S* b, S& out, uint8_t* flags, int64_t i) {
  using T = arithmetic<S>;
  const T value = formula(F::kReadsX ? widen(a[i]) : T(0), F::kReadsOther ? widen(b[i]) : T(0));
  narrow(formula.result(value), out);
  if constexpr (F::kFlags) flags[i] = math::passes(value) ? 1 : 0;
}

// The same for two neighbours as one word (core/convert.h says why). Across channels it is no faster: their
// parameters would have to be separated.
template <class F>
ONEPASS_HD void walk_pair(const F& formula, const BFloat16* a, const BFloat16* b, BFloat16* out,
                          uint8_t* flags) {
  const BFloat16Pair none{0, 0}, x = F::kReadsX ? from_bfloat16_pair(&a->bits) : none,
                                 other = F::kReadsOther ? from_bfloat16_pair(&b->bits) : none;
  const float v = formula(x.first, other.first), w = formula(x.second, other.second);
  to_bfloat16_pair({formula.result(v), formula.result(w)}, &out->bits);
  if constexpr (F::kFlags) {
    const uint16_t both = uint16_t((math::passes(v) ? 1 : 0) | (math::passes(w) ? 0x100 : 0));
    std::memcpy(flags, &both, sizeof both);  // x86 and ARM are little-endian
  }
}

template <class F, class S>
ONEPASS_HD void walk_elements(const F& formula, const S* a, const S* b, S* out, uint8_t* flags, int64_t n) {
  int64_t paired = 0;
  if constexpr (std::is_same_v<S, BFloat16>) {
    paired = n / 2 * 2;
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < paired; i += 2) {
      walk_pair(formula, a + i, b + i, out + i, flags + i);
    }
  }
  ONEPASS_INDEPENDENT
  for (int64_t i = paired; i < n; ++i) walk_element(formula, a, b, out[i], flags, i);
}

// n elements of one channel, `channel`.
template <class F, class S>
ONEPASS_WALK void walk_along(const arithmetic<S>* const* params, int64_t channel, const S* __restrict a,
                             const S* __restrict b, S* __restrict out, uint8_t* __restrict flags, int64_t n) {
  walk_elements(formula_at<F>(params, channel), a, b, out, flags, n);
}

// The same past the caches: whole lines.
template <class F, class S>
ONEPASS_WALK void walk_along_nontemporal(const arithmetic<S>* const* params, int64_t channel,
                                         const S* __restrict a, const S* __restrict b, S* __restrict out,
                                         uint8_t* __restrict flags, int64_t n) {
  const F formula = formula_at<F>(params, channel);
  fill_nontemporal(out, n, [&](int64_t begin, S* __restrict block, auto count) ONEPASS_INLINED {
    constexpr int64_t kCount = count;
    fetch_chosen<F>(b + begin, kCount);
    walk_elements(formula, a + begin, b + begin, block, flags + begin, kCount);
  });
}

// kRows rows of n channels, `period` elements apart, which share the loads of their parameters.
template <class F, int kRows, class S>
ONEPASS_WALK void walk_across(const arithmetic<S>* const* params, const S* __restrict a,
                              const S* __restrict b, S* __restrict out, uint8_t* __restrict flags,
                              int64_t period, int64_t n) {
  const arithmetic<S>* p[F::kParams];
  for (int k = 0; k < F::kParams; ++k) p[k] = params[k];
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const F formula = formula_at<F>(p, i);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = i + r * period;
      walk_element(formula, a, b, out[at], flags, at);
    }
  }
}

// One row past the caches: whole lines.
template <class F, class S>
ONEPASS_WALK void walk_across_nontemporal(const arithmetic<S>* const* params, const S* __restrict a,
                                          const S* __restrict b, S* __restrict out, uint8_t* __restrict flags,
                                          int64_t n) {
  const arithmetic<S>* p[F::kParams];
  for (int k = 0; k < F::kParams; ++k) p[k] = params[k];
  fill_nontemporal(out, n, [&](int64_t begin, S* __restrict block, auto count) ONEPASS_INLINED {
    constexpr int64_t kCount = count;
    fetch_chosen<F>(b + begin, kCount);
    ONEPASS_INDEPENDENT
    for (int64_t k = 0; k < kCount; ++k) {
      walk_element(formula_at<F>(p, begin + k), a, b, block[k], flags, begin + k);
    }
  });
}

// The loops of one formula. What chooses among them is compiled once for all formulas.
template <class S>
struct Walks {
  using T = arithmetic<S>;
  using Along = void (*)(const T* const*, int64_t, const S*, const S*, S*, uint8_t*, int64_t);
  using Across = void (*)(const T* const*, const S*, const S*, S*, uint8_t*, int64_t, int64_t);
  using AcrossNontemporal = void (*)(const T* const*, const S*, const S*, S*, uint8_t*, int64_t);

  int params;  // parameters of a channel
  Along along, along_nontemporal;
  Across across_row, across_rows;  // one row, kRowsAtOnce rows
  AcrossNontemporal across_nontemporal;

  template <class F>
  static constexpr Walks of() {
    return {F::kParams,
            walk_along<F, S>,
            walk_along_nontemporal<F, S>,
            walk_across<F, 1, S>,
            walk_across<F, kRowsAtOnce, S>,
            walk_across_nontemporal<F, S>};
  }
};

// At most kStrip elements that follow each other in memory, and which of them pass (left unfilled where all
// do).
template <class T>
struct Span {
  const ChannelShape& shape;
  const T* const* params;  // of channel i at [k][i]
  const RepeatedParams<T>& repeated;
  int64_t period;  // elements for which they are repeated
  int64_t begin, n;
  uint8_t flags[kStrip];

  // out = formula(a, b) for all elements; with F::kFlags also new flags. nontemporal: past the caches.
  template <class F, class S>
  void walk(const S* a, const S* b, S* out, uint8_t* passed, bool nontemporal) const {
    static constexpr Walks<S> kWalks = Walks<S>::template of<F>();
    const Operands<S> all{a, b, out, passed};
    OpenLine<S> line;
    shape.channels_last ? walk_positions(kWalks, all, line, nontemporal)
                        : walk_planes(kWalks, all, line, nontemporal);
    line.close();
  }

 private:
  template <class S>
  struct Operands {
    const S* a;
    const S* b;
    S* out;
    uint8_t* flags;
    ONEPASS_HD Operands from(int64_t i) const {
      return {a ? a + i : a, b ? b + i : b, out + i, flags ? flags + i : flags};
    }
  };

  // Channels first: a plane at a time.
  template <class S>
  void walk_planes(const Walks<S>& walks, const Operands<S>& all, OpenLine<S>& line, bool nontemporal) const {
    int64_t i = 0;
    while (i < n) {
      const int64_t left = shape.positions - (begin + i) % shape.positions,
                    here = left < n - i ? left : n - i;
      const int64_t channel = (begin + i) / shape.positions % shape.channels;
      const Operands<S> row = all.from(i);
      const auto plain = [&](int64_t first, int64_t last, S* to) ONEPASS_INLINED {
        const Operands<S> from = row.from(first);
        walks.along(params, channel, from.a, from.b, to, from.flags, last - first);
      };
      const auto whole_lines = [&](int64_t first, int64_t last) ONEPASS_INLINED {
        const Operands<S> from = row.from(first);
        walks.along_nontemporal(params, channel, from.a, from.b, from.out, from.flags, last - first);
      };
      if (nontemporal) {
        split_at_lines(line, row.out, here, plain, whole_lines);
      } else {
        plain(0, here, row.out);
      }
      i += here;
    }
  }

  // Channels last: a row, or some rows, at a time.
  template <class S>
  void walk_positions(const Walks<S>& walks, const Operands<S>& all, OpenLine<S>& line,
                      bool nontemporal) const {
    for (int64_t i = 0, at = begin % period; i < n; at = 0) {
      const int64_t here = period - at < n - i ? period - at : n - i;
      const Operands<S> row = all.from(i);
      const T* from[kMostParams];
      for (int k = 0; k < walks.params; ++k) from[k] = repeated.at[k] + at;
      // Past the caches one at a time: rows written in turns take longer than the loads they share.
      const bool several = !nontemporal && at == 0 && n - i >= kRowsAtOnce * period;
      if (nontemporal) {
        walk_row_nontemporal(walks, from, row, here, line);
      } else if (here > 0) {
        const auto across = several ? walks.across_rows : walks.across_row;
        across(from, row.a, row.b, row.out, row.flags, period, here);
      }
      i += several ? kRowsAtOnce * period : here;
    }
  }

  template <class S>
  void walk_row_nontemporal(const Walks<S>& walks, const T* const* from, const Operands<S>& row,
                            int64_t count, OpenLine<S>& line) const {
    const T* at[kMostParams];
    const auto params_at = [&](int64_t begin) ONEPASS_INLINED {
      for (int k = 0; k < walks.params; ++k) at[k] = from[k] + begin;
      return at;
    };
    split_at_lines(
        line, row.out, count,
        [&](int64_t begin, int64_t end, S* to) ONEPASS_INLINED {
          const Operands<S> part = row.from(begin);
          walks.across_row(params_at(begin), part.a, part.b, to, part.flags, period, end - begin);
        },
        [&](int64_t begin, int64_t end) ONEPASS_INLINED {
          const Operands<S> lines = row.from(begin);
          walks.across_nontemporal(params_at(begin), lines.a, lines.b, lines.out, lines.flags, end - begin);
        });
  }
};

}  // namespace onepass::ONEPASS_ISA
