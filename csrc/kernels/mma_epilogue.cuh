// What ends the kernels on tensor cores: a map, or the head's logits.
#pragma once
#include "common/conv1x1.cuh"
#include "conv_epilogue.cuh"
#include "mma_tile.cuh"

namespace swiftnet {

// Two elements of 16 bits as the registers of a product hold them.
template <class T>
__device__ inline uint32_t pack2(float low, float high) {
  const T v[2] = {from_float<T>(low), from_float<T>(high)};
  uint32_t bits;
  memcpy(&bits, v, sizeof bits);
  return bits;
}

// Bias, residual and ReLU. Each warp's sums pass through shared memory of its own, 16 pixels at a time, so that a
// thread ends eight channels of a pixel.
template <class T>
struct MapEpilogue {
  ConvEpilogue<T> epilogue;

  // Of a pixel's outputs that a warp makes; + 8: four rows of a product go to different banks.
  template <class Traits>
  static constexpr int kPitch = Traits::kOutputs / 2 + 8;
  template <class Traits>
  static constexpr size_t shared_bytes() {
    return Traits::kThreads / 32 * 16 * kPitch<Traits> * sizeof(float);
  }

  template <class Traits>
  __device__ void finish(const float (&sums)[4][Traits::kTiles][4], const Tile& tile, float* shared) const {
    constexpr int kOutputs = Traits::kOutputs / 2, kVectors = kOutputs / 8;  // of the warp
    const MmaWarp warp;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float* const own = shared + threadIdx.x / 32 * 16 * kPitch<Traits>;
    const int first = lane % kVectors * 8, k = tile.channel + warp.half * kOutputs + first;  // of the thread
    float bias[8];
#pragma unroll
    for (int i = 0; i < 8; i++) bias[i] = k < epilogue.out.channels ? epilogue.bias[k + i] : 0.f;
#pragma unroll
    for (int m = 0; m < 4; m++) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < Traits::kTiles; j++)
#pragma unroll
        for (int below = 0; below < 2; below++)
          *reinterpret_cast<float2*>(own + (lane / 4 + 8 * below) * kPitch<Traits> + 8 * j + lane % 4 * 2) = {
              sums[m][j][2 * below], sums[m][j][2 * below + 1]};
      __syncwarp();
      const int h = tile.row + warp.row + MmaWarp::row_of(m);
#pragma unroll
      for (int i = 0; i < kVectors / 2; i++) {
        const int pixel = lane / kVectors + 32 / kVectors * i, w = tile.column + MmaWarp::column_of(m) + pixel;
        const float4 low = *reinterpret_cast<const float4*>(own + pixel * kPitch<Traits> + first);
        const float4 high = *reinterpret_cast<const float4*>(own + pixel * kPitch<Traits> + first + 4);
        if (h < epilogue.out.height && w < epilogue.out.width && k < epilogue.out.channels)
          eight(tile.n, k, h, w, bias, {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w});
      }
    }
  }

  __device__ void eight(int n, int k, int h, int w, const float (&bias)[8], const float (&v)[8]) const {
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = v[i] + bias[i];
    if (epilogue.residual.data != nullptr) {
      const Vector8<T> r = load8(&epilogue.residual.at(n, k, h, w));
#pragma unroll
      for (int i = 0; i < 8; i++) y[i] += to_float(r.v[i]);
    }
    if (epilogue.sum.data != nullptr) store8(&epilogue.sum.at(n, k, h, w), y);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = epilogue.relu_last ? relu(y[i]) : y[i];
    store8(&epilogue.out.at(n, k, h, w), y);
  }
};

// The 1×1 of a head on top, of which alone the outputs are written:
//
//   out[n,j,h,w] = head_bias[j] + Σ_k head[j,k] · relu(scale[k] · (sum[k] + bias[k]) + shift[k])
//
// The block makes all outputs of the 3×3. What the head multiplies is rounded to T, as a map would be; a warp's sums
// become its left factor where they are, in registers. The two warps that have half of the outputs each add up in
// shared memory, [256 pixels][24].
template <class T>
struct HeadEpilogue {
  static constexpr int kHeadOutputs = 24, kHeadTiles = kHeadOutputs / 8;

