// graph.h - a CUDA graph, as far as kernels can tell: launches that are captured instead of run, with the
// arguments of that moment. Each replay runs them on what memory holds at that time.
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace simt {

class Graph {
 public:
  // From here on launches are captured and not run.
  void begin() { recording() = this; }
  static void end() { recording() = nullptr; }
  void replay() const {
    for (const auto& launch : launches_) launch();
  }
  size_t size() const { return launches_.size(); }

  // The graph that is being captured, or nullptr.
  static Graph*& recording() {
    static Graph* now = nullptr;
    return now;
  }
  void add(std::function<void()> launch) { launches_.push_back(std::move(launch)); }

 private:
  std::vector<std::function<void()>> launches_;
};

}  // namespace simt
