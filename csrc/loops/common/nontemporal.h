// nontemporal.h - non-temporal stores: results that are stored past the caches, on the CPU, in whole lines,
// as soon as they are made.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "loops/common/fetch.h"

namespace onepass::ONEPASS_ISA {

// to[0 .. bytes) = from[0 .. bytes) past the caches: a line that is written whole need not be read first.
// `to` begins a line, and bytes is a multiple of a line.
ONEPASS_HD void copy_lines_nontemporal(void* to, const void* from, int64_t bytes) {
  char* out = static_cast<char*>(to);
  const char* in = static_cast<const char*>(from);
#if defined(__AVX512F__)
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm512_stream_si512((__m512i*)(out + i), _mm512_loadu_si512(in + i));
  }
#elif defined(__AVX__)
  for (int64_t i = 0; i < bytes; i += 32) {
    _mm256_stream_si256((__m256i*)(out + i), _mm256_loadu_si256((const __m256i*)(in + i)));
  }
#elif defined(__SSE2__)
  for (int64_t i = 0; i < bytes; i += 16) {
    _mm_stream_si128((__m128i*)(out + i), _mm_loadu_si128((const __m128i*)(in + i)));
  }
#else
  std::memcpy(out, in, size_t(bytes));
#endif
}

// Bytes that loops store past the caches at a time; fewer at the end.
constexpr int64_t kNontemporalBytes = 256;
template <class S>
constexpr int64_t kNontemporalBlock = kNontemporalBytes / int64_t(sizeof(S));
template <class S>
constexpr int64_t kLineElements = kLine / int64_t(sizeof(S));

// out[0 .. n) past the caches, n a number of whole lines: fill(begin, block, count) writes elements begin ..
// begin + count, a number that the compiler knows, to block.
template <class S, class Fill>
ONEPASS_HD void fill_nontemporal(S* out, int64_t n, const Fill& fill) {
  int64_t i = 0;
  for (; i + kNontemporalBlock<S> <= n; i += kNontemporalBlock<S>) {
    alignas(64) S block[kNontemporalBlock<S>];
    fill(i, block, std::integral_constant<int64_t, kNontemporalBlock<S>>{});
    copy_lines_nontemporal(out + i, block, kNontemporalBytes);
  }
  for (; i < n; i += kLineElements<S>) {
    alignas(64) S block[kLineElements<S>];
    fill(i, block, std::integral_constant<int64_t, kLineElements<S>>{});
    copy_lines_nontemporal(out + i, block, kLine);
  }
}

// A line that is filled piece by piece before it is stored past the caches: stored in parts it would have to
// be read first. Pieces come in the order of memory.
template <class S>
class OpenLine {
 public:
  // Where to write the piece that belongs at `out`: into the line, unless no piece was its beginning.
  S* open(S* out) {
    if (past(out) == 0) begin_ = out;
    return begin_ ? elements_ + past(out) : out;
  }
  // n elements were written there.
  void fill(S* out, int64_t n) {
    if (!begin_) return;
    filled_ = past(out) + n;
    if (filled_ < kLineElements<S>) return;
    copy_lines_nontemporal(begin_, elements_, kLine);
    begin_ = nullptr;
  }
  // No more pieces will come.
  void close() {
    if (begin_) std::memcpy(begin_, elements_, size_t(filled_) * sizeof(S));
    begin_ = nullptr;
  }

 private:
  static int64_t past(const S* out) {
    return int64_t(reinterpret_cast<uintptr_t>(out) % kLine) / int64_t(sizeof(S));
  }
  alignas(kLine) S elements_[kLineElements<S>];
  S* begin_ = nullptr;  // where the line belongs
  int64_t filled_ = 0;
};

// Cuts n elements at `out` where lines begin: whole_lines(begin, end) for whole lines, plain(begin, end) for
// the elements before and behind them.
template <class S, class Plain, class WholeLines>
ONEPASS_HD void split_at_lines(const S* out, int64_t n, const Plain& plain, const WholeLines& whole_lines) {
  const int64_t past = int64_t(reinterpret_cast<uintptr_t>(out) % kLine);
  const int64_t missing = past == 0 ? 0 : (kLine - past) / int64_t(sizeof(S)),
                head = missing < n ? missing : n;
  const int64_t end = head + (n - head) / kLineElements<S> * kLineElements<S>;
  if (head > 0) plain(0, head);
  if (head < end) whole_lines(head, end);
  if (end < n) plain(end, n);
}

// The same for a piece whose neighbours share its first and last line: plain(begin, end, to) writes to `to`.
template <class S, class Plain, class WholeLines>
ONEPASS_HD void split_at_lines(OpenLine<S>& line, S* out, int64_t n, const Plain& plain,
                               const WholeLines& whole_lines) {
  const auto shared = [&](int64_t begin, int64_t end) ONEPASS_INLINED {
    plain(begin, end, line.open(out + begin));
    line.fill(out + begin, end - begin);
  };
  split_at_lines(out, n, shared, whole_lines);
}

// to[0 .. bytes) = from[0 .. bytes), whole lines past the caches, for any place and number.
ONEPASS_WALK inline void copy_nontemporal(void* to, const void* from, int64_t bytes) {
  char* out = static_cast<char*>(to);
  const char* in = static_cast<const char*>(from);
  const int64_t past = int64_t(reinterpret_cast<uintptr_t>(out) % kLine), head = (kLine - past) % kLine;
  if (head + kLine > bytes) {
    std::memcpy(out, in, size_t(bytes));
    return;
  }
  const int64_t lines = (bytes - head) / kLine * kLine;
  std::memcpy(out, in, size_t(head));
  copy_lines_nontemporal(out + head, in + head, lines);
  std::memcpy(out + head + lines, in + head + lines, size_t(bytes - head - lines));
}

// Ends a thread's non-temporal stores: others may read after it.
inline void nontemporal_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Outputs of this many bytes and more are stored past the caches. Measured with 26 and 103 MB, on a Zen 4
// with 32 MB of last-level cache: both walks of batch norm's forward took 1.5 and 1.3 times as long with
// plain stores, and a reader that follows was not slower. On a Zen 5 plain stores took 1.05 to 1.2 times as
// long with 8 to 16 MB.
constexpr int64_t kNontemporalLeast = 8 << 20;

}  // namespace onepass::ONEPASS_ISA
