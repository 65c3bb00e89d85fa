// check.h - errors that become Python exceptions: ShapeError -> ValueError, KindError -> TypeError,
// DeviceError -> RuntimeError. Only bind/ checks arguments; layers below trust what they are given.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace onepass {

struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct KindError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace onepass

// OP_CHECK(ok, ShapeError, "adamw: params[", i, "] must ...").
#define OP_CHECK(condition, Error, ...)                                       \
  do {                                                                        \
    if (!(condition)) throw ::onepass::Error(::onepass::concat(__VA_ARGS__)); \
  } while (false)
