// row_norm.cpp - the CPU kernels of layer and RMS normalisation.
//
// Elements go through strips of the L1 cache: as many whole rows as fit, or a part of one row. So a row is
// read from memory once, for its statistics, and again from a cache, for its output. Backward does the same
// with two or three operands, and adds the terms of the columns' sums up for each part (loops/rows/shape.h).

#include "math/row_norm.h"

#include "kernels/kernels.h"
#include "kernels/norm/row_strips.h"
#include "loops/common/units.h"
#include "loops/draws/kept.h"
#include "loops/rows/rows.h"

namespace onepass::ONEPASS_ISA {
namespace {

template <class T>
T* row_value(void* stored, int64_t row) {
  return static_cast<T*>(stored) + row;
}

// The statistics of some rows, whose divisions and roots are made side by side.
template <bool kCentred, class T>
ONEPASS_WALK void finish_rows(const math::Pair* __restrict parts, double width, double eps, int64_t rows,
                              T* __restrict mean, T* __restrict invstd) {
  ONEPASS_INDEPENDENT
  for (int64_t r = 0; r < rows; ++r) {
    math::RowMoments found;
    found.merge(width, parts[r]);
    mean[r] = T(found.moments.mean);
    invstd[r] = T(found.invstd(eps));
  }
}

template <class T, bool kCentred>
struct ForwardRows {
  using Formula = math::NormaliseRow<T, kCentred>;

  const RowNorm& op;
  const RowParams<T> params;
  const Output y, h;
  const math::Dropout dropout;
  const math::Dropped<T, false, true> sum;

  struct Buffers {
    alignas(64) T x[kStrip], residual[kStrip], h[kStrip], y[kStrip];
    alignas(64) uint8_t kept[kStrip];
  };

  // What is normalised, of n elements.
  const T* load(int64_t begin, int64_t n, Buffers& b) const {
    const T* x = read_strip(op.dtype, op.x, begin, n, b.x);
    if (!op.residual) return x;
    const T* residual = read_strip(op.dtype, op.residual, begin, n, b.residual);
    T* strip = h.open(begin, b.h);
    if (op.dropout > 0) {
      draw_kept(dropout, begin, n, b.kept);
      add_residual<true>(sum, x, b.kept, residual, strip, n);
    } else {
      add_residual<false>(sum, x, b.kept, residual, strip, n);
    }
    round_strip(op.dtype, strip, n);
    h.close(begin, strip, n);
    return strip;
  }
  // The same once more.
  const T* load_again(int64_t begin, int64_t n, Buffers& b) const {
    return read_strip(op.dtype, op.residual ? op.h : op.x, begin, n, b.x);
  }
  Formula finish(int64_t row, const math::RowMoments& found) const {
    const T mean = T(found.moments.mean), invstd = T(found.invstd(op.eps));
    if (kCentred) *row_value<T>(op.mean, row) = mean;
    *row_value<T>(op.invstd, row) = invstd;
    return {mean, invstd};
  }
  static void add(math::RowMoments& found, const T* x, int64_t n) {
    const auto sums = shifted<math::RowSums<T, kCentred>>(x, n);
    const T* none = nullptr;
    found.merge(double(n), reduce_strip(sums, x, none, none, n));
  }
  // n elements of a row, from its column `column` on.
  void write(const Formula& formula, const T* x, int64_t column, T* out, int64_t n) const {
    const T *w = params.weight + column, *b = params.bias + column;
    const auto plain = [&](int64_t begin, int64_t end) {
      walk_row(formula, x + begin, w + begin, b + begin, out + begin, end - begin);
    };
    if (!y.nontemporal || !y.takes<T>()) return plain(0, n);
    split_at_lines(out, n, plain, [&](int64_t begin, int64_t end) {
      walk_row_nontemporal(formula, x + begin, w + begin, b + begin, out + begin, end - begin);
    });
  }
  T* open(int64_t begin, Buffers& b) const { return y.takes<T>() ? static_cast<T*>(y.stored) + begin : b.y; }
  void close(int64_t begin, int64_t n, Buffers& b) const {
    if (!y.takes<T>()) y.close(begin, b.y, n);
  }

