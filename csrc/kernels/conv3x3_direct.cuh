// The direct 3×3 convolution, stride 1, zero padding 1, with fp32 arithmetic, register-blocked:
//
//   out = epilogue( Σ_{c,r,s} weight[k,c,r,s] · x[n,c,h+r-1,w+s-1] )
//
// One block of 256 threads makes 8×32 pixels of 64 outputs; a thread 8 pixels of a row × 8 outputs (4 + 4), its 64 sums
// in registers. Input channels pass through shared memory in slices of 4, double-buffered: while one slice is
// multiplied the next is on its way from global memory to registers.
//
// A thread reads a row of 10 values once for three taps: 4 shared loads of pixels and 6 of weights for 192 multiplies.
#pragma once
#include "conv3x3_slices.cuh"

namespace swiftnet {

struct DirectTraits : TapTraits {
  using Element = float;
  using Weight = float;
  static_assert(2 * (kInputs + kWeights) * sizeof(float) <= 32 * 1024, "two blocks fit into 64 KiB");

  template <class T>
  __device__ static float element(T v) {
    return to_float(v);
  }
};

template <class T, Access kAccess>
__global__ void __launch_bounds__(DirectTraits::kThreads, min_blocks(kAccess)) conv3x3_direct_kernel(
    Map<const T> x, const float* packed, int64_t packed_group, ConvEpilogue<T> epilogue, Tiling tiling) {
  using Traits = DirectTraits;
  __align__(16) __shared__ float inputs[2][Traits::kInputs];
  __align__(16) __shared__ float weights[2][Traits::kWeights];
  __shared__ Tile kept;  // over the loop, which needs all registers

  const Tile tile = tiling.tile(blockIdx.x);
  if (threadIdx.x == 0) kept = tile;
  const int thread = threadIdx.x, row = thread / 32;
  const int output = thread % Traits::kOutputThreads * 4;  // and 32 further
  const int column = thread % 32 / Traits::kOutputThreads * Traits::kPixels;

  HaloSlice<Traits, T, kAccess> halo(x, tile);
  WeightSlice<Traits> weight(packed + tile.channel / Traits::kOutputs * packed_group);
  float sums[8][8];  // [output][pixel]
#pragma unroll
  for (int k = 0; k < 8; k++)
#pragma unroll
    for (int i = 0; i < Traits::kPixels; i++) sums[k][i] = 0.f;

  halo.load(x.stride_c);
  weight.load();
  halo.store(inputs[0], x, tile, 0);
  weight.store(weights[0]);
  __syncthreads();

  int buffer = 0;
  for (int next = Traits::kChannels;; next += Traits::kChannels) {
    if (next < x.channels) {
      halo.load(x.stride_c);
      weight.load();
    }
    const float* const in = inputs[buffer] + row * Traits::kPitch + column + Traits::kBefore - 1;
    const float* const w = weights[buffer] + output;
#pragma unroll
    for (int c = 0; c < Traits::kChannels; c++)
#pragma unroll
      for (int r = 0; r < 3; r++) {
        const float* const line = in + c * Traits::kPlane + r * Traits::kPitch;  // its second value is aligned
        const float4 a = *reinterpret_cast<const float4*>(line + 1), b = *reinterpret_cast<const float4*>(line + 5);
        const float v[10] = {line[0], a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, line[9]};
#pragma unroll
        for (int s = 0; s < 3; s++) {
          const float* const tap = w + (c * 9 + r * 3 + s) * Traits::kOutputs;
          const float4 low = *reinterpret_cast<const float4*>(tap), high = *reinterpret_cast<const float4*>(tap + 32);
          const float u[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int k = 0; k < 8; k++)
#pragma unroll
            for (int i = 0; i < Traits::kPixels; i++) sums[k][i] = fmaf(v[i + s], u[k], sums[k][i]);
        }
      }
    if (next >= x.channels) break;
    buffer ^= 1;
    halo.store(inputs[buffer], x, tile, next);  // the other buffer's readers have passed the last barrier
    weight.store(weights[buffer]);
    __syncthreads();
  }

  finish_tile<kAccess, 4, 32>(epilogue, kept, x.height, x.width, sums);
}

}  // namespace swiftnet
