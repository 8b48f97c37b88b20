// From a run-time dtype, resize mode, access or truth to a template argument.
#pragma once
#include <type_traits>

#include "../../ops.h"
#include "access.cuh"
#include "cuda.cuh"

namespace swiftnet {

// Calls f with a value of the C++ type that stores this dtype.
template <class F>
void dispatch_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kFloat16: return f(__half{});
    default: throw std::invalid_argument("the kernels take float32 and float16 maps");
  }
}

#ifdef SWIFTNET_TENSOR_CORES
// The same for what tensor cores take.
template <class F>
void dispatch_half_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat16: return f(__half{});
    case DType::kBFloat16: return f(__nv_bfloat16{});
    default: throw std::invalid_argument("algorithm: tensor_cores takes float16 and bfloat16 maps");
  }
}
#endif

// Calls f with an integral_constant of the mode.
template <class F>
void dispatch_mode(Resize mode, F&& f) {
  switch (mode) {
    case Resize::kBilinear: return f(std::integral_constant<Resize, Resize::kBilinear>{});
    case Resize::kNearest: return f(std::integral_constant<Resize, Resize::kNearest>{});
  }
  throw std::invalid_argument("mode: expected bilinear or nearest");
}

// Calls f with an integral_constant of the access, or of the truth.
template <class F>
void dispatch_access(Access access, F&& f) {
  switch (access) {
    case Access::kRows: return f(std::integral_constant<Access, Access::kRows>{});
    case Access::kChannels: return f(std::integral_constant<Access, Access::kChannels>{});
    case Access::kAny: return f(std::integral_constant<Access, Access::kAny>{});
  }
}
template <class F>
void dispatch_bool(bool value, F&& f) {
  value ? f(std::true_type{}) : f(std::false_type{});
}

}  // namespace swiftnet
