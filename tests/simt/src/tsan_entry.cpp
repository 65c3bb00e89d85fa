// tsan_entry.cpp - the functions that -fsanitize=thread calls, in place of libtsan's.
//
// Plain accesses go to the race detector. Atomics of the language (std::atomic, guards of static variables)
// occur only in host code, since kernels use CUDA's atomic functions: here they are plain atomics.
#include "race_check.h"

using simt::race::check_access;
using simt::race::number;

#define SIMT_ACCESS(name, size, write) \
  void name(void* address) { check_access(number(address), size, write, false, __builtin_return_address(0)); }
#define SIMT_ACCESSES(size)                             \
  SIMT_ACCESS(__tsan_read##size, size, false)           \
  SIMT_ACCESS(__tsan_write##size, size, true)           \
  SIMT_ACCESS(__tsan_unaligned_read##size, size, false) \
  SIMT_ACCESS(__tsan_unaligned_write##size, size, true)

// The last parameter of each is the memory order; sequential consistency satisfies all.
constexpr int kOrder = __ATOMIC_SEQ_CST;

#define SIMT_ATOMIC(bits, T)                                                                                \
  T __tsan_atomic##bits##_load(const volatile T* address, int) { return __atomic_load_n(address, kOrder); } \
  void __tsan_atomic##bits##_store(volatile T* address, T value, int) {                                     \
    __atomic_store_n(address, value, kOrder);                                                               \
  }                                                                                                         \
  T __tsan_atomic##bits##_exchange(volatile T* address, T value, int) {                                     \
    return __atomic_exchange_n(address, value, kOrder);                                                     \
  }                                                                                                         \
  T __tsan_atomic##bits##_fetch_add(volatile T* address, T value, int) {                                    \
    return __atomic_fetch_add(address, value, kOrder);                                                      \
  }                                                                                                         \
  T __tsan_atomic##bits##_fetch_sub(volatile T* address, T value, int) {                                    \
    return __atomic_fetch_sub(address, value, kOrder);                                                      \
  }                                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* address, T* expected, T value, int, int) {  \
    return __atomic_compare_exchange_n(address, expected, value, false, kOrder, kOrder);                    \
  }                                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* address, T* expected, T value, int, int) {    \
    return __atomic_compare_exchange_n(address, expected, value, true, kOrder, kOrder);                     \
  }

extern "C" {

SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)

void __tsan_read_range(void* address, unsigned long size) {
  check_access(number(address), size, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long size) {
  check_access(number(address), size, true, false, __builtin_return_address(0));
}

SIMT_ATOMIC(8, unsigned char)
SIMT_ATOMIC(16, unsigned short)
SIMT_ATOMIC(32, unsigned int)
SIMT_ATOMIC(64, unsigned long)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

}  // extern "C"
