// check.h - errors named for the Python exceptions they become: ValueError, TypeError, RuntimeError. Only
// bind/ checks arguments; the layers below trust what they are given.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace onepass {

struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct RuntimeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace onepass

// OP_CHECK(ok, ValueError, "adamw: params[", i, "] must ..., got ...").
#define OP_CHECK(condition, Error, ...)                                       \
  do {                                                                        \
    if (!(condition)) throw ::onepass::Error(::onepass::concat(__VA_ARGS__)); \
  } while (false)
