# Builds the CUDA kernels where ONEPASS_CUDA asks for them.
add_library(onepass_cuda INTERFACE)
set(onepass_cuda_definitions)
set(onepass_nvcc NOTFOUND)
if(NOT ONEPASS_CUDA STREQUAL "OFF")
  check_language(CUDA)
  set(onepass_nvcc ${CMAKE_CUDA_COMPILER})
endif()

if(ONEPASS_CUDA STREQUAL "ON" AND NOT onepass_nvcc)
  message(FATAL_ERROR
    "ONEPASS_CUDA=ON needs the CUDA compiler nvcc (CUDA >= 12.1), and none was found. Put nvcc on PATH, or "
    "set CUDACXX to it, or build without CUDA (ONEPASS_CUDA=OFF).")
endif()

if(NOT onepass_nvcc)
  if(ONEPASS_CUDA STREQUAL "AUTO")
    message(STATUS "onepass: CPU only, since nvcc was not found (put it on PATH, or set CUDACXX to it)")
  else()
    message(STATUS "onepass: CPU only (ONEPASS_CUDA=OFF)")
  endif()
  return()
endif()

include(cmake/cuda_architectures.cmake)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
find_package(CUDAToolkit 12.1 REQUIRED)

add_library(onepass_cuda_kernels OBJECT ${cuda_sources})
target_link_libraries(onepass_cuda_kernels PRIVATE onepass_options CUDA::cudart_static)
# -fmad=false gives the same bits as the CPU kernels, at no cost: the kernels wait for memory, not for arithmetic.
target_compile_options(onepass_cuda_kernels PRIVATE
  -fmad=false --threads=2 -Xfatbin=-compress-all -Xcompiler=-Wall,-Wextra -Werror=all-warnings)
target_sources(onepass_cuda INTERFACE $<TARGET_OBJECTS:onepass_cuda_kernels>)
target_link_libraries(onepass_cuda INTERFACE CUDA::cudart_static)

list(JOIN CMAKE_CUDA_ARCHITECTURES "/" onepass_architectures)
string(REPLACE "-real" "" onepass_architectures "${onepass_architectures}")
set(ONEPASS_BUILT_ARCHITECTURES ${onepass_architectures} CACHE INTERNAL "What benchmarks/build_times.py reads")
message(STATUS "onepass: CUDA ${CUDAToolkit_VERSION} for ${onepass_architectures}: ${onepass_architectures_from}")
message(STATUS "onepass: for other GPUs -DCMAKE_CUDA_ARCHITECTURES=75 (or a list), for all from sm_75 on "
  "-DONEPASS_CUDA_ARCHITECTURES=ALL, for none -DONEPASS_CUDA=OFF")
set(onepass_cuda_definitions
  ONEPASS_CUDA_VERSION=${CUDAToolkit_VERSION_MAJOR}.${CUDAToolkit_VERSION_MINOR}
  ONEPASS_CUDA_ARCHITECTURES=${onepass_architectures})
