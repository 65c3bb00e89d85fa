# Each CPU kernel is compiled once per instruction set, into a namespace of that name (ONEPASS_ISA). Nothing is
# contracted: a fused multiply-add on one instruction set and not on another would give each its own bits.
set(cpu_options -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off)
# The optimisations of loops are those of -O3, the limits of inlining those of -O2. A loop that does the work is a
# function of its own (ONEPASS_WALK), and its formula is always inlined (ONEPASS_HD), so the limits decide only how
# often the code around such loops is repeated. With those of -O3 a kernel takes 1.3 to 1.6 times as long to compile.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Not so for dropout, whose draws with the channels last are many small functions between small loops: with the
  # limits of -O2 they take 1.2 times as long.
  set(limited_sources ${cpu_sources})
  list(REMOVE_ITEM limited_sources csrc/kernels/dropout/dropout.cpp)
  foreach(limit max-inline-insns-auto=15 max-inline-insns-single=70 inline-min-speedup=30)
    set_property(SOURCE ${limited_sources} APPEND PROPERTY COMPILE_OPTIONS --param=${limit})
  endforeach()
  # Where a loop begins within a line of code decides up to 15 % of its time. So functions begin with a line: then
  # no change elsewhere moves their loops.
  list(APPEND cpu_options -falign-functions=64)
  # The loops over panels are short and many: aligned they take 0.85 to 0.95 times as long. Those of batch norm do
  # not gain, and dropout's forward pass takes 1.08 times as long.
  set_property(SOURCE csrc/kernels/loss/cross_entropy.cpp APPEND PROPERTY COMPILE_OPTIONS -falign-loops=64)
endif()

add_library(onepass_cpu OBJECT csrc/kernels/cpu.cpp ${plan_sources})
set_property(SOURCE ${plan_sources} APPEND PROPERTY COMPILE_OPTIONS ${cpu_options})
target_link_libraries(onepass_cpu PRIVATE onepass_options)

function(onepass_isa name)
  add_library(onepass_${name} OBJECT ${cpu_sources})
  target_link_libraries(onepass_${name} PRIVATE onepass_options)
  target_compile_definitions(onepass_${name} PRIVATE ONEPASS_ISA=${name})
  target_compile_options(onepass_${name} PRIVATE ${cpu_options} ${ARGN})
  target_sources(onepass_cpu INTERFACE $<TARGET_OBJECTS:onepass_${name}>)
endfunction()

onepass_isa(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  onepass_isa(avx2 -march=x86-64-v3)
  onepass_isa(avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  # Lets csrc/core/isa.cpp choose one when the module is loaded.
  target_compile_definitions(onepass_options INTERFACE ONEPASS_X86)
endif()
target_sources(onepass_cpu INTERFACE $<TARGET_OBJECTS:onepass_cpu>)
