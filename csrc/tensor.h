// What the kernels' C++ API knows of a tensor: no PyTorch, no Python.
#pragma once
#include <cstdint>

namespace swiftnet {

enum class DType { kFloat32, kFloat16, kBFloat16, kUInt8 };

// A strided view of up to four dimensions that owns nothing. An absent optional tensor has data == nullptr, ndim == -1.
struct TensorView {
  static constexpr int kMaxDims = 4;

  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int ndim = -1;
  int64_t shape[kMaxDims] = {0, 0, 0, 0};
  int64_t strides[kMaxDims] = {0, 0, 0, 0};  // in elements
  int device = -1;                           // CUDA device index, or -1 for the CPU

  bool defined() const { return ndim >= 0; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    return n;
  }
};

}  // namespace swiftnet
