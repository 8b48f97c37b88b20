// The direct 3×3 convolution of fp16 maps with half2 arithmetic, for sm_62, which has it at twice the rate of fp32: the
// tile and the slices of conv3x3_direct.cuh, two outputs in each register.
//
// A thread makes 8 pixels of a row × 8 outputs, 4 pairs. Partial sums are fp16 over 16 channels, then added to fp32
// sums: up to 144 products, of which each addition rounds to fp16. A partial sum beyond 65504 is Inf. Pixels are
// doubled in shared memory, (v, v), so that one fused multiply-add serves a pair of outputs.
#pragma once
#include "conv3x3_slices.cuh"

namespace swiftnet {

struct Half2Traits : TapTraits {
  using Element = __half2;
  using Weight = __half;
  static constexpr int kPromoted = 16;  // channels whose products add up in fp16
  static_assert(kPromoted % kChannels == 0, "whole slices");
  static_assert(kInputs * sizeof(Element) + kWeights * sizeof(Weight) <= 32 * 1024, "two blocks fit into 64 KiB");

  __device__ static __half2 element(__half v) { return __halves2half2(v, v); }
};

// Two blocks a multiprocessor, at most 128 registers, on Pascal; the compiler for later ones would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 700
constexpr int kHalf2Blocks = 1;
#else
constexpr int kHalf2Blocks = 2;
#endif

template <Access kAccess>
__global__ void
    __launch_bounds__(Half2Traits::kThreads, kAccess == Access::kAny ? 1 : kHalf2Blocks) conv3x3_half2_kernel(
        Map<const __half> x, const float* packed, int64_t packed_group, ConvEpilogue<__half> epilogue, Tiling tiling) {
  using Traits = Half2Traits;
  __align__(16) __shared__ unsigned input_bits[Traits::kInputs], weight_bits[Traits::kWeights / 2];
  __half2* const inputs = reinterpret_cast<__half2*>(input_bits);  // shared memory takes no constructors
  __half* const weights = reinterpret_cast<__half*>(weight_bits);
  __shared__ Tile kept;  // over the loop, which needs all registers

  const Tile tile = tiling.tile(blockIdx.x);
  if (threadIdx.x == 0) kept = tile;

  HaloSlice<Traits, __half, kAccess> halo(x, tile);
  WeightSlice<Traits> weight(packed + tile.channel / Traits::kOutputs * packed_group);
  float sums[8][8];       // [output][pixel]
  __half2 partial[4][8];  // [pair of outputs][pixel]
#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int k = 0; k < 8; k++) sums[k][i] = 0.f;
#pragma unroll
    for (int p = 0; p < 4; p++) partial[p][i] = __float2half2_rn(0.f);
  }

  for (int next = Traits::kChannels;; next += Traits::kChannels) {
    halo.load(x.stride_c);  // there are no registers for it over the multiplies: the other block fills the gap
    weight.load();
    __syncthreads();  // the last slice has been multiplied
    halo.store(inputs, x, tile, next - Traits::kChannels);
    weight.store(weights);
    __syncthreads();
    // found anew but with kAny, which has registers enough
    const int thread = static_cast<int>(kAccess == Access::kAny ? threadIdx.x : opaque(threadIdx.x));
    const int column = thread % 32 / Traits::kOutputThreads;
    const __half2* const in = inputs + thread / 32 * Traits::kPitch + column * Traits::kPixels + Traits::kBefore - 1;
    const __half* const w = weights + thread % Traits::kOutputThreads * 8;
#pragma unroll
    for (int c = 0; c < Traits::kChannels; c++)
#pragma unroll
      for (int r = 0; r < 3; r++) {
        const __half2* const line = in + c * Traits::kPlane + r * Traits::kPitch;  // its second value is aligned
        const Vector4<__half2> a = *reinterpret_cast<const Vector4<__half2>*>(line + 1),
                               b = *reinterpret_cast<const Vector4<__half2>*>(line + 5);
        const __half2 v[10] = {line[0], a.v[0], a.v[1], a.v[2], a.v[3], b.v[0], b.v[1], b.v[2], b.v[3], line[9]};
#pragma unroll
        for (int s = 0; s < 3; s++) {
          const Vector4<__half2> u =
              *reinterpret_cast<const Vector4<__half2>*>(w + (c * 9 + r * 3 + s) * Traits::kOutputs);
#pragma unroll
          for (int p = 0; p < 4; p++)
#pragma unroll
            for (int i = 0; i < 8; i++) partial[p][i] = __hfma2(v[i + s], u.v[p], partial[p][i]);
        }
      }
    if (next % Traits::kPromoted == 0 || next >= x.channels) {
#pragma unroll
      for (int p = 0; p < 4; p++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float2 pair = __half22float2(partial[p][i]);
          sums[2 * p][i] += pair.x;
          sums[2 * p + 1][i] += pair.y;
          partial[p][i] = __float2half2_rn(0.f);
        }
    }
    if (next >= x.channels) break;
  }

  finish_tile<kAccess, 8, 4>(epilogue, kept, x.height, x.width, sums);
}

}  // namespace swiftnet
