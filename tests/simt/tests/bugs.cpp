// bugs.cpp - the simulator's own regression test: 27 planted bugs, each of which the builds named in the
// table must notice, and clean kernels that every build must accept.
//
// A bug is noticed when a launch throws, a sanitizer or the processor ends the process, or a result is wrong.
// Each case runs in its own process. A build may notice more than it must: nothing is demanded that depends
// on the layout of the heap or on the compiler.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "bugs.h"
#include "harness.h"

using onepass::gpu::launch;
using namespace bugs;

namespace {

constexpr double kTolerance = 1e-4;

// Each case launches a kernel and returns whether its results are right.

template <Bug bug>
bool block_sum_case() {
  constexpr int n = 100;
  std::vector<float> x(n);
  double want = 0;
  for (int i = 0; i < n; ++i) want += x[i] = float(i % 13);
  Dev<float> in(x), out(kThreads);
  launch(block_sum<bug>, 1, kThreads, 0, 0, in.get(), out.get(), n);
  for (float got : out.host()) {
    if (!close(got, want, kTolerance)) return false;
  }
  return true;
}

template <Bug bug>
bool rotate_case() {
  constexpr int repeats = 3;
  Dev<float> out(repeats * kThreads);
  launch(rotate<bug>, 1, kThreads, 0, 0, out.get(), repeats);
  const std::vector<float> got = out.host();
  for (int i = 0; i < repeats * kThreads; ++i) {
    const int want = (i % kThreads + 37) % kThreads + i / kThreads * 1000;
    if (!close(got[i], want, kTolerance)) return false;
  }
  return true;
}

template <Bug bug>
bool warp_reverse_case() {
  Dev<float> out(32);
  launch(warp_reverse<bug>, 1, 32, 0, 0, out.get());
  const std::vector<float> got = out.host();
  for (int i = 0; i < 32; ++i) {
    if (!close(got[i], 31 - i, kTolerance)) return false;
  }
  return true;
}

template <Bug bug>
bool last_block_case() {
  constexpr int blocks = 16;
  Dev<float> partials(blocks), out(1);
  Dev<unsigned> count = zeros<unsigned>(1);
  launch(last_block_sum<bug>, blocks, 32, 0, 0, partials.get(), count.get(), out.get());
  return close(out.host()[0], blocks * (blocks + 1) / 2, kTolerance);
}

bool chain_case() {
  constexpr int blocks = 16;
  Dev<float> x = zeros<float>(blocks);
  launch(chain, blocks, 32, 0, 0, x.get());
  const std::vector<float> got = x.host();
  for (int i = 0; i < blocks; ++i) {
    if (!close(got[i], i, kTolerance)) return false;
  }
  return true;
}

template <Bug bug>
bool memory_case() {
  Dev<float> p(std::vector<float>(kThreads, 1.f));
  launch(memory<bug>, 1, kThreads, kThreads * sizeof(float), 0, p.get(), kThreads);
  const std::vector<float> got = p.host();
  for (int i = 0; i < kThreads; ++i) {
    if (std::isnan(got[i])) return false;
    if (bug == Bug::kNeighbourInPlace && !close(got[i], i + 1, kTolerance)) return false;
  }
  return bug != Bug::kPlainAdd || close(got[0], kThreads + 1, kTolerance);
}

bool freed_memory_case() {
  float* freed = nullptr;
  {
    Dev<float> p(kThreads);
    freed = p.get();
  }
  launch(block_sum<Bug::kNone>, 1, kThreads, 0, 0, freed, freed, kThreads);
  return true;
}

bool host_pointer_case() {
  const std::vector<float> x(100, 1.f);
  Dev<float> out(kThreads);
  launch(block_sum<Bug::kNone>, 1, kThreads, 0, 0, x.data(), out.get(), 100);
  return close(out.host()[0], 100, kTolerance);
}

// The runs that must notice a bug. The plain build makes two of them.
enum Run : unsigned {
  kInOrder = 1,     // plain, threads and blocks in order
  kAnyOrder = 2,    // plain, all orders of the harness
  kSanitizers = 4,  // address and undefined
  kRaceDetector = 8,
  kNobody = 0,
  kAll = 15,
};

struct Case {
  const char* name;
  bool (*right)();
  unsigned noticed_by;
};

const Case kCases[] = {
    {"clean: block sum", block_sum_case<Bug::kNone>, kNobody},
    {"clean: rotate", rotate_case<Bug::kNone>, kNobody},
    {"clean: warp reverse", warp_reverse_case<Bug::kNone>, kNobody},
    {"clean: last block", last_block_case<Bug::kNone>, kNobody},

    {"no __syncthreads before partials", block_sum_case<Bug::kNoBarrierBeforePartials>, kAll},
    {"no __syncthreads before reuse", rotate_case<Bug::kNoBarrierBeforeReuse>, kAll},
    {"no __syncwarp", warp_reverse_case<Bug::kNoSyncwarp>, kAll},
    {"no __syncthreads before broadcast", block_sum_case<Bug::kNoBarrierBeforeBroadcast>,
     kAnyOrder | kRaceDetector},
    {"reads its neighbour in place", memory_case<Bug::kNeighbourInPlace>, kAnyOrder | kRaceDetector},
    {"block reads another block's result", chain_case, kAnyOrder | kRaceDetector},

    {"__syncthreads in a branch", block_sum_case<Bug::kBarrierInBranch>, kAll},
    {"__syncthreads in both branches", block_sum_case<Bug::kBarrierInBothBranches>, kAll},
    {"return before __syncthreads", block_sum_case<Bug::kReturnBeforeBarrier>, kAll},
    {"shuffle of width 16, not 32", block_sum_case<Bug::kShuffleWidth16>, kAll},
    {"shuffle of width 24", block_sum_case<Bug::kShuffleWidth24>, kAll},
    {"full mask in half a warp", block_sum_case<Bug::kFullMaskInHalfWarp>, kAll},
    {"calling lane not in its mask", block_sum_case<Bug::kLaneNotInMask>, kAll},

    {"shared memory past the end", block_sum_case<Bug::kSharedPastEnd>, kSanitizers | kRaceDetector},
    {"dynamic shared memory past the end", memory_case<Bug::kDynamicSharedPastEnd>,
     kSanitizers | kRaceDetector},
    {"global write past the end", block_sum_case<Bug::kGlobalWritePastEnd>, kSanitizers | kRaceDetector},
    {"global read past the end", memory_case<Bug::kGlobalReadPastEnd>, kSanitizers | kRaceDetector},
    {"freed device memory", freed_memory_case, kSanitizers | kRaceDetector},
    {"misaligned 128-bit load", memory_case<Bug::kMisalignedVector>, kSanitizers | kRaceDetector},
    {"32-bit index overflow", memory_case<Bug::kIndexOverflow>, kSanitizers},
    {"local array past the end", memory_case<Bug::kLocalPastEnd>, kSanitizers},

    {"+= where atomicAdd is needed", memory_case<Bug::kPlainAdd>, kRaceDetector},
    {"last block: counter not atomic", last_block_case<Bug::kCounterNotAtomic>, kRaceDetector},
    {"last block: no __threadfence", last_block_case<Bug::kNoFence>, kRaceDetector},
    {"host pointer given to a kernel", host_pointer_case, kRaceDetector},

    {"shared memory read before written", memory_case<Bug::kSharedNotWritten>, kAll},
    {"spins on nobody", memory_case<Bug::kSpin>, kAll},
};

constexpr unsigned kTimeoutSeconds = 120;

// The child process: runs the case, reports to the parent what was noticed, and never returns.
[[noreturn]] void run_case(const Case& planted, int orders, int pipe_to_parent) {
  dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
  alarm(kTimeoutSeconds);
  std::string noticed;
  for (int order = 0; order < orders && noticed.empty(); ++order) {
    set_order(order);
    try {
      if (!planted.right()) noticed = "wrong result";
    } catch (const simt::Error& error) {
      noticed = error.what();
    }
  }
  const bool told = write(pipe_to_parent, noticed.data(), noticed.size()) == ssize_t(noticed.size());
  _exit(told ? EXIT_SUCCESS : EXIT_FAILURE);
}

// Returns what was noticed; empty if nothing.
std::string notice(const Case& planted, int orders) {
  int ends[2];
  if (pipe(ends) != 0) return "";
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) run_case(planted, orders, ends[1]);
  close(ends[1]);
  int status = 0;
  waitpid(child, &status, 0);
  char message[1024];
  const ssize_t length = read(ends[0], message, sizeof message);
  close(ends[0]);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return "";
  if (WIFSIGNALED(status)) return strsignal(WTERMSIG(status));
  if (WEXITSTATUS(status) != EXIT_SUCCESS) return "ended by a sanitizer";
  return std::string(message, size_t(std::max<ssize_t>(length, 0)));
}

void check_case(const Case& planted, Run run, int orders) {
  const std::string noticed = notice(planted, orders);
  const char* expected = planted.noticed_by & run ? "must" : planted.noticed_by ? "may" : "must not";
  printf("%-36s %-9s %s\n", planted.name, expected, noticed.empty() ? "-" : noticed.c_str());
  if (planted.noticed_by & run) CHECK(!noticed.empty(), "not noticed: %s", planted.name);
  if (planted.noticed_by == kNobody) CHECK(noticed.empty(), "false alarm: %s", planted.name);
}

void check_all(Run run, int orders) {
  printf("--- %d orders\n", orders);
  for (const Case& planted : kCases) check_case(planted, run, orders);
}

}  // namespace

int main() {
#if SIMT_ASAN
  check_all(kSanitizers, kOrders);
#elif defined(SIMT_RACE)
  check_all(kRaceDetector, kOrders);
#else
  check_all(kInOrder, 1);
  check_all(kAnyOrder, kOrders);
#endif
  printf("%d checks, %d failures\n", checks, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
