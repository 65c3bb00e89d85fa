# The one list of sources. A kernel is named by family and stem: its CPU code is csrc/kernels/<kernel>.cpp, its CUDA
# code csrc/kernels/<kernel>.cu, its binding csrc/bind/<kernel>.cpp.
set(onepass_kernels
  augment/augment
  dropout/dropout
  loss/cross_entropy
  norm/batch_norm
  norm/merge_ranks
  norm/row_norm
  optim/adam
  optim/clip
  optim/lion
  optim/sgd
  optim/statistics)
list(TRANSFORM onepass_kernels PREPEND csrc/kernels/ OUTPUT_VARIABLE kernel_paths)
list(TRANSFORM onepass_kernels PREPEND csrc/bind/ OUTPUT_VARIABLE bind_paths)
list(TRANSFORM kernel_paths APPEND .cpp OUTPUT_VARIABLE cpu_sources)
list(TRANSFORM kernel_paths APPEND .cu OUTPUT_VARIABLE cuda_sources)
list(TRANSFORM bind_paths APPEND .cpp OUTPUT_VARIABLE bind_sources)

# What has no counterpart in the other lists.
list(APPEND cpu_sources csrc/kernels/probe/probe.cpp)
list(APPEND cuda_sources csrc/kernels/optim/step_count.cu)
# Work on the host around kernels, a few numbers each image: compiled once, for all instruction sets.
set(plan_sources
  csrc/kernels/augment/batch_draws.cpp
  csrc/kernels/augment/batch_plan.cpp
  csrc/kernels/augment/batch_records.cpp)
list(APPEND bind_sources
  csrc/bind/module.cpp
  csrc/bind/augment/augment_draws.cpp
  csrc/bind/augment/augment_plan.cpp
  csrc/bind/core/draw_places.cpp
  csrc/bind/core/layer.cpp
  csrc/bind/core/named.cpp
  csrc/bind/core/overlap.cpp
  csrc/bind/core/probe.cpp
  csrc/bind/core/read_numbers.cpp
  csrc/bind/core/target.cpp
  csrc/bind/core/tensor.cpp
  csrc/bind/optim/batch.cpp
  csrc/bind/optim/optim.cpp
  csrc/bind/optim/param_groups.cpp
  csrc/bind/optim/plan.cpp
  csrc/bind/optim/precision.cpp
  csrc/bind/optim/step_count.cpp
  csrc/bind/optim/tail.cpp)
