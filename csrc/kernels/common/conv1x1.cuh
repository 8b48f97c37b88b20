// A tiled 1×1 convolution over any source of input values, with any epilogue:
//
//   out[n,k,h,w] = epilogue( Σ_c weight[k,c] · source(n, c, h, w), n, k, h, w )
//
// One block of 256 threads makes 2×32 pixels of 64 output channels, a thread 4 pixels of 4 channels. Input channels
// pass through shared memory in slices of 16:
//
//   inputs [16 channels][64 pixels]     weights [16 channels][64 outputs]
#pragma once
#include "map.cuh"
#include "tiles.cuh"

namespace swiftnet {

struct Conv1x1Traits {
  static constexpr int kRows = 2, kColumns = 32, kPixels = kRows * kColumns;
  static constexpr int kOutputs = 64, kInputs = 16;
  static constexpr int kPerThread = 4;  // pixels and channels, kPixels / kPerThread apart
  static constexpr int kPixelThreads = kPixels / kPerThread, kOutputThreads = kOutputs / kPerThread;
  static constexpr int kThreads = kPixelThreads * kOutputThreads;
  static constexpr int kMinBlocks =
      2;  // a multiprocessor's; without it CUDA 13 spills for an occupancy that it prefers
  static_assert(kThreads == 256, "16 × 16 threads");
};

// Weight: `float operator()(k, c)`, for k < out.channels and c < channels. Source as for conv3x3_kernel.
template <class T, class Source, class Weight, class Epilogue, bool kChannelsInner>
__global__ void __launch_bounds__(Conv1x1Traits::kThreads, Conv1x1Traits::kMinBlocks) conv1x1_kernel(
    Source source, Weight weight, int channels, Epilogue epilogue, Map<T> out, Tiling tiling) {
  using Traits = Conv1x1Traits;
  __shared__ float inputs[Traits::kInputs][Traits::kPixels];
  __shared__ float weights[Traits::kInputs][Traits::kOutputs + 1];  // + 1: written down a column without bank conflicts

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x;
  const int pixel0 = thread % Traits::kPixelThreads, output0 = thread / Traits::kPixelThreads;

  float sums[Traits::kPerThread][Traits::kPerThread];  // [output][pixel]
#pragma unroll
  for (int j = 0; j < Traits::kPerThread; j++)
#pragma unroll
    for (int i = 0; i < Traits::kPerThread; i++) sums[j][i] = 0.f;

  for (int first = 0; first < channels; first += Traits::kInputs) {
    for (int i = thread; i < Traits::kInputs * Traits::kPixels; i += Traits::kThreads) {
      const int c = kChannelsInner ? i % Traits::kInputs : i / Traits::kPixels;
      const int pixel = kChannelsInner ? i / Traits::kInputs : i % Traits::kPixels;
      const int h = tile.row + pixel / Traits::kColumns, w = tile.column + pixel % Traits::kColumns;
      const bool inside = first + c < channels && h < out.height && w < out.width;
      inputs[c][pixel] = inside ? source(tile.n, first + c, h, w) : 0.f;
    }
    for (int i = thread; i < Traits::kInputs * Traits::kOutputs; i += Traits::kThreads) {
      const int c = i % Traits::kInputs, k = i / Traits::kInputs;
      const bool inside = first + c < channels && tile.channel + k < out.channels;
      weights[c][k] = inside ? weight(tile.channel + k, first + c) : 0.f;
    }
    __syncthreads();

    for (int c = 0; c < Traits::kInputs; c++) {
      float w[Traits::kPerThread], v[Traits::kPerThread];
#pragma unroll
      for (int j = 0; j < Traits::kPerThread; j++) w[j] = weights[c][output0 + j * Traits::kOutputThreads];
#pragma unroll
      for (int i = 0; i < Traits::kPerThread; i++) v[i] = inputs[c][pixel0 + i * Traits::kPixelThreads];
#pragma unroll
      for (int j = 0; j < Traits::kPerThread; j++)
#pragma unroll
        for (int i = 0; i < Traits::kPerThread; i++) sums[j][i] = fmaf(v[i], w[j], sums[j][i]);
    }
    __syncthreads();  // the next slice overwrites what others may still read
  }

#pragma unroll
  for (int i = 0; i < Traits::kPerThread; i++) {
    const int pixel = pixel0 + i * Traits::kPixelThreads;
    const int h = tile.row + pixel / Traits::kColumns, w = tile.column + pixel % Traits::kColumns;
    if (h >= out.height || w >= out.width) continue;
#pragma unroll
    for (int j = 0; j < Traits::kPerThread; j++) {
      const int k = tile.channel + output0 + j * Traits::kOutputThreads;
      if (k < out.channels) out.store(tile.n, k, h, w, epilogue(sums[j][i], tile.n, k, h, w));
    }
  }
}

// A weight [K, C, …] by its strides; trailing dimensions of size 1 don't matter.
template <class T>
struct MatrixWeight {
  const T* data;
  int64_t stride_k, stride_c;
  __device__ float operator()(int k, int c) const { return to_float(__ldg(data + k * stride_k + c * stride_c)); }
};

template <class T>
MatrixWeight<T> matrix_weight(const TensorView& t) {
  return {static_cast<const T*>(t.data), t.strides[0], t.strides[1]};
}

template <class T, class Source, class Weight, class Epilogue>
void launch_conv1x1(const Source& source, bool channels_inner, const Weight& weight, int64_t channels,
                    const Epilogue& epilogue, const TensorView& out, void* stream) {
  using Traits = Conv1x1Traits;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<T> y = map_of<T>(out);
  const int inputs = static_cast<int>(channels);
  if (channels_inner)
    SWIFTNET_LAUNCH((conv1x1_kernel<T, Source, Weight, Epilogue, true>), grid, block, 0, stream, source, weight, inputs,
                    epilogue, y, tiles);
  else
    SWIFTNET_LAUNCH((conv1x1_kernel<T, Source, Weight, Epilogue, false>), grid, block, 0, stream, source, weight,
                    inputs, epilogue, y, tiles);
}

}  // namespace swiftnet
