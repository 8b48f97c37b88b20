// How a launch's one-dimensional grid covers [N, K, H, W]: one block for each tile of pixels and group of channels.
#pragma once
#include <cstdint>

#include "../../check.h"
#include "cuda.cuh"

namespace swiftnet {

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Tile {
  int n, channel, row, column;  // its first element
};

struct Tiling {
  int rows, columns, channels;           // of one tile
  int64_t down, across, groups, blocks;  // tiles along H and W, channel groups, and all of them

  __device__ Tile tile(int64_t block) const {
    const int64_t column = block % across, row = block / across % down, group = block / (across * down) % groups;
    return {static_cast<int>(block / (across * down * groups)), static_cast<int>(group * channels),
            static_cast<int>(row * rows), static_cast<int>(column * columns)};
  }
};

inline Tiling tiling(int64_t n, int64_t channels, int64_t height, int64_t width, int tile_channels, int tile_rows,
                     int tile_columns) {
  Tiling t{tile_rows,
           tile_columns,
           tile_channels,
           ceil_div(height, tile_rows),
           ceil_div(width, tile_columns),
           ceil_div(channels, tile_channels),
           0};
  t.blocks = n * t.down * t.across * t.groups;
  check(t.blocks <= 2147483647, "the output needs more than 2^31 - 1 blocks; split the batch");
  return t;
}

}  // namespace swiftnet
