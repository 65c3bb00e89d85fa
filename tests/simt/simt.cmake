# Defines the interface library `simt`, by which the host compiler compiles CUDA kernels (include paths only;
# csrc/core/kernel_compat.cuh picks the simulator whenever the compiler is not nvcc).
# Used by tests/simt/CMakeLists.txt and by the top-level project for the extension module _core_simt.
include_guard(GLOBAL)
find_package(Threads REQUIRED)

set(ONEPASS_CUDA_INCLUDE "" CACHE STRING
    "Folders with the CUDA headers (cuda_runtime.h, crt/, nv/target); empty: look for a CUDA toolkit")

# NVIDIA's own headers in host mode give the types (dim3, float4, __half, cudaError_t). nvcc is not needed.
set(simt_cuda_include ${ONEPASS_CUDA_INCLUDE})
if(NOT simt_cuda_include)
  find_package(CUDAToolkit QUIET)
  set(simt_cuda_include ${CUDAToolkit_INCLUDE_DIRS})
endif()
# CUDA 13 keeps libcu++, which cuda_fp16.h includes, one folder deeper.
foreach(folder IN LISTS simt_cuda_include)
  if(EXISTS "${folder}/cccl")
    list(APPEND simt_cuda_include "${folder}/cccl")
  endif()
endforeach()
foreach(header cuda_runtime.h cuda_bf16.h cuda_fp16.h crt/host_defines.h nv/target)
  unset(simt_found_header CACHE)
  find_path(simt_found_header ${header} PATHS ${simt_cuda_include} NO_DEFAULT_PATH)
  if(NOT simt_found_header)
    list(APPEND simt_missing_headers ${header})
  endif()
endforeach()
unset(simt_found_header CACHE)
if(simt_missing_headers)
  list(JOIN simt_missing_headers ", " simt_missing_headers)
  message(FATAL_ERROR
    "simt: CUDA headers not found: ${simt_missing_headers} (looked in: ${simt_cuda_include}). "
    "Install a CUDA toolkit, or `pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl` and pass "
    "-DONEPASS_CUDA_INCLUDE=<site-packages>/nvidia/cu13/include.")
endif()

add_library(simt INTERFACE)
target_include_directories(simt INTERFACE ${CMAKE_CURRENT_LIST_DIR}/include)
target_include_directories(simt SYSTEM INTERFACE ${simt_cuda_include})
target_compile_definitions(simt INTERFACE ONEPASS_SIMT=1)
target_compile_features(simt INTERFACE cxx_std_17)
target_link_libraries(simt INTERFACE Threads::Threads)

# simt_wrap_sources(<out-var> <file.cu>...): for each .cu file a .cpp file in the build folder that includes it;
# other files pass through. Unlike the source property LANGUAGE, which holds for all targets of a folder, this lets
# one project compile the same .cu file with nvcc as well.
function(simt_wrap_sources out)
  set(sources)
  foreach(file IN LISTS ARGN)
    get_filename_component(path ${file} ABSOLUTE)
    if(path MATCHES "\\.cu$")
      get_filename_component(stem ${path} NAME)
      set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/simt/${stem}.cpp)
      file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${path}\"\n" @ONLY)
      list(APPEND sources ${wrapper})
    else()
      list(APPEND sources ${path})
    endif()
  endforeach()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()