  // Short rows: a call for all of them, since calls would be most of the time, and through a strip.
  void short_rows(int64_t row, int64_t rows, Buffers& b) const {
    using Sums = math::RowSums<T, kCentred>;
    const int64_t width = op.shape.width, begin = row * width;
    const T *x = load(begin, rows * width, b), *none = nullptr;
    T* out = y.open(begin, b.y);
    math::Pair parts[kShortRows];
    T mean[kShortRows], invstd[kShortRows];
    for (int64_t first = 0; first < rows; first += kShortRows) {
      const int64_t count = rows - first < kShortRows ? rows - first : kShortRows, at = first * width;
      reduce_rows([&](int64_t, const T* from) ONEPASS_INLINED { return shifted<Sums>(from, width); }, x + at,
                  none, none, width, count, parts);
      finish_rows<kCentred>(parts, double(width), op.eps, count, mean, invstd);
      walk_rows([&](int64_t r) ONEPASS_INLINED { return Formula{mean[r], invstd[r]}; }, x + at, params.weight,
                params.bias, out + at, width, count);
      const size_t bytes = size_t(count) * sizeof(T);
      if (kCentred) std::memcpy(row_value<T>(op.mean, row + first), mean, bytes);
      std::memcpy(row_value<T>(op.invstd, row + first), invstd, bytes);
    }
    y.close(begin, out, rows * width);
  }
  // Whole rows, which fit a strip.
  void strip_of_rows(int64_t row, int64_t rows, Buffers& b) const {
    if (op.shape.width <= kShortRow) return short_rows(row, rows, b);
    const int64_t width = op.shape.width, begin = row * width;
    const T* x = load(begin, rows * width, b);
    T* out = open(begin, b);
    for (int64_t r = 0; r < rows; ++r) {
      math::RowMoments found;
      add(found, x + r * width, width);
      write(finish(row + r, found), x + r * width, 0, out + r * width, width);
    }
    close(begin, rows * width, b);
  }
  void strips_of_row(int64_t row, Buffers& b) const {
    const int64_t begin = row * op.shape.width;
    math::RowMoments found;
    for_each_strip(op.shape.width, [&](int64_t at, int64_t n) { add(found, load(begin + at, n, b), n); });
    const auto formula = finish(row, found);
    for_each_strip(op.shape.width, [&](int64_t at, int64_t n) {
      write(formula, load_again(begin + at, n, b), at, open(begin + at, b), n);
      close(begin + at, n, b);
    });
  }
};

template <class T, bool kCentred>
void forward(const RowNorm& op, int threads) {
  const RowParams<T> params = prepare_params<T>(op);
  // A long row's h is read again.
  const Output h = output_of(op, op.h, op.shape.width <= kStrip);
  const auto terms = math::dropout_terms(op.dropout, math::Scaling::kInverted, false);
  const ForwardRows<T, kCentred> rows{op,
                                      params,
                                      output_of(op, op.y, true),
                                      h,
                                      math::Dropout::make(op.dropout, seed_of(op.device_seed, op.seed)),
                                      math::Dropped<T, false, true>::make(terms)};
  const int64_t unit = unit_rows(op.shape);
  for_each_unit(threads, (op.shape.rows + unit - 1) / unit, [&](int64_t i) {
    typename ForwardRows<T, kCentred>::Buffers buffers;
    for_each_group(op.shape, i * unit, unit, [&](int64_t row, int64_t count) {
      op.shape.width <= kStrip ? rows.strip_of_rows(row, count, buffers) : rows.strips_of_row(row, buffers);
    });
  });
}

template <class T, bool kCentred, bool kAdds, bool kColumns>
struct BackwardRows {
  using Formula = math::RowNormGradient<T, kCentred, kAdds>;

