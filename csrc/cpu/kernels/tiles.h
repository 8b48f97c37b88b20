// Intel's AMX tiles, and their twin in plain C++ (SWIFTNET_TILES_EMULATED), by which a CPU without them is tested.
//
// Eight tiles of 16 rows × 64 bytes; SWIFTNET_TILE_DOT(c, a, b) adds for m, n < 16 and k < 16
//   c[m][n] += a[m][2k]·b[k][2n] + a[m][2k + 1]·b[k][2n + 1], a and b being bfloat16 and c float.
// Tile numbers are literals: the instructions have no others.
#pragma once
#if defined(__AMX_BF16__) || defined(SWIFTNET_TILES_EMULATED)
#define SWIFTNET_TILES
#include "cpu/simd.h"
#if defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64, kTileDepth = kTileBytes / 2;  // bfloat16 values of a row

#if defined(__AMX_BF16__)

// The calling thread's tiles, while this lives.
struct Tiles {
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; i++) config.row_bytes[i] = kTileBytes, config.rows[i] = kTileRows;
    asm volatile("" ::: "memory");  // GCC 12's intrinsics do not say that they read memory
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

#define SWIFTNET_TILE_ZERO(tiles, c) _tile_zero(c)
#define SWIFTNET_TILE_LOAD(tiles, c, from, stride) _tile_loadd(c, from, stride)
#define SWIFTNET_TILE_STORE(tiles, c, to, stride) _tile_stored(c, to, stride)
#define SWIFTNET_TILE_DOT(tiles, c, a, b) _tile_dpbf16ps(c, a, b)

#else

struct Tiles {
  unsigned char bytes[8][kTileRows][kTileBytes];

  void load(int c, const void* from, int64_t stride) {
    for (int i = 0; i < kTileRows; i++)
      std::memcpy(bytes[c][i], static_cast<const char*>(from) + i * stride, kTileBytes);
  }
  void store(int c, void* to, int64_t stride) const {
    for (int i = 0; i < kTileRows; i++) std::memcpy(static_cast<char*>(to) + i * stride, bytes[c][i], kTileBytes);
  }
  void dot(int c, int a, int b) {
    for (int m = 0; m < kTileRows; m++) {
      float sums[16];
      bfloat16 row[kTileDepth], pairs[kTileDepth];
      std::memcpy(sums, bytes[c][m], kTileBytes);
      std::memcpy(row, bytes[a][m], kTileBytes);
      for (int k = 0; k < kTileDepth / 2; k++) {
        std::memcpy(pairs, bytes[b][k], kTileBytes);
        for (int n = 0; n < 16; n++)
          for (int j = 0; j < 2; j++) sums[n] += to_float(row[2 * k + j]) * to_float(pairs[2 * n + j]);
      }
      std::memcpy(bytes[c][m], sums, kTileBytes);
    }
  }
};

#define SWIFTNET_TILE_ZERO(tiles, c) std::memset((tiles).bytes[c], 0, sizeof((tiles).bytes[c]))
#define SWIFTNET_TILE_LOAD(tiles, c, from, stride) (tiles).load(c, from, stride)
#define SWIFTNET_TILE_STORE(tiles, c, to, stride) (tiles).store(c, to, stride)
#define SWIFTNET_TILE_DOT(tiles, c, a, b) (tiles).dot(c, a, b)

#endif

// c[m][n] of 32 × 32 += a[m][k]·b[k][n] for k < depth, which kTileDepth divides: a row of `a` is `stride` bytes from
// the one before, b is packed as [depth / 2][32][2]. In tiles 0 to 3.
inline void multiply_tiles(Tiles& tiles, const bfloat16* a0, const bfloat16* a1, int64_t stride, const bfloat16* b,
                           int64_t depth) {
  (void)tiles;
#if defined(__AMX_BF16__)
  asm volatile("" ::: "memory");
#endif
  constexpr int64_t kRowOfB = 32 * 2 * sizeof(bfloat16);
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    SWIFTNET_TILE_LOAD(tiles, 4, a0 + k, stride);
    SWIFTNET_TILE_LOAD(tiles, 6, b + k * 32, kRowOfB);
    SWIFTNET_TILE_DOT(tiles, 0, 4, 6);
    SWIFTNET_TILE_LOAD(tiles, 7, b + k * 32 + 32, kRowOfB);
    SWIFTNET_TILE_DOT(tiles, 1, 4, 7);
    SWIFTNET_TILE_LOAD(tiles, 5, a1 + k, stride);
    SWIFTNET_TILE_DOT(tiles, 2, 5, 6);
    SWIFTNET_TILE_DOT(tiles, 3, 5, 7);
  }
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
#endif
