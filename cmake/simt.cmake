# Builds onepass._core_simt for tests/: the bindings, with the CUDA kernels compiled by the host compiler.
if(ONEPASS_SIMT STREQUAL "AUTO")
  find_package(CUDAToolkit QUIET)
  if(NOT CUDAToolkit_FOUND AND NOT ONEPASS_CUDA_INCLUDE)
    message(STATUS "onepass: without _core_simt, no CUDA headers found")
    return()
  endif()
endif()
include(tests/simt/simt.cmake)

simt_wrap_sources(simt_kernels ${cuda_sources})
add_library(onepass_simt_kernels OBJECT ${simt_kernels})
target_link_libraries(onepass_simt_kernels PRIVATE onepass_options simt)
# The host compiler does not know nvcc's #pragma unroll.
target_compile_options(onepass_simt_kernels PRIVATE
  -O2 -fno-math-errno -ffp-contract=off -Wno-unknown-pragmas)

onepass_module(_core_simt ONEPASS_SIMT=1)
target_sources(_core_simt PRIVATE $<TARGET_OBJECTS:onepass_simt_kernels> tests/simt/src/bind_graph.cpp)
target_link_libraries(_core_simt PRIVATE simt)