  Parameter bias;
  AffineRelu affine_relu;
  int outputs;  // of the 3×3
  MatrixWeight<T> head;
  Parameter head_bias;
  Map<T> out;

  __device__ float hidden(float sum, int k) const { return k < outputs ? affine_relu(sum + bias[k], k) : 0.f; }
  // Without __ldg, which takes no bfloat16 below sm_80.
  __device__ float weight(int j, int k) const {
    return j < out.channels && k < outputs ? to_float(head.data[j * head.stride_k + k * head.stride_c]) : 0.f;
  }

  template <class Traits>
  static constexpr size_t shared_bytes() {
    return Traits::kRows * Traits::kColumns * kHeadOutputs * sizeof(float);
  }

  template <class Traits>
  __device__ void finish(const float (&sums)[4][Traits::kTiles][4], const Tile& tile, float* shared) const {
    const MmaWarp warp;
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    float logits[4][kHeadTiles][4] = {};
#pragma unroll
    for (int j = 0; j < Traits::kTiles; j += 2) {  // 16 outputs of the 3×3
      const int k = warp.half * (Traits::kOutputs / 2) + 8 * j + 2 * t;
      uint32_t a[4][4];
#pragma unroll
      for (int m = 0; m < 4; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {  // of 8 pixels and 8 outputs each
          const float* const pair = &sums[m][j + i / 2][i % 2 * 2];
          a[m][i] = pack2<T>(hidden(pair[0], k + i / 2 * 8), hidden(pair[1], k + i / 2 * 8 + 1));
        }
#pragma unroll
      for (int n = 0; n < kHeadTiles; n++) {
        const uint32_t b[2] = {pack2<T>(weight(8 * n + g, k), weight(8 * n + g, k + 1)),
                               pack2<T>(weight(8 * n + g, k + 8), weight(8 * n + g, k + 9))};
#pragma unroll
        for (int m = 0; m < 4; m++) mma_16x8x16<T>(logits[m][n], a[m], b);
      }
    }
#pragma unroll
    for (int turn = 0; turn < 2; turn++) {
      if (warp.half == turn)
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
          for (int n = 0; n < kHeadTiles; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int h = warp.row + MmaWarp::row_of(m), w = MmaWarp::column_of(m) + g + i / 2 * 8;
              float* const to = shared + (h * Traits::kColumns + w) * kHeadOutputs + 8 * n + 2 * t + i % 2;
              *to = turn == 0 ? logits[m][n][i] : *to + logits[m][n][i];
            }
      __syncthreads();
    }
    const int count = Traits::kRows * Traits::kColumns * out.channels;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < count; i += Traits::kThreads) {
      const int pixel = i / out.channels, j = i % out.channels;
      const int h = tile.row + pixel / Traits::kColumns, w = tile.column + pixel % Traits::kColumns;
      if (h < out.height && w < out.width) out.store(tile.n, j, h, w, shared[pixel * kHeadOutputs + j] + head_bias[j]);
    }
  }
};

// `bias`, `scale`, `shift` are those of the 3×3's outputs.
template <class T>
HeadEpilogue<T> head_epilogue(int64_t outputs, const TensorView& bias, const TensorView& scale, const TensorView& shift,
                              const TensorView& head_weight, const TensorView& head_bias, const TensorView& out) {
  return {parameter_of(bias, 0.f),      {parameter_of(scale, 1.f), parameter_of(shift, 0.f)},
          static_cast<int>(outputs),    matrix_weight<T>(head_weight),
          parameter_of(head_bias, 0.f), map_of<T>(out)};
}

// The head that fits on top of a block's outputs.
inline void check_head(int64_t outputs, int64_t classes) {
  check(outputs <= 128, "weight: tensor_cores takes up to 128 outputs below a head");
  check(classes >= 1 && classes <= HeadEpilogue<__half>::kHeadOutputs, "head_weight: expected 1 to 24 outputs");
}

}  // namespace swiftnet
