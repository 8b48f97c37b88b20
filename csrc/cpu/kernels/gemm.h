// The innermost loop of convolutions: M pixels × N vectors of outputs, kept in registers.
//
// A weight is packed for it in blocks of kBlock outputs, [depth][kBlock], the last block as many vectors wide as it
// needs; with dot products of bfloat16 pairs [depth / 2][kBlock][2].
#pragma once
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectors = 4, kPixels = 6, kPixelsOfNarrow = 8;  // 24 sums, 4 weights, 32 registers
#else
constexpr int kVectors = 2, kPixels = 6, kPixelsOfNarrow = 6;  // 12 sums, 2 weights, 16 registers
#endif
constexpr int kBlock = kVectors * kLanes;
constexpr int pixels_at_once(int vectors) { return vectors == kVectors ? kPixels : kPixelsOfNarrow; }

// What a packed weight consists of, for maps of T.
template <typename T>
struct Packed {
  using Type = float;
  static constexpr int kPair = 1;
};
#if defined(__AVX512BF16__)
template <>
struct Packed<bfloat16> {
  using Type = bfloat16;
  static constexpr int kPair = 2;
};

SWIFTNET_INLINE Floats dot(Floats sum, const bfloat16* pair, __m512i weights) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits), (__m512bh)weights);
}

template <int M, int N>
SWIFTNET_INLINE void accumulate(Floats (&sums)[M][N], const bfloat16* const (&a)[M], const bfloat16* b, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 2, b += 2 * N * kLanes) {
    __m512i weights[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) weights[n] = _mm512_loadu_si512(b + 2 * n * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sums[m][n] = dot(sums[m][n], a[m] + k, weights[n]);
    }
  }
}
#endif

// sums[m][n] += Σ_k a[m][k]·b[k][n]
template <typename T, int M, int N>
SWIFTNET_INLINE void accumulate(Floats (&sums)[M][N], const T* const (&a)[M], const float* b, int64_t depth) {
  for (int64_t k = 0; k < depth; k++, b += N * kLanes) {
    Floats weights[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) weights[n] = load(b + n * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      const Floats value = broadcast(to_float(a[m][k]));
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sums[m][n] += value * weights[n];
    }
  }
}

// sums [M][N·kLanes] = Σ over rows r and k < depth of a[r][m][k]·b[r][k][n]. A function of its own, so that the
// compiler keeps nothing but the sums in registers.
template <int M, int N, typename T, typename Type>
__attribute__((noinline)) void multiply(const T* const (*a)[M], const Type* b, int rows, int64_t depth, float* sums) {
  Floats in_registers[M][N] = {};
  for (int row = 0; row < rows; row++, b += depth * N * kLanes) {
    const T* pointers[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) pointers[m] = a[row][m];
    accumulate(in_registers, pointers, b, depth);
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(sums + (m * N + n) * kLanes, in_registers[m][n]);
  }
}

// A weight of `outputs` × `depth`, weight(output, k), packed.
template <typename Type, int kPair, typename Weight>
void pack_blocks(int64_t outputs, int64_t depth, const Weight& weight, Type* packed) {
  for (int64_t first = 0; first < outputs; first += kBlock) {
    const int64_t left = (outputs - first + kLanes - 1) / kLanes * kLanes, width = left < kBlock ? left : kBlock;
    for (int64_t k = 0; k < depth; k += kPair)
      for (int64_t i = 0; i < width; i++)
        for (int j = 0; j < kPair; j++) put(packed++, first + i < outputs ? weight(first + i, k + j) : 0.f);
  }
}

constexpr int64_t padded_to_lanes(int64_t outputs) { return (outputs + kLanes - 1) / kLanes * kLanes; }

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
