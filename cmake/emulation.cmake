# The emulated module: the kernels compiled by g++ for a CPU, with what SWIFTNET_EMULATION_CHECK asks for compiled in.
#
# none      quick
# race      conflicting accesses and uninitialised shared reads, by own hooks in libtsan's place; sectors are counted
# sanitize  AddressSanitizer and UndefinedBehaviorSanitizer
# coverage  which device lines ran, by gcov
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(device_options "")
set(link_options "")
set(check_sources "")
if(SWIFTNET_EMULATION_CHECK STREQUAL "none")
  set(device_options -O2)
elseif(SWIFTNET_EMULATION_CHECK STREQUAL "race")
  set(device_options -O1 -g1 -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
  set(check_sources csrc/emulation/access_check.cpp)
elseif(SWIFTNET_EMULATION_CHECK STREQUAL "sanitize")
  set(device_options ${sanitizer_options})
  set(link_options ${sanitizer_link_options})
  set(check_sources csrc/emulation/sanitizer_reports.cpp)
elseif(SWIFTNET_EMULATION_CHECK STREQUAL "coverage")
  set(device_options -O0 -g1 --coverage)
  set(link_options --coverage)
else()
  message(FATAL_ERROR "SWIFTNET_EMULATION_CHECK: expected none, race, sanitize or coverage, got '${SWIFTNET_EMULATION_CHECK}'")
endif()

set(device_sources ${kernels} csrc/emulation/probes.cu csrc/emulation/tensor_core_probes.cu)
set_source_files_properties(${device_sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-Wno-unknown-pragmas;${device_options}")
if(SWIFTNET_EMULATION_CHECK STREQUAL "sanitize")  # which switches stacks must tell the sanitizer
  set_source_files_properties(csrc/emulation/scheduler.cpp PROPERTIES COMPILE_OPTIONS -fsanitize=address)
endif()
pybind11_add_module(_C_emulated MODULE NO_EXTRAS csrc/bindings.cpp csrc/emulation/bindings.cpp csrc/emulation/scheduler.cpp
                    csrc/emulation/tensor_cores.cpp ${check_sources} ${device_sources})
string(TOUPPER "SWIFTNET_EMULATION_${SWIFTNET_EMULATION_CHECK}" check_definition)
target_compile_features(_C_emulated PRIVATE cxx_std_17)
target_compile_definitions(_C_emulated PRIVATE SWIFTNET_EMULATED SWIFTNET_MODULE_NAME=_C_emulated ${check_definition}
                           SWIFTNET_EMULATION_CHECK="${SWIFTNET_EMULATION_CHECK}")
target_compile_options(_C_emulated PRIVATE -mf16c -O2 -Wall -Wextra -fno-strict-aliasing)
target_include_directories(_C_emulated PRIVATE csrc "${CMAKE_BINARY_DIR}/generated")
target_link_options(_C_emulated PRIVATE ${link_options})
if(SWIFTNET_EMULATION_CHECK STREQUAL "none")
  swiftnet_add_cpu_kernels(_C_emulated)
endif()
