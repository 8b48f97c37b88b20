# Kernels compiled once for many builds of the bindings: they know nothing of Python.
#
# swiftnet_export_kernels(version archs)        cmake --install TREE --component kernels --prefix DIR makes such a folder
# swiftnet_read_kernels(dir version archs)      what the folder SWIFTNET_EXT_KERNELS=DIR was built with, checked
# swiftnet_import_kernels(dir)                  the target swiftnet_kernels from that folder

# One sum over what the kernels are made of: a folder made from other sources would link and then misread its arguments.
function(swiftnet_kernel_sources_hash out)
  file(GLOB_RECURSE files RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" csrc/kernels/*.cu csrc/kernels/*.cuh csrc/kernels/*.h)
  list(APPEND files csrc/check.h csrc/ops.h csrc/tensor.h)
  list(SORT files)
  set(sums "")
  foreach(file IN LISTS files)
    file(SHA256 "${CMAKE_CURRENT_SOURCE_DIR}/${file}" sum)
    string(APPEND sums "${file} ${sum}\n")
  endforeach()
  string(SHA256 sum "${sums}")
  set(${out} "${sum}" PARENT_SCOPE)
endfunction()

function(swiftnet_export_kernels version archs)
  find_library(cudart_static cudart_static PATHS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} NO_DEFAULT_PATH NO_CACHE REQUIRED)
  swiftnet_kernel_sources_hash(sources)
  file(WRITE "${CMAKE_BINARY_DIR}/generated/build_info" "cuda_version=${version}\ncuda_archs=${archs}\nsources=${sources}\n")
  install(FILES $<TARGET_FILE:swiftnet_kernels> "${cudart_static}" "${CMAKE_BINARY_DIR}/generated/build_info"
                csrc/check.h csrc/ops.h csrc/tensor.h DESTINATION . COMPONENT kernels EXCLUDE_FROM_ALL)
endfunction()

function(swiftnet_read_kernels dir out_version out_archs)
  set(cure "make it by `cmake --install TREE --component kernels --prefix DIR` (docs/building.md), or unset SWIFTNET_EXT_KERNELS")
  if(NOT IS_ABSOLUTE "${dir}")
    message(FATAL_ERROR "SWIFTNET_EXT_KERNELS: expected a folder's full path, got '${dir}'; pip builds in a folder of its own")
  endif()
  foreach(name build_info libswiftnet_kernels.a libcudart_static.a)
    if(NOT EXISTS "${dir}/${name}")
      message(FATAL_ERROR "SWIFTNET_EXT_KERNELS=${dir} has no ${name}; ${cure}")
    endif()
  endforeach()
  foreach(field cuda_version cuda_archs sources)
    file(STRINGS "${dir}/build_info" line REGEX "^${field}=.+")
    if(NOT line)
      message(FATAL_ERROR "${dir}/build_info has no line '${field}=…'; ${cure}")
    endif()
    string(REGEX REPLACE "^${field}=" "" ${field} "${line}")
  endforeach()
  swiftnet_kernel_sources_hash(expected)
  if(NOT sources STREQUAL expected)
    message(FATAL_ERROR "the kernels in SWIFTNET_EXT_KERNELS=${dir} were made from other sources than these; ${cure}")
  endif()
  set(${out_version} "${cuda_version}" PARENT_SCOPE)
  set(${out_archs} "${cuda_archs}" PARENT_SCOPE)
endfunction()

function(swiftnet_import_kernels dir)
  find_package(Threads REQUIRED)
  add_library(swiftnet_kernels STATIC IMPORTED)
  set_target_properties(swiftnet_kernels PROPERTIES IMPORTED_LOCATION "${dir}/libswiftnet_kernels.a")
  target_link_libraries(swiftnet_kernels INTERFACE "${dir}/libcudart_static.a" Threads::Threads ${CMAKE_DL_LIBS} rt)
endfunction()
