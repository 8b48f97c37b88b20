// CUDA, or its emulation on a CPU, and the one way to launch a kernel.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef SWIFTNET_EMULATED
#include "../../emulation/cuda_emulation.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

// bfloat16, and with it the tensor cores' kernels, came with CUDA 11.
#if defined(SWIFTNET_EMULATED)
#define SWIFTNET_TENSOR_CORES
#elif CUDART_VERSION >= 11000
#define SWIFTNET_TENSOR_CORES
#include <cuda_bf16.h>
#endif

namespace swiftnet {

#ifdef SWIFTNET_EMULATED

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (device >= 0) throw std::invalid_argument("the emulated kernels take CPU tensors");
  }
};

#define SWIFTNET_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                              \
  do {                                                                                               \
    static_cast<void>(stream);                                                                       \
    ::swiftnet::emulation::launch(#kernel, grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); }); \
  } while (0)
#define SWIFTNET_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(::swiftnet::emulation::dynamic_shared())

// As few multiprocessors and as little shared memory as make small tests reach every kernel.
inline int multiprocessors() { return 2; }
inline size_t max_shared_bytes() { return 99 * 1024; }
template <class Kernel>
void allow_shared(Kernel) {}

#else

inline void cuda_check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + " failed: " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status));
}
#define SWIFTNET_CUDA_CHECK(call) ::swiftnet::cuda_check((call), #call)

// Makes a device current, and gives the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (device < 0) throw std::invalid_argument("the CUDA kernels take CUDA tensors");
    SWIFTNET_CUDA_CHECK(cudaGetDevice(&previous_));
    if (previous_ != device) SWIFTNET_CUDA_CHECK(cudaSetDevice(device));
    changed_ = previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// The kernel's name goes in parentheses where it has commas.
#define SWIFTNET_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                    \
  do {                                                                                     \
    kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__); \
    ::swiftnet::cuda_check(cudaGetLastError(), "launch of " #kernel);                      \
  } while (0)
#define SWIFTNET_DYNAMIC_SHARED(type, name)                     \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  type* name = reinterpret_cast<type*>(name##_bytes)

// Of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  SWIFTNET_CUDA_CHECK(cudaGetDevice(&device));
  SWIFTNET_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}
inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }
inline size_t max_shared_bytes() {
  return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}
// More than 48 KiB of dynamic shared memory must be allowed before the launch. All that a block can have is allowed:
// the limit is the kernel's, and another thread may be about to launch it with more than this one.
template <class Kernel>
void allow_shared(Kernel kernel) {
  cudaFuncAttributes own;
  SWIFTNET_CUDA_CHECK(cudaFuncGetAttributes(&own, kernel));
  SWIFTNET_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(max_shared_bytes() - own.sharedSizeBytes)));
}

#endif

// The same value, of which the compiler does not know how it came about: it neither multiplies a pointer's steps out
// nor keeps what it computed from an index or a stride over a loop, where registers are scarce.
#ifdef SWIFTNET_EMULATED
template <class T>
T opaque(T value) {
  return value;
}
#else
template <class T>
__device__ inline T opaque(T value) {
  static_assert(sizeof(T) == 4, "an index");
  asm volatile("" : "+r"(value));
  return value;
}
template <class T>
__device__ inline T* opaque(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
__device__ inline int64_t opaque(int64_t stride) {
  asm volatile("" : "+l"(stride));
  return stride;
}
#endif

}  // namespace swiftnet
