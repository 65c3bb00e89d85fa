# Chooses the GPU generations to compile for, unless CMAKE_CUDA_ARCHITECTURES or the environment's CUDAARCHS names them.
#
#   ONEPASS_CUDA_ARCHITECTURES=AUTO   the GPUs of this machine; without one, sm_80 and its PTX
#   ONEPASS_CUDA_ARCHITECTURES=ALL    what a wheel needs: machine code for Turing to Blackwell
#
# Each choice ends with PTX, which the driver compiles for newer GPUs at the first call. Without a GPU it is sm_80:
# its code also runs on sm_86 and sm_89, and kernels that wait for memory gain nothing from code of their own.
# The kernels need compute capability 7.5.
set(ONEPASS_CUDA_ARCHITECTURES AUTO CACHE STRING "GPU generations: AUTO or ALL")
if(NOT ONEPASS_CUDA_ARCHITECTURES MATCHES "^(AUTO|ALL)$")
  message(FATAL_ERROR
    "ONEPASS_CUDA_ARCHITECTURES must be AUTO or ALL, got ${ONEPASS_CUDA_ARCHITECTURES}. "
    "CMAKE_CUDA_ARCHITECTURES takes a list, for example 75;90.")
endif()

# Sets `result` to the compute capabilities of the GPUs found, without dots, in order: those nvcc knows and the kernels
# run on.
function(onepass_find_gpus result)
  set(found)
  find_program(ONEPASS_NVIDIA_SMI nvidia-smi)
  if(ONEPASS_NVIDIA_SMI)
    execute_process(
      COMMAND ${ONEPASS_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE printed RESULT_VARIABLE status ERROR_QUIET TIMEOUT 60)
    if(status EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${printed}")
      string(REPLACE "." "" found "${found}")
    endif()
  endif()
  execute_process(COMMAND ${onepass_nvcc} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
  set(usable)
  foreach(gpu ${found})
    if(gpu LESS 75)
      message(STATUS "onepass: leaves out a GPU of sm_${gpu}: the kernels need sm_75")
    elseif(known AND NOT known MATCHES "compute_${gpu}[^0-9]")
      message(STATUS "onepass: leaves out a GPU of sm_${gpu}, which this nvcc does not know")
    else()
      list(APPEND usable ${gpu})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES usable)
  list(SORT usable COMPARE NATURAL)
  set(${result} ${usable} PARENT_SCOPE)
endfunction()

if(CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
  set(onepass_architectures_from "as CMAKE_CUDA_ARCHITECTURES or CUDAARCHS says")
elseif(ONEPASS_CUDA_ARCHITECTURES STREQUAL "ALL")
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 90-real 100-real 120)
  set(onepass_architectures_from "all that wheels hold, and PTX of the last")
else()
  onepass_find_gpus(onepass_gpus)
  if(onepass_gpus)
    list(POP_BACK onepass_gpus onepass_newest)
    list(TRANSFORM onepass_gpus APPEND -real)
    set(CMAKE_CUDA_ARCHITECTURES ${onepass_gpus} ${onepass_newest})
    set(onepass_architectures_from "the GPUs of this machine, and PTX of the last")
  else()
    set(CMAKE_CUDA_ARCHITECTURES 80)
    set(onepass_architectures_from "no GPU was found, so this is for compute capability 8.0 to 8.9, and as PTX for newer")
  endif()
endif()
