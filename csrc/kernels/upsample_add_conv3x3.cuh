// The block's first launch: relu(scale·(up(x) + skip) + shift), each element once; conv3x3 is the second.
//
// One block of 256 threads makes 8×32 pixels of 16 channels. Threads go along rows, 16 channels one after the other, so
// that a thread's resize taps serve all of them; or, where neighbouring channels are neighbours in memory, along these.
#pragma once
#include "common/resize.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct UpsampleAddTraits {
  static constexpr int kRows = 8, kColumns = 32, kPixels = kRows * kColumns, kChannels = 16, kThreads = 256;
};

template <class T, Resize kMode, bool kChannelsInner>
__global__ void __launch_bounds__(UpsampleAddTraits::kThreads) upsample_add_kernel(Map<const T> x, Map<const T> skip,
                                                                                   AffineRelu affine_relu, Map<T> out,
                                                                                   Tiling tiling) {
  using Traits = UpsampleAddTraits;
  const Tile tile = tiling.tile(blockIdx.x);
#pragma unroll 1
  for (int i = threadIdx.x; i < Traits::kChannels * Traits::kPixels; i += Traits::kThreads) {
    const int pixel = kChannelsInner ? i / Traits::kChannels : i % Traits::kPixels;
    const int c = tile.channel + (kChannelsInner ? i % Traits::kChannels : i / Traits::kPixels);
    const int h = tile.row + pixel / Traits::kColumns, w = tile.column + pixel % Traits::kColumns;
    if (c < out.channels && h < out.height && w < out.width) {
      const float up = resized<kMode>(x, tile.n, c, h, w, out.height, out.width);
      out.store(tile.n, c, h, w, affine_relu(up + skip.load(tile.n, c, h, w), c));
    }
  }
}

}  // namespace swiftnet
