// kept_memory.h - scratch memory of a thread that outlives the call: fresh pages would cost more than filling
// them. It goes back when the thread ends.
#pragma once

#include <cstdint>

namespace onepass {

// At least `bytes` of memory that begins a line, the calling thread's until its next call. What is in it is
// rubbish. Throws std::bad_alloc.
void* kept_memory(int64_t bytes);

// Gives what is more than `bytes` back.
void trim_kept_memory(int64_t bytes);

}  // namespace onepass
