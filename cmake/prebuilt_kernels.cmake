# Kernels that were compiled once, for modules of several Pythons and for C++ programs: a folder with
# libswiftnet_kernels.a, the CUDA runtime that it was compiled with, what it was compiled for, and the headers.

# `cmake --install BUILD --component kernels --prefix FOLDER` makes the folder.
function(swiftnet_install_kernels target version archs)
  find_library(cudart NAMES libcudart_static.a REQUIRED NO_CACHE
               PATHS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} ${CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES} NO_DEFAULT_PATH)
  file(WRITE "${CMAKE_BINARY_DIR}/generated/swiftnet_kernels.cmake" "set(cuda_version \"${version}\")\nset(cuda_archs \"${archs}\")\n")
  install(TARGETS ${target} ARCHIVE DESTINATION . COMPONENT kernels EXCLUDE_FROM_ALL)
  install(FILES "${cudart}" "${CMAKE_BINARY_DIR}/generated/swiftnet_kernels.cmake" csrc/ops.h csrc/tensor.h csrc/check.h
          DESTINATION . COMPONENT kernels EXCLUDE_FROM_ALL)
endfunction()

# Sets what such a folder was compiled with.
function(swiftnet_prebuilt_kernels folder out_version out_archs)
  foreach(file libswiftnet_kernels.a libcudart_static.a swiftnet_kernels.cmake)
    if(NOT EXISTS "${folder}/${file}")
      message(FATAL_ERROR "SWIFTNET_EXT_KERNELS=${folder} holds no ${file}; make the folder by "
                          "`cmake --install BUILD --component kernels --prefix FOLDER`, or unset it to compile the kernels")
    endif()
  endforeach()
  include("${folder}/swiftnet_kernels.cmake")
  set(${out_version} "${cuda_version}" PARENT_SCOPE)
  set(${out_archs} "${cuda_archs}" PARENT_SCOPE)
endfunction()
