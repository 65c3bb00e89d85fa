// scratch.h - a vector whose memory outlives the call. A step over 1,000 tensors fills some hundred kilobytes
// of tables; freshly mapped pages would cost more than filling them.
#pragma once

#include <utility>
#include <vector>

namespace onepass {

// A new Scratch is empty. Its memory goes back to the thread that made it, which must also destroy it.
template <class T, class Owner>
class Scratch : public std::vector<T> {
 public:
  Scratch() : std::vector<T>(std::move(spare())) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    this->clear();
    spare() = std::move(static_cast<std::vector<T>&>(*this));
  }

 private:
  static std::vector<T>& spare() {
    thread_local std::vector<T> kept;
    return kept;
  }
};

}  // namespace onepass
