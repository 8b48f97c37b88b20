// The types and arithmetic of cuda_fp16.h, and of cuda_bf16.h what kernels need, on a CPU. Every operation rounds once,
// to nearest even, as the hardware's does; subnormals are kept.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  _Float16 value;
  __half() = default;
  explicit __half(float v) : value(static_cast<_Float16>(v)) {}
};
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline float __half2float(__half v) { return static_cast<float>(v.value); }
inline __half __float2half(float v) { return __half(v); }

// fp32 has more than 2·11 + 2 bits, so rounding a sum or product twice, to fp32 and to fp16, is rounding once.
inline __half __hadd(__half a, __half b) { return __half(__half2float(a) + __half2float(b)); }
inline __half __hsub(__half a, __half b) { return __half(__half2float(a) - __half2float(b)); }
inline __half __hmul(__half a, __half b) { return __half(__half2float(a) * __half2float(b)); }

// The product is exact in fp64; the sum is rounded to odd there, so that the one rounding to fp16 is right.
inline __half __hfma(__half a, __half b, __half c) {
  const double product = static_cast<double>(a.value) * static_cast<double>(b.value);
  const double addend = static_cast<double>(c.value);
  double sum = product + addend;
  if (std::isfinite(sum)) {
    const double rest = sum - product;
    const double error = (product - (sum - rest)) + (addend - rest);
    uint64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    if (error != 0 && bits % 2 == 0) sum = std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
  }
  __half result;
  result.value = static_cast<_Float16>(sum);
  return result;
}

inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __float2half2_rn(float v) { return {__half(v), __half(v)}; }
inline __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline __nv_bfloat16 __float2bfloat16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  if (std::isnan(v)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest even
}
