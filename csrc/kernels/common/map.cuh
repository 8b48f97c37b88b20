// Feature maps and parameters as kernels see them.
#pragma once
#include <type_traits>

#include "../../check.h"
#include "cuda.cuh"

namespace swiftnet {

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(__half v) { return __half2float(v); }
template <class T>
__device__ inline T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half(v);
}
template <>
__device__ inline uint8_t from_float<uint8_t>(float v) {
  return static_cast<uint8_t>(v);
}
#ifdef SWIFTNET_TENSOR_CORES
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16(v);
}
#endif

// NaN stays NaN, unlike with fmaxf.
__device__ inline float relu(float v) { return v < 0.f ? 0.f : v; }

// A map [N, C, H, W] of any strides; offsets are 64-bit, so any size is safe.
template <class T>
struct Map {
  T* data;
  int channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;

  __device__ T& at(int n, int c, int h, int w) const {
    return data[n * stride_n + c * stride_c + h * stride_h + w * stride_w];
  }
  __device__ float load(int n, int c, int h, int w) const { return to_float(at(n, c, h, w)); }
  __device__ void store(int n, int c, int h, int w, float v) const {
    at(n, c, h, w) = from_float<typename std::remove_const<T>::type>(v);
  }
};

template <class T>
Map<T> map_of(const TensorView& t) {
  const int64_t limit = 2147483647;
  check(t.ndim == 4 && t.shape[0] <= limit && t.shape[1] <= limit && t.shape[2] <= limit && t.shape[3] <= limit,
        "a map has at most 2^31 - 1 elements along each dimension");
  return {static_cast<T*>(t.data),
          static_cast<int>(t.shape[1]),
          static_cast<int>(t.shape[2]),
          static_cast<int>(t.shape[3]),
          t.strides[0],
          t.strides[1],
          t.strides[2],
          t.strides[3]};
}

template <class T>
Map<T> optional_map(const TensorView& t) {
  return t.defined() ? map_of<T>(t) : Map<T>{};
}

// Whether neighbouring channels, rather than neighbouring pixels, are neighbours in memory: threads then go along
// channels when they load, so that a warp's loads coalesce. Correct either way.
inline bool channels_inner(const TensorView& t) { return t.strides[1] == 1 && t.strides[3] != 1; }

// A contiguous per-channel parameter in fp32 or fp16, or an absent one, which reads as `absent`.
struct Parameter {
  const void* data;
  bool half;
  float absent;

  __device__ float operator[](int64_t i) const {
    if (data == nullptr) return absent;
    return half ? __half2float(static_cast<const __half*>(data)[i]) : static_cast<const float*>(data)[i];
  }
};

inline Parameter parameter_of(const TensorView& t, float absent) {
  return {t.data, t.dtype == DType::kFloat16, absent};
}

struct AffineRelu {
  Parameter scale, shift;

  __device__ float operator()(float v, int64_t channel) const { return relu(fmaf(v, scale[channel], shift[channel])); }
};

}  // namespace swiftnet
