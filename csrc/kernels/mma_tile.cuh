// What the 3×3 kernels on tensor cores share: the shape of a block's tile, and who makes what of it.
#pragma once
#include "common/access.cuh"
#include "common/mma.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct MmaTile {
  static constexpr int kRows = 8, kColumns = 32, kThreads = 256;                         // of a block
  static constexpr int kChannels = 16, kGroup = 32;                                      // of a slice; packed outputs
  static constexpr int kHaloColumns = kColumns + 2, kHalo = (kRows + 2) * kHaloColumns;  // pixels
  static constexpr int kPlane = kHalo + 1;   // + 1: threads that write neighbouring channels go to different banks
  static constexpr int kSlice = 2 * kPlane;  // vectors of a slice's halo
  static constexpr int kStages = 3;
  static_assert(kThreads / 32 * 2 == 2 * kRows, "a warp makes two rows of half of the outputs");
};

template <int kOutputs_, int kTaps_>
struct MmaTraits : MmaTile {
  static constexpr int kOutputs = kOutputs_, kTaps = kTaps_;  // of a block; of a step
  static constexpr int kSteps = 9 / kTaps;                    // of a slice
  static constexpr int kTiles = kOutputs / 16;                // products of 8 outputs a warp makes of 16 pixels
  static constexpr int kStage = kTaps * 2 * kOutputs;         // vectors of a step's weights
  // of a multiprocessor, where its registers and shared memory (sm_75: 64 KiB) suffice for two
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  static constexpr int kMinBlocks = 1;
#else
  static constexpr int kMinBlocks = kOutputs > 64 ? 1 : 2;
#endif
  static_assert(9 % kTaps == 0 && kOutputs % kGroup == 0, "whole steps and groups");
};

using Vector = float4;  // eight elements of 16 bits

// A warp's place in its block.
struct MmaWarp {
  int row, half;  // its first row of pixels; which half of the outputs

  __device__ MmaWarp() : row(static_cast<int>(threadIdx.x) / 64 * 2), half(static_cast<int>(threadIdx.x) / 32 % 2) {}
  // Where the m-th 16 pixels start, from its first pixel.
  __device__ static constexpr int row_of(int m) { return m / 2; }
  __device__ static constexpr int column_of(int m) { return m % 2 * 16; }
};

// Whether a map can be read and written by vectors of eight channels.
inline bool fits_tensor_cores(const TensorView& t) {
  return !t.defined() || t.numel() == 0 || moves_by_vectors(t, 1, 8);
}

}  // namespace swiftnet
