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
  int rows, columns, channels;    // of one tile
  unsigned down, across, groups;  // tiles along H and W, channel groups; their product fits wherever there is an image
  int64_t blocks;                 // for all images

  __device__ Tile tile(unsigned block) const {
    const unsigned row = block / across, group = row / down, n = group / groups;  // of all above them too
    return {static_cast<int>(n), static_cast<int>((group - n * groups) * channels),
            static_cast<int>((row - group * down) * rows), static_cast<int>((block - row * across) * columns)};
  }
};

inline Tiling tiling(int64_t n, int64_t channels, int64_t height, int64_t width, int tile_channels, int tile_rows,
                     int tile_columns) {
  const int64_t down = ceil_div(height, tile_rows), across = ceil_div(width, tile_columns);
  const int64_t groups = ceil_div(channels, tile_channels), blocks = n * down * across * groups;
  check(blocks <= 2147483647, "the output needs more than 2^31 - 1 blocks; split the batch");
  return {tile_rows,
          tile_columns,
          tile_channels,
          static_cast<unsigned>(down),
          static_cast<unsigned>(across),
          static_cast<unsigned>(groups),
          blocks};
}

}  // namespace swiftnet
