// Convolutions of bfloat16 maps by AMX: 32 pixels × 32 outputs at once, two by two tiles. A row's 16 neighbouring
// windows are a tile's rows where they lie; windows that go over the border, or into the next row, are copied beside.
//
//   packed weight [block of 32 outputs][row of the kernel][kernel·C, filled up to kTileDepth, by pairs][32][2]
#pragma once
#include "cpu/kernels/tiles.h"
#ifdef SWIFTNET_TILES
#include "cpu/kernels/windows.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

class ByTiles {
 public:
  static constexpr int kOutputs = 32, kPixelsAtOnce = 2 * kTileRows;

  static int at_once(int64_t) { return kPixelsAtOnce; }
  static int64_t filled(int64_t depth) { return round_up(depth, kTileDepth); }
  static int64_t blocks(int64_t outputs) { return (outputs + kOutputs - 1) / kOutputs; }

  static int64_t packed_bytes(int64_t outputs, int64_t channels, int kernel) {
    return blocks(outputs) * kernel * filled(kernel * channels) * kOutputs * sizeof(bfloat16);
  }

  static void pack(const float* weight, int64_t outputs, int64_t channels, int kernel, void* packed) {
    bfloat16* to = static_cast<bfloat16*>(packed);
    for (int64_t first = 0; first < outputs; first += kOutputs)
      for (int row = 0; row < kernel; row++)
        for (int64_t k = 0; k < filled(kernel * channels); k += 2)
          for (int64_t output = first; output < first + kOutputs; output++)
            for (int64_t j = k; j < k + 2; j++) {
              const bool there = output < outputs && j < kernel * channels;
              const int64_t column = j / channels, channel = j % channels;
              put(to++, there ? weight[((output * channels + channel) * kernel + row) * kernel + column] : 0.f);
            }
  }

  // For a thread: the copied windows' rows of the pixels made at once, and their sums.
  static int64_t copies_bytes(const Conv2d& call) {
    return kPixelsAtOnce * (filled(call.kernel * call.x.c) * sizeof(bfloat16) + kOutputs * sizeof(float));
  }

  ByTiles(const Conv2d& call, const Epilogue<bfloat16>& epilogue, const Windows<bfloat16>& windows)
      : call_(call), epilogue_(epilogue), windows_(windows), depth_(call.kernel * call.x.c), filled_(filled(depth_)) {}

  void operator()(const Chunk<bfloat16>& chunk, bfloat16* copies) const {
    Tiles tiles;
    float* sums = reinterpret_cast<float*>(copies + kPixelsAtOnce * filled_);
    for (int64_t block = 0; block < blocks(epilogue_.outputs()); block++) {
      const bfloat16* packed = static_cast<const bfloat16*>(call_.packed) + block * call_.kernel * filled_ * kOutputs;
      for (int p = 0; p < chunk.count; p += kPixelsAtOnce) {
        SWIFTNET_TILE_ZERO(tiles, 0);
        SWIFTNET_TILE_ZERO(tiles, 1);
        SWIFTNET_TILE_ZERO(tiles, 2);
        SWIFTNET_TILE_ZERO(tiles, 3);
        for (int row = 0; row < call_.kernel; row++)
          add_row(tiles, chunk, p, row, packed + row * filled_ * kOutputs, copies);
        SWIFTNET_TILE_STORE(tiles, 0, sums, kOutputs * sizeof(float));
        SWIFTNET_TILE_STORE(tiles, 1, sums + 16, kOutputs * sizeof(float));
        SWIFTNET_TILE_STORE(tiles, 2, sums + kTileRows * kOutputs, kOutputs * sizeof(float));
        SWIFTNET_TILE_STORE(tiles, 3, sums + kTileRows * kOutputs + 16, kOutputs * sizeof(float));
        write(chunk, p, block * kOutputs, sums);
      }
    }
  }

 private:
  void add_row(Tiles& tiles, const Chunk<bfloat16>& chunk, int p, int row, const bfloat16* packed,
               bfloat16* copies) const {
    const int64_t step = call_.stride * call_.x.c;
    const bfloat16 *a0 = lying(chunk, p, row), *a1 = lying(chunk, p + kTileRows, row);
    if (a0 && a1) return multiply_tiles(tiles, a0, a1, step * sizeof(bfloat16), packed, filled_);
    for (int i = 0; i < kPixelsAtOnce && p + i < chunk.count; i++) {
      windows_.copy_row(chunk, p + i, row, copies + i * filled_);
      std::memset(copies + i * filled_ + depth_, 0, (filled_ - depth_) * sizeof(bfloat16));
    }
    multiply_tiles(tiles, copies, copies + kTileRows * filled_, filled_ * sizeof(bfloat16), packed, filled_);
  }

  // This row of 16 windows if they lie in the map one stride apart and fill the tiles' depth, else nullptr.
  const bfloat16* lying(const Chunk<bfloat16>& chunk, int p, int row) const {
    if (depth_ != filled_ || p + kTileRows > chunk.count) return nullptr;
    const int last = p + kTileRows - 1;
    if (!windows_.single_pixels()) {
      const Window &from = chunk.windows[p], &to = chunk.windows[last];
      if (from.n != to.n || from.top != to.top || !windows_.row(chunk, last, row)) return nullptr;
    }
    return windows_.row(chunk, p, row);
  }

  void write(const Chunk<bfloat16>& chunk, int p, int64_t first, const float* sums) const {
    const bool whole = first + kOutputs <= epilogue_.outputs();
    for (int m = 0; m < kPixelsAtOnce && p + m < chunk.count; m++) {
      const float* values = sums + m * kOutputs;
      if (whole) {
        write_vectors<kOutputs / kLanes>(values, chunk, p + m, first);
        continue;
      }
      for (int64_t i = 0; first + i < epilogue_.outputs(); i += kLanes)
        write_vectors<1>(values + i, chunk, p + m, first + i);
    }
  }
  template <int N>
  SWIFTNET_INLINE void write_vectors(const float* values, const Chunk<bfloat16>& chunk, int pixel,
                                     int64_t first) const {
    Floats y[N];
    for (int n = 0; n < N; n++) y[n] = load(values + n * kLanes);
    epilogue_.write(y, chunk.first + pixel, chunk.corners[pixel], first);
  }

  const Conv2d call_;
  const Epilogue<bfloat16>& epilogue_;
  const Windows<bfloat16>& windows_;
  const int64_t depth_, filled_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
#endif
