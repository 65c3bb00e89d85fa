#include "bind/core/overlap.h"

#include <algorithm>
#include <mutex>
#include <tuple>
#include <unordered_set>

#include "bind/core/shared.h"
#include "core/check.h"

namespace onepass {
namespace {

constexpr size_t kRemembered = 256;

// The finaliser of MurmurHash3 (Appleby): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

}  // namespace

uint64_t OverlapCheck::hash() const {
  // A sum does not depend on the order of the spans, and its terms do not wait for each other.
  uint64_t sum = spans_.size();
  for (const Span& span : spans_) {
    sum += mix(span.begin * 0x9e3779b97f4a7c15ull ^ (span.end() << 1 | span.written));
  }
  return mix(sum);
}

void OverlapCheck::run() {
  static Guard guard;
  static std::unordered_set<uint64_t> passed;
  const uint64_t key = hash();
  {
    const std::lock_guard<Guard> hold(guard);
    if (passed.count(key)) return;
  }
  std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) {
    return std::tie(a.begin, a.group, a.index) < std::tie(b.begin, b.group, b.index);
  });
  const Span* last = nullptr;     // the span that reaches furthest so far
  const Span* written = nullptr;  // the written span that reaches furthest so far
  for (const Span& span : spans_) {
    const Span* hit = span.written ? last : written;
    if (hit && span.begin < hit->end()) {
      throw ValueError(concat(to_string(name_of(*hit)), " and ", place_of(name_of(span)),
                              " must not share memory, got overlapping storage"));
    }
    if (!last || span.end() > last->end()) last = &span;
    if (span.written && (!written || span.end() > written->end())) written = &span;
  }
  const std::lock_guard<Guard> hold(guard);
  if (passed.size() >= kRemembered) passed.clear();
  passed.insert(key);
}

}  // namespace onepass
