// simt.h - runs CUDA kernels on the host, for tests without a GPU and without nvcc.
//
// Kernels include core/kernel_compat.cuh, which comes here when the compiler is not nvcc. Every CUDA thread
// is a fiber that runs until it waits in a collective or returns; one OS thread runs them all. In the order
// of reading: machine.h (state), fiber.h (stacks), scheduler.h (who runs next), collectives.h (waiting for
// each other), launch.h (a grid from start to end). tests/simt/README.md says what it finds and what not.
#pragma once

#include "simt/builtins_math.h"
#include "simt/builtins_sync.h"
#include "simt/cooperative.h"
#include "simt/launch.h"
#include "simt/runtime.h"
