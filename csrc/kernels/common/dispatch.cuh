// From a run-time dtype or resize mode to a template argument.
#pragma once
#include <type_traits>

#include "../../ops.h"
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

// Calls f with an integral_constant of the mode.
template <class F>
void dispatch_mode(Resize mode, F&& f) {
  switch (mode) {
    case Resize::kBilinear: return f(std::integral_constant<Resize, Resize::kBilinear>{});
    case Resize::kNearest: return f(std::integral_constant<Resize, Resize::kNearest>{});
  }
  throw std::invalid_argument("mode: expected bilinear or nearest");
}

}  // namespace swiftnet
