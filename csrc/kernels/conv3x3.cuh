// A tiled 3×3 convolution, stride 1, zero padding 1, over any source of input values:
//
//   out[n,k,h,w] = bias[k] + Σ_{c,r,s} weight[k,c,r,s] · source(n, c, h+r-1, w+s-1)
//
// where the source is 0 outside the image. One block of 256 threads makes 8×32 pixels of 16 output channels; a thread
// makes one pixel, its 16 sums in registers. Input channels pass through shared memory in slices of 8:
//
//       ┌──── 34 ────┐
//      10  halo of 1 │ × 8 channels   and the weights [8 channels][9 taps][16 outputs]
//       └────────────┘
//
// The source is evaluated once for each element of the halo tile, so a prologue (resize, add, affine, ReLU) costs
// (10·34)/(8·32) = 1.33 evaluations an input element for each group of 16 output channels.
#pragma once
#include "common/map.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct Conv3x3Traits {
  static constexpr int kRows = 8, kColumns = 32, kThreads = kRows * kColumns;  // a tile of pixels, one thread each
  static constexpr int kMinBlocks = 2;                                         // a multiprocessor's; see Conv1x1Traits
  static constexpr int kOutputs = 16, kInputs = 8;                             // channels of a block, of a slice
  static constexpr int kHaloRows = kRows + 2, kHaloColumns = kColumns + 2;
  static_assert(kColumns == 32, "a warp stores one row of the tile");
  static_assert((kInputs * kHaloRows * kHaloColumns + kInputs * 9 * kOutputs) * sizeof(float) <= 48 * 1024,
                "static shared memory");
};

// Source: `float operator()(n, c, h, w)` inside the image. kChannelsInner: threads go along channels when they load.
template <class T, class Source, bool kChannelsInner>
__global__ void __launch_bounds__(Conv3x3Traits::kThreads, Conv3x3Traits::kMinBlocks) conv3x3_kernel(
    Source source, Map<const T> weight, Parameter bias, Map<T> out, Tiling tiling) {
  using Traits = Conv3x3Traits;
  __shared__ float inputs[Traits::kInputs][Traits::kHaloRows][Traits::kHaloColumns];
  __shared__ float weights[Traits::kInputs][9][Traits::kOutputs];

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x, row = thread / Traits::kColumns, column = thread % Traits::kColumns;
  const int channels = weight.channels;

  float sums[Traits::kOutputs];
#pragma unroll
  for (int k = 0; k < Traits::kOutputs; k++) sums[k] = 0.f;

  for (int first = 0; first < channels; first += Traits::kInputs) {
    constexpr int kPixels = Traits::kHaloRows * Traits::kHaloColumns;
    for (int i = thread; i < Traits::kInputs * kPixels; i += Traits::kThreads) {
      const int c = kChannelsInner ? i % Traits::kInputs : i / kPixels;
      const int pixel = kChannelsInner ? i / Traits::kInputs : i % kPixels;
      const int r = pixel / Traits::kHaloColumns, s = pixel % Traits::kHaloColumns;
      const int h = tile.row + r - 1, w = tile.column + s - 1;
      const bool inside = first + c < channels && h >= 0 && h < out.height && w >= 0 && w < out.width;
      inputs[c][r][s] = inside ? source(tile.n, first + c, h, w) : 0.f;
    }
    for (int i = thread; i < Traits::kInputs * 9 * Traits::kOutputs; i += Traits::kThreads) {
      const int tap = i % 9, c = i / 9 % Traits::kInputs, k = i / (9 * Traits::kInputs);
      const bool inside = first + c < channels && tile.channel + k < out.channels;
      weights[c][tap][k] = inside ? weight.load(tile.channel + k, first + c, tap / 3, tap % 3) : 0.f;
    }
    __syncthreads();

    for (int c = 0; c < Traits::kInputs; c++) {
#pragma unroll
      for (int tap = 0; tap < 9; tap++) {
        const float v = inputs[c][row + tap / 3][column + tap % 3];
#pragma unroll
        for (int k = 0; k < Traits::kOutputs; k++) sums[k] = fmaf(v, weights[c][tap][k], sums[k]);
      }
    }
    __syncthreads();  // the next slice overwrites what others may still read
  }

  const int h = tile.row + row, w = tile.column + column;
  if (h >= out.height || w >= out.width) return;
#pragma unroll
  for (int k = 0; k < Traits::kOutputs; k++) {
    const int channel = tile.channel + k;
    if (channel < out.channels) out.store(tile.n, channel, h, w, sums[k] + bias[channel]);
  }
}

template <class T, class Source>
void launch_conv3x3(const Source& source, bool channels_inner, const TensorView& weight, const Parameter& bias,
                    const TensorView& out, void* stream) {
  using Traits = Conv3x3Traits;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> w = map_of<const T>(weight);
  const Map<T> y = map_of<T>(out);
  if (channels_inner)
    SWIFTNET_LAUNCH((conv3x3_kernel<T, Source, true>), grid, block, 0, stream, source, w, bias, y, tiles);
  else
    SWIFTNET_LAUNCH((conv3x3_kernel<T, Source, false>), grid, block, 0, stream, source, w, bias, y, tiles);
}

}  // namespace swiftnet
