// How threads touch maps: four neighbours at a time where every map allows it, else one by one. Which way is taken
// changes no bit of a result.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "map.cuh"

namespace swiftnet {

enum class Access {
  kRows,      // four pixels of a row in one load or store: [N, C, H, W] with rows and their starts divisible by four
  kChannels,  // four channels of a pixel: channels_last, channels divisible by four
  kAny        // one element: any strides
};

template <class T>
struct alignas(4 * sizeof(T)) Vector4 {
  T v[4];
};

__device__ inline Vector4<float> load4(const float* p) {
  const float4 v = __ldg(reinterpret_cast<const float4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
__device__ inline Vector4<__half> load4(const __half* p) {
  const float2 bits = __ldg(reinterpret_cast<const float2*>(p));
  Vector4<__half> v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T>
__device__ inline void store4(T* p, const float (&v)[4]) {
  Vector4<T> packed;
#pragma unroll
  for (int i = 0; i < 4; i++) packed.v[i] = from_float<T>(v[i]);
  *reinterpret_cast<Vector4<T>*>(p) = packed;
}

// Eight elements of 16 bits.
template <class T>
struct alignas(16) Vector8 {
  T v[8];
};

template <class T>
__device__ inline Vector8<T> load8(const T* p) {
  const float4 bits = __ldg(reinterpret_cast<const float4*>(p));
  Vector8<T> v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T>
__device__ inline void store8(T* p, const float (&v)[8]) {
  Vector8<T> packed;
#pragma unroll
  for (int i = 0; i < 8; i++) packed.v[i] = from_float<T>(v[i]);
  *reinterpret_cast<Vector8<T>*>(p) = packed;
}

// Whether each dimension but `inner` moves by whole vectors, which start aligned, and by no more than 2^25 elements, so
// that offsets within a tile of, in all, up to 63 rows, columns and channels fit 32 bits.
inline bool moves_by_vectors(const TensorView& t, int inner, int elements = 4) {
  if (t.shape[inner] % elements != 0 || (t.strides[inner] != 1 && t.shape[inner] > 1)) return false;
  for (int i = 0; i < t.ndim; i++)
    if (i != inner && t.shape[i] > 1 && (t.strides[i] % elements != 0 || (i > 0 && std::abs(t.strides[i]) > 1 << 25)))
      return false;
  const uintptr_t bytes = t.dtype == DType::kFloat32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(t.data) % (elements * bytes) == 0;
}

// The access that all of these maps [N, C, H, W] allow; absent ones allow any.
inline Access access_of(std::initializer_list<const TensorView*> maps) {
  bool rows = true, channels = true;
  for (const TensorView* t : maps) {
    if (!t->defined()) continue;
    rows = rows && moves_by_vectors(*t, 3);
    channels = channels && moves_by_vectors(*t, 1);
  }
  return rows ? Access::kRows : channels ? Access::kChannels : Access::kAny;
}

}  // namespace swiftnet