  const RowNorm& op;
  const RowParams<T> params;
  const Output dx, dresidual;
  const math::Dropout dropout;

  struct Buffers {
    alignas(64) T x[kStrip], dy[kStrip], dh[kStrip], d[kStrip];
    alignas(64) uint8_t kept[kStrip];
  };

  bool drops() const { return op.dropout > 0; }
  // Whether dx is written as soon as it is computed: it goes through no strip.
  bool is_direct() const { return op.dx && dx.takes<T>() && !drops(); }
  GradientRow<T> load(int64_t begin, int64_t n, Buffers& b) const {
    const T* dh = kAdds ? read_strip(op.dtype, op.dh, begin, n, b.dh) : nullptr;
    return {read_strip(op.dtype, op.x, begin, n, b.x),
            read_strip(op.dtype, op.dy, begin, n, b.dy),
            params.weight,
            dh,
            nullptr,
            nullptr};
  }
  math::RowGradientSums<T, kCentred> sums_of(int64_t row) const {
    return {kCentred ? *row_value<T>(op.mean, row) : T(0)};
  }
  Formula formula_of(int64_t row, math::Pair sums) const {
    return Formula::make(sums, sums_of(row).mean, *row_value<T>(op.invstd, row), double(op.shape.width));
  }
  // Where the gradient of h is written: it becomes dx at once unless elements are dropped.
  T* open(int64_t begin, Buffers& b) const { return is_direct() ? static_cast<T*>(dx.stored) + begin : b.d; }
  void close(int64_t begin, int64_t n, Buffers& b) const {
    if (is_direct()) return;
    if (op.dresidual) dresidual.copy(begin, b.d, n);
    if (!op.dx) return;
    if (drops()) {
      draw_kept(dropout, begin, n, b.kept);
      drop_strip(b.d, b.kept, T(dropout.scale), b.d, n);
    }
    dx.copy(begin, b.d, n);
  }
  void write(const Formula& formula, const GradientRow<T>& row, T* out, int64_t n) const {
    const auto plain = [&](int64_t begin, int64_t end) {
      walk_gradient<Formula, kColumns>(formula, row.from(begin), out + begin, end - begin);
    };
    if (!dx.nontemporal || !is_direct()) return plain(0, n);
    split_at_lines(out, n, plain, [&](int64_t begin, int64_t end) {
      walk_gradient_nontemporal<Formula, kColumns>(formula, row.from(begin), out + begin, end - begin);
    });
  }

