// The innermost loop of convolutions: M pixels × N vectors of outputs, kept in registers.
//
// A weight is packed for it in blocks of outputs, next_block() vectors wide, [depth][width]; with dot products of
// bfloat16 pairs [depth / 2][width][2], an odd depth filled up with zeros.
#pragma once
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectors = 4, kSums = 24;  // and 4 weights and a value, in 32 registers
#else
constexpr int kVectors = 3, kSums = 12;  // and 3 weights and a value, in 16 registers
#endif
constexpr int kMostPixels = 8;             // of which a pointer each is in a register too
constexpr int kBlock = kVectors * kLanes;  // the most outputs of a block

// How many blocks so many vectors of outputs make, and how many the next one takes if so many outputs are left.
SWIFTNET_INLINE int64_t count_blocks(int64_t vectors) {
#if defined(__AVX512F__)
  return (vectors + kVectors - 1) / kVectors;
#else
  return vectors < 2 ? 1 : vectors / 2;  // of two; of an odd number one takes three
#endif
}
SWIFTNET_INLINE int next_block(int64_t outputs) {
  const int64_t vectors = round_up(outputs, kLanes) / kLanes, blocks = count_blocks(vectors);
  return static_cast<int>((vectors + blocks - 1) / blocks);
}
constexpr int pixels_at_once(int vectors) { return kSums / vectors < kMostPixels ? kSums / vectors : kMostPixels; }

template <int N>
struct Count {
  static constexpr int value = N;
};

// body(Count<vectors>)
template <typename Body>
SWIFTNET_INLINE void for_vectors(int vectors, const Body& body) {
  switch (vectors) {
    case 1: return body(Count<1>{});
    case 2: return body(Count<2>{});
    case 3: return body(Count<3>{});
#if defined(__AVX512F__)
    case 4: return body(Count<4>{});
#endif
  }
}

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

// Of a pair, or of the one that is left of an odd depth: what follows it is not read.
template <int kCount, int M, int N>
SWIFTNET_INLINE void accumulate_pair(Floats (&sums)[M][N], const bfloat16* const (&a)[M], const bfloat16* b,
                                     int64_t k) {
  __m512i weights[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; n++) weights[n] = _mm512_loadu_si512(b + 2 * n * kLanes);
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
    int32_t bits = 0;
    std::memcpy(&bits, a[m] + k, kCount * sizeof(bfloat16));
#pragma GCC unroll 8
    for (int n = 0; n < N; n++)
      sums[m][n] =
          (Floats)_mm512_dpbf16_ps((__m512)sums[m][n], (__m512bh)_mm512_set1_epi32(bits), (__m512bh)weights[n]);
  }
}

template <int M, int N>
SWIFTNET_INLINE void accumulate(Floats (&sums)[M][N], const bfloat16* const (&a)[M], const bfloat16* b, int64_t depth) {
  int64_t k = 0;
  for (; k + 1 < depth; k += 2, b += 2 * N * kLanes) accumulate_pair<2>(sums, a, b, k);
  if (k < depth) accumulate_pair<1>(sums, a, b, k);
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
      const Floats value = broadcast(a[m][k]);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sums[m][n] += value * weights[n];
    }
  }
}

// Where the rows that are multiplied begin: row r of m at pointers[r·next + m] + r·step.
template <typename T>
struct Rows {
  const T* const* pointers;
  int64_t next, step;
};

// sums[m][n] = start[n] + Σ over rows r and k < depth of a[r][m][k]·b[r][k][n], start being N·kLanes floats, or 0.
template <int M, int N, typename T, typename Type>
SWIFTNET_INLINE void multiply(Rows<T> a, const Type* b, int rows, int64_t depth, const float* start,
                              Floats (&sums)[M][N]) {
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) sums[m][n] = start ? load(start + n * kLanes) : Floats{};
  }
  for (int row = 0; row < rows; row++, b += round_up(depth, Packed<T>::kPair) * N * kLanes) {
    const T* pointers[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) pointers[m] = a.pointers[row * a.next + m] + row * a.step;
    accumulate(sums, pointers, b, depth);
  }
}

// The same of one row, to sums [M][N·kLanes] in memory. A function of its own, so that the compiler keeps nothing but
// the sums in registers.
template <int M, int N, typename T, typename Type>
__attribute__((noinline)) void multiply_to(const T* const (&a)[M], const Type* b, int64_t depth, const float* start,
                                           float* to) {
  Floats sums[M][N];
  multiply(Rows<T>{a, 0, 0}, b, 1, depth, start, sums);
#pragma GCC unroll 16
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(to + (m * N + n) * kLanes, sums[m][n]);
  }
}

// A weight of `outputs` × `depth`, weight(output, k), packed.
template <typename Type, int kPair, typename Weight>
void pack_blocks(int64_t outputs, int64_t depth, const Weight& weight, Type* packed) {
  for (int64_t first = 0, width; first < outputs; first += width) {
    width = next_block(outputs - first) * kLanes;
    for (int64_t k = 0; k < depth; k += kPair)
      for (int64_t i = 0; i < width; i++)
        for (int j = 0; j < kPair; j++) put(packed++, first + i < outputs ? weight(first + i, k + j) : 0.f);
  }
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
