// Vectors of floats as wide as the instruction set that a file is compiled for, by GCC's vector extensions.
//
// Every file under csrc/cpu/kernels is compiled once for each instruction set (level): SWIFTNET_CPU_LEVEL is its
// namespace. Nothing here may be shared between levels: all is internal to a file.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace swiftnet {
namespace cpu {

struct bfloat16 {
  uint16_t bits;
};

namespace SWIFTNET_CPU_LEVEL {
namespace {

#define SWIFTNET_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

// By subtracting 0, which the compiler leaves out; adding 0 would make 0 of -0, and it would have to do that.
SWIFTNET_INLINE Floats broadcast(float value) { return value - Floats{}; }
SWIFTNET_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
// NaN stays NaN.
SWIFTNET_INLINE Floats at_least(Floats a, Floats limit) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_max_ps(-1, (__m512)limit, (__m512)a);  // the second of two where one is NaN
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps((__m256)limit, (__m256)a);
#else
  return a < limit ? limit : a;
#endif
}
SWIFTNET_INLINE Floats at_most(Floats a, Floats limit) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_min_ps(-1, (__m512)limit, (__m512)a);
#elif defined(__AVX2__)
  return (Floats)_mm256_min_ps((__m256)limit, (__m256)a);
#else
  return a > limit ? limit : a;
#endif
}
SWIFTNET_INLINE Floats relu(Floats a) { return at_least(a, Floats{}); }
// (1 - weight)·a + weight·b. A weight of zero is multiplied out, so that Inf and NaN spread as in PyTorch.
template <typename Weight>
SWIFTNET_INLINE Floats interpolate(Floats a, Floats b, Weight weight) {
  return (1.f - weight) * a + weight * b;
}
SWIFTNET_INLINE Floats as_floats(Words bits) { return (Floats)bits; }
SWIFTNET_INLINE Words as_words(Floats values) { return (Words)values; }

SWIFTNET_INLINE Floats load(const float* p) {
  Floats values;
  std::memcpy(&values, p, sizeof(values));
  return values;
}
SWIFTNET_INLINE void store(float* p, Floats values) { std::memcpy(p, &values, sizeof(values)); }

SWIFTNET_INLINE Floats widened(Halves bits) {
#if defined(__AVX512F__)  // one instruction, of which GCC 12 makes five
  const Words words = (Words)_mm512_maskz_cvtepu16_epi32(-1, (__m256i)bits);
#elif defined(__AVX2__)
  const Words words = (Words)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  const Words words = __builtin_convertvector(bits, Words);
#endif
  return as_floats(words << 16);
}

SWIFTNET_INLINE Floats load(const bfloat16* p) {
  Halves bits;
  std::memcpy(&bits, p, sizeof(bits));
  return widened(bits);
}
// rounds to nearest, ties to even
SWIFTNET_INLINE void store(bfloat16* p, Floats values) {
#if defined(__AVX512BF16__)
  const __m256bh bits = _mm512_cvtneps_pbh((__m512)values);
#else
  const Words words = as_words(values), rounded = words + 0x7fffu + ((words >> 16) & 1u);
  const Words kept = values == values ? rounded : (words | 0x400000u);  // rounding could carry a NaN over to a number
#if defined(__AVX2__) && !defined(__AVX512F__)  // GCC 12 masks what the shift has cleared
  const __m256i upper = (__m256i)(kept >> 16);
  const __m128i bits = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
#else
  const Halves bits = __builtin_convertvector(kept >> 16, Halves);
#endif
#endif
  std::memcpy(p, &bits, sizeof(bits));
}

SWIFTNET_INLINE float to_float(float value) { return value; }
SWIFTNET_INLINE float to_float(bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

SWIFTNET_INLINE Floats broadcast(bfloat16 value) {
#if defined(__AVX512BW__)
  return as_floats((Words)_mm512_set1_epi16(value.bits) << 16);
#elif defined(__AVX2__)
  return as_floats((Words)_mm256_set1_epi16(value.bits) << 16);
#else
  return broadcast(to_float(value));
#endif
}

SWIFTNET_INLINE void put(float* p, float value) { *p = value; }
SWIFTNET_INLINE void put(bfloat16* p, float value) {  // rounds to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = value == value ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
  p->bits = static_cast<uint16_t>(bits >> 16);
}

SWIFTNET_INLINE constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The first `count` of a vector, 0 < count <= kLanes; the rest is 0, and not read or written. AddressSanitizer does not
// see what instructions with masks access.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__SANITIZE_ADDRESS__)
SWIFTNET_INLINE Floats load_some(const float* p, int count) {
  return (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
SWIFTNET_INLINE Floats load_some(const bfloat16* p, int count) {
  const Halves bits = (Halves)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
  return widened(bits);
}
SWIFTNET_INLINE void store_some(float* p, Floats values, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)values);
}
SWIFTNET_INLINE void store_some(bfloat16* p, Floats values, int count) {
  bfloat16 buffer[kLanes];
  store(buffer, values);
  __m256i bits;
  std::memcpy(&bits, buffer, sizeof(bits));
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), bits);
}
#else
template <typename T>
SWIFTNET_INLINE Floats load_some(const T* p, int count) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, count * sizeof(T));
  return load(buffer);
}
template <typename T>
SWIFTNET_INLINE void store_some(T* p, Floats values, int count) {
  T buffer[kLanes];
  store(buffer, values);
  std::memcpy(p, buffer, count * sizeof(T));
}
#endif

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
