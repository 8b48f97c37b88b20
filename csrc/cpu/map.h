// From tensors to the kernels' maps and parameters, with the checks that memory safety needs.
#pragma once
#include <string>

#include "check.h"
#include "cpu/kernels.h"
#include "tensor.h"

namespace swiftnet {
namespace cpu {

// Dimensions of [N, C, H, W] from the innermost to the outermost in memory.
constexpr int kContiguous[4] = {3, 2, 1, 0}, kChannelsLast[4] = {1, 3, 2, 0};

inline bool is_dense(const TensorView& t, const int (&inner_to_outer)[4]) {
  if (t.numel() == 0) return true;
  int64_t stride = 1;
  for (int i : inner_to_outer) {
    if (t.shape[i] != 1 && t.strides[i] != stride) return false;
    stride *= t.shape[i];
  }
  return true;
}

// A tensor [N, C, H, W] that is dense in channels_last; an absent one is an absent map.
inline Map map_of(const char* name, const TensorView& t, DType dtype) {
  Map map;
  if (!t.defined()) return map;
  check(t.ndim == 4, std::string(name) + ": expected [N, C, H, W]");
  check(t.device < 0, std::string(name) + ": expected a CPU tensor");
  check(t.dtype == dtype, std::string(name) + ": expected dtype " + dtype_text(dtype));
  check(is_dense(t, kChannelsLast), std::string(name) + ": expected a dense channels_last tensor");
  map.data = t.data;
  map.n = t.shape[0], map.c = t.shape[1], map.h = t.shape[2], map.w = t.shape[3];
  return map;
}

inline bool is_empty(const Map& map) { return map.n * map.c * map.h * map.w == 0; }

// A map is absent, or of this size; also one without elements, which has no address.
inline void check_size(const char* name, const TensorView& t, int64_t n, int64_t c, int64_t h, int64_t w) {
  check(!t.defined() || (t.ndim == 4 && t.shape[0] == n && t.shape[1] == c && t.shape[2] == h && t.shape[3] == w),
        std::string(name) + ": expected shape " + shape_text({n, c, h, w}));
}

// A contiguous float parameter of this shape, or nullptr where it is absent.
inline const float* parameter_of(const char* name, const TensorView& t, std::initializer_list<int64_t> shape) {
  if (!t.defined()) return nullptr;
  check_parameter(name, t, shape, DType::kFloat32, -1);
  return static_cast<const float*>(t.data);
}

// Contiguous bytes, at least so many, aligned to 64.
inline void* bytes_of(const char* name, const TensorView& t, int64_t bytes) {
  if (bytes == 0) return nullptr;
  check(t.ndim == 1 && t.dtype == DType::kUInt8 && t.device < 0 && t.strides[0] == 1 && t.shape[0] >= bytes,
        std::string(name) + ": expected at least " + std::to_string(bytes) + " contiguous bytes of the CPU's memory");
  check(reinterpret_cast<uintptr_t>(t.data) % 64 == 0, std::string(name) + ": expected an address divisible by 64");
  return t.data;
}

inline bool is_map_dtype(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kBFloat16; }

inline bool is_bf16(DType dtype) {
  check(is_map_dtype(dtype), "dtype: expected float32 or bfloat16");
  return dtype == DType::kBFloat16;
}

inline Activation activation_of(const std::string& name) {
  check(name == "none" || name == "relu" || name == "relu6", "activation: expected none, relu or relu6, got " + name);
  return name == "none" ? Activation::kNone : name == "relu" ? Activation::kRelu : Activation::kRelu6;
}

inline int threads_of(int threads) {
  check(threads > 0, "threads: expected at least 1");
  return threads;
}

}  // namespace cpu
}  // namespace swiftnet
