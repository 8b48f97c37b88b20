// A 3×3 convolution with a 1×1 convolution of its outputs on top, of which only the latter's are written:
//
//   out[n,j,h,w] = head_bias[j] + Σ_k head[j,k] · relu(scale[k] · (conv3×3(x)[n,k,h,w] + bias[k]) + shift[k])
//
// One block makes 8×16 pixels by Winograd's algorithm (conv3x3_winograd.cuh), one group of 32 outputs of the 3×3 after
// the other. Each group's pixels pass through shared memory, [32 outputs][128 pixels] where the group's weights were,
// and 256 threads, 4 pixels × 3 head outputs each, add their products to sums that stay in shared memory.
#pragma once
#include "common/conv1x1.cuh"
#include "conv3x3_winograd.cuh"

namespace swiftnet {

struct HeadTraits : WinogradTraits {
  static constexpr int kPixels = kRows * kColumns, kHeadOutputs = 24;  // of a block
  static constexpr int kQuads = kPixels / 4, kPerThread = kHeadOutputs / (kThreads / kQuads);
  static_assert(kOutputs * kPixels == kWeights, "a group's pixels take the place of its weights");
  static_assert(kColumns % 4 == 0, "four pixels of a row");
};

// relu(scale · (sum + bias) + shift)
struct HiddenEpilogue {
  Parameter bias;
  AffineRelu affine_relu;

  __device__ float operator()(float sum, int k) const { return affine_relu(sum + bias[k], k); }
};

// Adds one group's products to the sums of the thread's pixels, and stores these at the end.
template <class T>
__device__ inline void add_head(const float* hidden, float* logits, const MatrixWeight<T>& head,
                                const Parameter& head_bias, const Map<T>& out, const Tile& tile, int outputs) {
  using Traits = HeadTraits;
  const int thread = static_cast<int>(opaque(threadIdx.x));
  const int pixel = thread % Traits::kQuads * 4, j0 = thread / Traits::kQuads * Traits::kPerThread;
  float sums[Traits::kPerThread][4];
#pragma unroll
  for (int j = 0; j < Traits::kPerThread; j++) {
    const float start = tile.channel == 0 && j0 + j < out.channels ? head_bias[j0 + j] : 0.f;
    float4 sum = {start, start, start, start};
    if (tile.channel > 0) sum = *reinterpret_cast<const float4*>(logits + (j0 + j) * Traits::kPixels + pixel);
    sums[j][0] = sum.x, sums[j][1] = sum.y, sums[j][2] = sum.z, sums[j][3] = sum.w;
  }
  const int end = min(outputs - tile.channel, Traits::kOutputs);
  for (int k = 0; k < end; k++) {
    const float4 v = *reinterpret_cast<const float4*>(hidden + k * Traits::kPixels + pixel);
#pragma unroll
    for (int j = 0; j < Traits::kPerThread; j++) {
      const float w = head(min(j0 + j, out.channels - 1), tile.channel + k);
      sums[j][0] = fmaf(v.x, w, sums[j][0]), sums[j][1] = fmaf(v.y, w, sums[j][1]);
      sums[j][2] = fmaf(v.z, w, sums[j][2]), sums[j][3] = fmaf(v.w, w, sums[j][3]);
    }
  }
  const bool last = tile.channel + Traits::kOutputs >= outputs;
  const int h = tile.row + pixel / Traits::kColumns, w = tile.column + pixel % Traits::kColumns;
#pragma unroll
  for (int j = 0; j < Traits::kPerThread; j++) {
    if (!last) {
      float4* const to = reinterpret_cast<float4*>(logits + (j0 + j) * Traits::kPixels + pixel);
      *to = {sums[j][0], sums[j][1], sums[j][2], sums[j][3]};
    } else if (j0 + j < out.channels && h < out.height) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (w + i < out.width) out.store(tile.n, j0 + j, h, w + i, sums[j][i]);
    }
  }
}

// outputs: of the 3×3.
template <class T, bool kRows>
__global__ void __launch_bounds__(HeadTraits::kThreads, HeadTraits::kMinBlocks) conv3x3_head_kernel(
    Map<const T> x, Map<const T> weight, WindowSteps steps, const float* packed, int64_t packed_group, int outputs,
    HiddenEpilogue epilogue, MatrixWeight<T> head, Parameter head_bias, Map<T> out, Tiling tiling) {
  using Traits = HeadTraits;
  __align__(16) __shared__ float inputs[WinogradLayout<kRows>::kInputs];
  __align__(16) __shared__ float weights[Traits::kWeights];  // and a group's pixels
  __align__(16) __shared__ float logits[Traits::kHeadOutputs * Traits::kPixels];

  __shared__ Tile kept;  // the group at hand, over the loop over channels, which needs all registers

  if (threadIdx.x == 0) kept = tiling.tile(blockIdx.x);
  __syncthreads();
  for (;;) {
    float sums[8][8];
    const int64_t group = kept.channel / Traits::kOutputs * packed_group;
    sum_points<T, kRows>(x, steps, packed + group, kept, inputs, weights, sums);
    const Tile tile = kept;
    make_pixels<T, kRows>(x, weight, tile, outputs, sums, inputs, [&](int k, int h, int w, float sum) {
      const int pixel = (h - tile.row) * Traits::kColumns + w - tile.column;
      weights[(k - tile.channel) * Traits::kPixels + pixel] = epilogue(sum, k);
    });
    __syncthreads();
    add_head(weights, logits, head, head_bias, out, tile, outputs);
    const int next = tile.channel + Traits::kOutputs;
    if (next >= outputs) break;
    if (threadIdx.x == 0) kept.channel = next;
    __syncthreads();
  }
}

}  // namespace swiftnet
