// The transforms of Winograd's algorithm F(n×n, 3×3), for n = 4 and 6: Bᵀ of the input, Aᵀ of the products, G of the
// weight. The points are 0, ± those of n/2 pairs, and ∞; Bᵀ has for each finite point p the coefficients of
// Π over the others q of (x - q), which the two of a pair share but for signs.
#pragma once
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

template <int kTile>
constexpr float pair_point(int pair);
// They keep the rounding errors at half of those of the usual 1 and 2 (Barabasz et al., 2018).
template <>
constexpr float pair_point<4>(int pair) {
  return pair == 0 ? 0.75f : 1.5f;
}
template <>
constexpr float pair_point<6>(int pair) {
  return pair == 0 ? 1.f : pair == 1 ? 2.f : 0.5f;
}

template <int kTile>
struct Constants {
  static constexpr int kPairs = kTile / 2;

  // of[pair][power]: of x^(2·power) in Π over the pairs q but that one, or over all for kPairs, of (x² - q²).
  float of[kPairs + 1][kPairs + 1] = {};
  // powers[pair][n]: the pair's point to the n
  float powers[kPairs][kTile] = {};

  constexpr Constants() {
    for (int but = 0; but <= kPairs; but++) {
      of[but][0] = 1;
      for (int pair = 0; pair < kPairs; pair++) {
        if (pair == but) continue;
        const float square = pair_point<kTile>(pair) * pair_point<kTile>(pair);
        for (int power = kPairs; power >= 0; power--)
          of[but][power] = (power > 0 ? of[but][power - 1] : 0) - square * of[but][power];
      }
    }
    for (int pair = 0; pair < kPairs; pair++)
      for (int n = 0; n < kTile; n++) powers[pair][n] = n == 0 ? 1 : pair_point<kTile>(pair) * powers[pair][n - 1];
  }
};

template <int kTile>
struct Transforms {
  static constexpr int kPatch = kTile + 2, kPoints = kPatch * kPatch, kPairs = kTile / 2;

  // d ↦ Bᵀ d
  static SWIFTNET_INLINE void input(const Floats (&d)[kPatch], Floats (&v)[kPatch]) {
    constexpr Constants<kTile> kOf;
    v[0] = d[kTile], v[kPatch - 1] = d[kPatch - 1];
#pragma GCC unroll 8
    for (int power = 0; power < kPairs; power++) {
      v[0] += kOf.of[kPairs][power] * d[2 * power];
      v[kPatch - 1] += kOf.of[kPairs][power] * d[2 * power + 1];
    }
#pragma GCC unroll 8
    for (int pair = 0; pair < kPairs; pair++) {
      Floats even = d[kTile], odd = d[kTile - 1];
#pragma GCC unroll 8
      for (int power = 0; power < kPairs - 1; power++) {
        even += kOf.of[pair][power] * d[2 * power + 2];
        odd += kOf.of[pair][power] * d[2 * power + 1];
      }
      v[2 * pair + 1] = even + pair_point<kTile>(pair) * odd;
      v[2 * pair + 2] = even - pair_point<kTile>(pair) * odd;
    }
  }

  // m ↦ Aᵀ m
  static SWIFTNET_INLINE void output(const Floats (&m)[kPatch], Floats (&y)[kTile]) {
    constexpr Constants<kTile> kOf;
    Floats both[2][kPairs];  // for even and odd powers
#pragma GCC unroll 8
    for (int pair = 0; pair < kPairs; pair++) {
      both[0][pair] = m[2 * pair + 1] + m[2 * pair + 2];
      both[1][pair] = m[2 * pair + 1] - m[2 * pair + 2];
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTile; i++) {
      y[i] = kOf.powers[0][i] * both[i % 2][0];
#pragma GCC unroll 8
      for (int pair = 1; pair < kPairs; pair++) y[i] += kOf.powers[pair][i] * both[i % 2][pair];
    }
    y[0] += m[0];
    y[kTile - 1] += m[kPatch - 1];
  }

  // g ↦ G g Gᵀ; row i of point p is (1, p, p²) / Π over the other points q of (p - q).
  static void weight(const float* g, double (&u)[kPoints]) {
    double points[kPatch - 1] = {}, G[kPatch][3] = {};
    for (int i = 1; i < kPatch - 1; i++) points[i] = (i % 2 ? 1 : -1) * pair_point<kTile>((i - 1) / 2);
    for (int i = 0; i < kPatch - 1; i++) {
      double product = 1;
      for (int j = 0; j < kPatch - 1; j++) product *= i == j ? 1 : points[i] - points[j];
      G[i][0] = 1 / product, G[i][1] = points[i] / product, G[i][2] = points[i] * points[i] / product;
    }
    G[kPatch - 1][2] = 1;
    for (int i = 0; i < kPatch; i++)
      for (int j = 0; j < kPatch; j++) {
        double sum = 0;
        for (int a = 0; a < 3; a++)
          for (int b = 0; b < 3; b++) sum += G[i][a] * g[a * 3 + b] * G[j][b];
        u[i * kPatch + j] = sum;
      }
  }
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
