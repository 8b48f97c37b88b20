#include "../ops.h"
#include "common/cuda.cuh"

namespace swiftnet {

#ifdef SWIFTNET_EMULATED

std::string why_not_on_device(int) { return "the emulated kernels take CPU tensors"; }

int kernel_architecture(int) { return 61; }

#else

namespace {
__global__ void probe_kernel() {}
}  // namespace

std::string why_not_on_device(int device) {
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
    cudaGetLastError();  // a missing binary is an answer, not an error to leave behind
    if (status == cudaSuccess) return "";
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
      int major = 0, minor = 0;
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
      return "the binary has no code for this GPU of compute capability " + std::to_string(major) + "." +
             std::to_string(minor);
    }
    return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

int kernel_architecture(int device) {
  const DeviceGuard guard(device);
  cudaFuncAttributes attributes;
  SWIFTNET_CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe_kernel));
  return attributes.ptxVersion;
}

#endif

}  // namespace swiftnet