  // Short rows, as in forward.
  void short_rows(int64_t row, int64_t rows, T* dw, T* db, Buffers& b) const {
    const int64_t width = op.shape.width, begin = row * width;
    const GradientRow<T> all = load(begin, rows * width, b);
    T* out = is_direct() ? dx.open(begin, b.d) : b.d;
    math::Pair parts[kShortRows];
    for (int64_t first = 0; first < rows; first += kShortRows) {
      const int64_t count = rows - first < kShortRows ? rows - first : kShortRows, at = first * width;
      GradientRow<T> from = all.from(at);
      from.w = params.weight;
      from.dw = dw;
      from.db = db;
      reduce_rows([&](int64_t r, const T*) ONEPASS_INLINED { return sums_of(row + first + r); }, from.x,
                  from.dy, from.w, width, count, parts);
      walk_gradients<kColumns>([&](int64_t r)
                                   ONEPASS_INLINED { return formula_of(row + first + r, parts[r]); },
                               from, out + at, width, count);
    }
    is_direct() ? dx.close(begin, out, rows * width) : close(begin, rows * width, b);
  }
  // Whole rows, which fit a strip. dw and db: the part's sums of all columns.
  void strip_of_rows(int64_t row, int64_t rows, T* dw, T* db, Buffers& b) const {
    if (op.shape.width <= kShortRow) return short_rows(row, rows, dw, db, b);
    const int64_t width = op.shape.width, begin = row * width;
    const GradientRow<T> all = load(begin, rows * width, b);
    T* out = open(begin, b);
    for (int64_t r = 0; r < rows; ++r) {
      GradientRow<T> at = all.from(r * width);
      at.w = params.weight;
      at.dw = dw;
      at.db = db;
      const math::Pair sums = reduce_strip(sums_of(row + r), at.x, at.dy, at.w, width);
      write(formula_of(row + r, sums), at, out + r * width, width);
    }
    close(begin, rows * width, b);
  }
  void strips_of_row(int64_t row, T* dw, T* db, Buffers& b) const {
    const int64_t begin = row * op.shape.width;
    math::Pair sums{0, 0};
    for_each_strip(op.shape.width, [&](int64_t at, int64_t n) {
      const GradientRow<T> strip = load(begin + at, n, b);
      const auto part = reduce_strip(sums_of(row), strip.x, strip.dy, strip.w + at, n);
      sums = {sums.first + part.first, sums.second + part.second};
    });
    const Formula formula = formula_of(row, sums);
    for_each_strip(op.shape.width, [&](int64_t at, int64_t n) {
      GradientRow<T> strip = load(begin + at, n, b);
      strip.w += at;
      strip.dw = kColumns ? dw + at : dw;
      strip.db = kColumns ? db + at : db;
      write(formula, strip, open(begin + at, b), n);
      close(begin + at, n, b);
    });
  }
};

template <class T, bool kCentred, bool kAdds, bool kColumns>
void backward(const RowNorm& op, int threads) {
  using Rows = BackwardRows<T, kCentred, kAdds, kColumns>;
  const Rows rows{op, prepare_params<T>(op), output_of(op, op.dx, true), output_of(op, op.dresidual, true),
                  math::Dropout::make(op.dropout, seed_of(op.device_seed, op.seed))};
  const int64_t width = op.shape.width, part_rows = op.shape.part_rows();
  T* parts = columns_of_parts<T>(op);
  for_each_unit(threads, op.shape.parts(), [&](int64_t i) {
    typename Rows::Buffers buffers;
    T *dw = kColumns ? parts + 2 * i * width : nullptr, *db = kColumns ? dw + width : nullptr;
    if (kColumns) std::memset(dw, 0, size_t(2 * width) * sizeof(T));
    for_each_group(op.shape, i * part_rows, part_rows, [&](int64_t row, int64_t count) {
      width <= kStrip ? rows.strip_of_rows(row, count, dw, db, buffers)
                      : rows.strips_of_row(row, dw, db, buffers);
    });
  });
  if (kColumns) finish_columns(op, parts, threads);
}

template <class T, bool kCentred>
void backward(const RowNorm& op, int threads) {
  const bool columns = op.dweight || op.dbias;
  if (op.dh) {
    return columns ? backward<T, kCentred, true, true>(op, threads)
                   : backward<T, kCentred, true, false>(op, threads);
  }
  columns ? backward<T, kCentred, false, true>(op, threads)
          : backward<T, kCentred, false, false>(op, threads);
}

template <class T>
void forward(const RowNorm& op, int threads) {
  op.centred ? forward<T, true>(op, threads) : forward<T, false>(op, threads);
}

template <class T>
void backward(const RowNorm& op, int threads) {
  op.centred ? backward<T, true>(op, threads) : backward<T, false>(op, threads);
}

}  // namespace

int64_t row_norm_workspace(const RowShape& shape, DType dtype, bool columns) {
  return params_workspace(shape) + (columns ? columns_workspace(shape, dtype) : 0);
}

void row_norm_forward(const RowNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? forward<double>(op, threads) : forward<float>(op, threads);
}

void row_norm_backward(const RowNorm& op, const Launch& launch) {
  const int threads = threads_for(op.shape.numel(), launch.threads);
  op.dtype == DType::kFloat64 ? backward<double>(op, threads) : backward<float>(op, threads);
}

}  // namespace onepass::ONEPASS_ISA
