# The native CPU kernels: each file once for every instruction set that the compiler knows, the best first. Which of them
# runs is decided at run time (csrc/cpu/levels.cpp).
include(CheckCXXCompilerFlag)

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 9)
  message(FATAL_ERROR "the CPU's kernels need GCC 9 or later (__builtin_convertvector), or Clang; ${CMAKE_CXX_COMPILER} is GCC "
                      "${CMAKE_CXX_COMPILER_VERSION}. Name another by the environment variable CXX, e.g. CXX=g++-9")
endif()

set(cpu_kernels
    csrc/cpu/kernels/conv2d.cpp
    csrc/cpu/kernels/depthwise3x3.cpp
    csrc/cpu/kernels/image_to_map.cpp
    csrc/cpu/kernels/inverted_residual.cpp
    csrc/cpu/kernels/max_pool3x3.cpp
    csrc/cpu/kernels/multiscale_mean.cpp
    csrc/cpu/kernels/spatial_pyramid_pool.cpp
    csrc/cpu/kernels/table.cpp
    csrc/cpu/kernels/upsample_add.cpp
    csrc/cpu/kernels/winograd.cpp)
set(cpu_sources
    csrc/cpu/conv2d.cpp
    csrc/cpu/inverted_residual.cpp
    csrc/cpu/levels.cpp
    csrc/cpu/maps.cpp
    csrc/cpu/multiscale_mean.cpp
    csrc/cpu/parallel.cpp
    csrc/cpu/spatial_pyramid_pool.cpp)

set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512)
set(level_flags_amx ${avx512} -mavx512bf16 -mamx-tile -mamx-bf16)
set(level_flags_avx512_bf16 ${avx512} -mavx512bf16)
set(level_flags_avx512 ${avx512})
set(level_flags_avx2 -mavx2 -mfma)

set(known_cpu_levels portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(known_cpu_levels amx avx512_bf16 avx512 avx2 portable)
endif()
if(SWIFTNET_EMULATION AND SWIFTNET_EMULATION_CHECK STREQUAL "none")  # the others are in the extension
  set(SWIFTNET_EXT_CPU_LEVELS portable)
else()
  swiftnet_setting(SWIFTNET_EXT_CPU_LEVELS "${known_cpu_levels}")
endif()
separate_arguments(SWIFTNET_EXT_CPU_LEVELS)
foreach(level ${SWIFTNET_EXT_CPU_LEVELS})
  if(NOT level IN_LIST known_cpu_levels)
    message(FATAL_ERROR "SWIFTNET_EXT_CPU_LEVELS: expected some of ${known_cpu_levels}, got '${level}'")
  endif()
endforeach()
set(cpu_levels "")
foreach(level ${known_cpu_levels})
  if(NOT level IN_LIST SWIFTNET_EXT_CPU_LEVELS)
    continue()
  endif()
  if(level_flags_${level})
    string(REPLACE ";" " " flags "${level_flags_${level}}")
    check_cxx_compiler_flag("${flags}" SWIFTNET_COMPILER_KNOWS_${level})
    if(NOT SWIFTNET_COMPILER_KNOWS_${level})
      continue()
    endif()
  endif()
  list(APPEND cpu_levels ${level})
endforeach()
if(NOT portable IN_LIST cpu_levels)
  message(FATAL_ERROR "SWIFTNET_EXT_CPU_LEVELS=${SWIFTNET_EXT_CPU_LEVELS} lacks portable, which every CPU runs; add it")
endif()
if(SWIFTNET_EMULATION OR SWIFTNET_SANITIZE)  # the AMX level's convolutions, with the tiles in plain C++
  list(APPEND cpu_levels tiles_emulated)
  set(level_flags_tiles_emulated -DSWIFTNET_TILES_EMULATED)
endif()
list(TRANSFORM cpu_levels REPLACE "(.+)" "X(\\1)" OUTPUT_VARIABLE for_each_cpu_level)
string(REPLACE ";" " " for_each_cpu_level "${for_each_cpu_level}")

# Adds them to a module.
function(swiftnet_add_cpu_kernels target)
  set(checks "")
  if(SWIFTNET_SANITIZE)  # not of the bindings: Python's own headers index beyond arrays of one
    set(checks ${sanitizer_options})
    set_source_files_properties(${cpu_sources} PROPERTIES COMPILE_OPTIONS "${checks}")
  endif()
  foreach(level ${cpu_levels})
    add_library(cpu_${level} OBJECT ${cpu_kernels})
    set_target_properties(cpu_${level} PROPERTIES CXX_STANDARD 14)
    target_include_directories(cpu_${level} PRIVATE csrc)
    target_compile_definitions(cpu_${level} PRIVATE SWIFTNET_CPU_LEVEL=${level} SWIFTNET_CPU_LEVEL_NAME="${level}")
    target_compile_options(cpu_${level} PRIVATE -O3 -Wall -Wextra -Wno-psabi ${level_flags_${level}} ${checks})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:cpu_${level}>)
  endforeach()
  target_sources(${target} PRIVATE ${cpu_sources} csrc/cpu/bindings.cpp)
  target_compile_definitions(${target} PRIVATE SWIFTNET_WITH_CPU_KERNELS)
  target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
endfunction()
