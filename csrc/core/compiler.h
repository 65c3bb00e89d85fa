// compiler.h - the few words that differ between compilers.
//
// ONEPASS_HD marks a formula that runs on host and device. On the host it is always inlined: the CPU
// kernels are compiled once per instruction set, and an out-of-line copy of an inline function made for
// AVX-512 could be the one the linker keeps for every caller.
#pragma once

#if defined(__CUDACC__)
#define ONEPASS_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define ONEPASS_HD __attribute__((always_inline)) inline
#else
#define ONEPASS_HD inline
#endif

// The same for a lambda on the CPU, written behind its parameters. Called twice, it might become a function
// of its own, and a loop that calls a function is no vector loop.
#if defined(__GNUC__)
#define ONEPASS_INLINED __attribute__((always_inline))
#else
#define ONEPASS_INLINED
#endif

// A function that is never inlined: inlined wherever it is used, its code would be most of a kernel and of
// the time that compiling takes.
#if defined(__CUDACC__)
#define ONEPASS_CALLED __noinline__
#elif defined(__GNUC__)
#define ONEPASS_CALLED __attribute__((noinline))
#else
#define ONEPASS_CALLED
#endif

// Marks the loops that do the work. As functions of their own they can be found in the disassembly, where
// tests/check_isa_symbols.py looks for the wide instructions.
#if defined(__GNUC__)
#define ONEPASS_WALK __attribute__((noinline))
#else
#define ONEPASS_WALK
#endif

// The instruction set this file is compiled for; cmake/cpu.cmake sets it for the files of kernels/ that it
// compiles several times. Everything such a file defines lives in the namespace of that name.
#ifndef ONEPASS_ISA
#define ONEPASS_ISA baseline
#endif

// Tells the vectoriser that the iterations of the next loop do not depend on each other: the binding layer
// has checked that the lists do not overlap.
#if defined(__clang__)
#define ONEPASS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define ONEPASS_INDEPENDENT _Pragma("GCC ivdep")
#else
#define ONEPASS_INDEPENDENT
#endif

// The same for a loop over the lanes of a vector. GCC would unroll a loop of up to 16 iterations before it
// looks for vectors, and then find few.
#if defined(__GNUC__) && !defined(__clang__)
#define ONEPASS_LANES _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#else
#define ONEPASS_LANES ONEPASS_INDEPENDENT
#endif

// Asks for the cache line of an address, which need not be one of memory.
#if defined(__GNUC__)
#define ONEPASS_PREFETCH(address) __builtin_prefetch(address)
#else
#define ONEPASS_PREFETCH(address) static_cast<void>(address)
#endif

// Before a loop of few iterations whose values should not wander between registers. nvcc unrolls such loops,
// and its host compiler would complain of its pragma.
#if defined(__CUDACC__)
#define ONEPASS_UNROLLED
#elif defined(__clang__)
#define ONEPASS_UNROLLED _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define ONEPASS_UNROLLED _Pragma("GCC unroll 16")
#else
#define ONEPASS_UNROLLED
#endif
