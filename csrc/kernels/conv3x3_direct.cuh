// The direct 3×3 convolution, stride 1, zero padding 1, with fp32 arithmetic, register-blocked:
//
//   out = epilogue( Σ_{c,r,s} weight[k,c,r,s] · x[n,c,h+r-1,w+s-1] )
//
// One block of 256 threads makes 8×32 pixels of 64 outputs; a thread 8 pixels of a row × 8 outputs (4 + 4), its 64 sums
// in registers. Input channels pass through shared memory in slices of 4, double-buffered: while one slice is
// multiplied the next is on its way from global memory to registers.
//
//        columns -4 … 35 of the tile
//       ┌─┬───── 32 ─────┬─┐
//      10 │              │ │ × 4 channels      weights [4 channels × 9 taps][64 outputs]
//       └─┴──────────────┴─┘
//
// A thread reads a row of 10 values once for three taps: 4 shared loads of pixels and 6 of weights for 192 multiplies.
// The halo starts 4 columns early, so that rows are loaded and stored by whole aligned vectors.
//
// Weights are packed once as the kernel reads them, in fp32: [K / 64][C][9][64], with C rounded up to whole slices and
// K to whole groups by zeros.
#pragma once
#include <climits>

#include "common/tiles.cuh"
#include "conv_epilogue.cuh"

namespace swiftnet {

struct DirectTraits {
  static constexpr int kRows = 8, kColumns = 32, kOutputs = 64, kChannels = 4;  // of a block; channels of a slice
  static constexpr int kPixels = 8;                                             // of a thread
  static constexpr int kOutputThreads = kOutputs / 8, kPixelThreads = kColumns / kPixels;
  static constexpr int kThreads = kOutputThreads * kPixelThreads * kRows;
  static constexpr int kHaloRows = kRows + 2, kBefore = 4, kPitch = kBefore + kColumns + 4;
  static constexpr int kPlane = kHaloRows * kPitch, kInputs = kChannels * kPlane;
  static constexpr int kWeights = kChannels * 9 * kOutputs;
  static_assert(kThreads == 256,
                "two blocks of at most 128 registers a thread fill a multiprocessor of 64 K registers");
  static_assert(kOutputThreads * kPixelThreads == 32, "a warp makes one row of pixels");
  static_assert(kHaloRows + kPitch + kChannels < 64, "what access_of promises of offsets");
  static_assert(2 * (kInputs + kWeights) * sizeof(float) <= 32 * 1024, "two blocks fit into 64 KiB");
};

// A thread's share of one slice's halo tile: from global memory to registers, and later to shared memory. kAny, which
// would need more registers than there are, takes its elements one by one when it stores.
template <class T, Access kAccess>
struct HaloSlice {
  using Traits = DirectTraits;
  static constexpr bool kOne = kAccess == Access::kAny;
  static constexpr int kRead = kAccess == Access::kRows ? Traits::kPitch / 4 : Traits::kPitch;  // along a row
  static constexpr int kItems = kRead * Traits::kHaloRows * (kAccess == Access::kChannels ? 1 : Traits::kChannels);
  static constexpr int kSlots = (kItems + Traits::kThreads - 1) / Traits::kThreads;
  static constexpr int kOutside = INT_MIN;

  const T* base;       // the image in the next slice to load
  int offset[kSlots];  // from the base, or kOutside. access_of sees to it that 32 bits suffice
  Vector4<T> values[kSlots];

  // Items lie in the tile one after the other.
  __device__ static int item(int slot) { return threadIdx.x + slot * Traits::kThreads; }
  __device__ static int channel(int slot) { return item(slot) / (kRead * Traits::kHaloRows); }
  __device__ static int row(int slot) { return item(slot) / kRead % Traits::kHaloRows; }
  __device__ static int column(int slot) { return item(slot) % kRead * (kAccess == Access::kRows ? 4 : 1); }
  __device__ static bool has(int slot) { return (slot + 1) * Traits::kThreads <= kItems || item(slot) < kItems; }

  __device__ static bool inside(const Map<const T>& x, const Tile& tile, int slot) {
    const int h = tile.row + row(slot) - 1, w = tile.column + column(slot) - Traits::kBefore;
    const bool needed = kAccess == Access::kRows ||
                        (column(slot) >= Traits::kBefore - 1 && column(slot) <= Traits::kBefore + Traits::kColumns);
    return has(slot) && needed && h >= 0 && h < x.height && w >= 0 && w < x.width;
  }

  __device__ HaloSlice(const Map<const T>& x, const Tile& tile) : base(&x.at(tile.n, 0, tile.row, tile.column)) {
    if (kOne) return;
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++) {
      const int64_t from_tile =
          channel(slot) * x.stride_c + (row(slot) - 1) * x.stride_h + (column(slot) - Traits::kBefore) * x.stride_w;
      offset[slot] = inside(x, tile, slot) ? static_cast<int>(from_tile) : kOutside;
    }
  }

  __device__ void load(int64_t stride_c) {
    if (kOne) return;
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++) {
#pragma unroll
      for (int i = 0; i < 4; i++) values[slot].v[i] = from_float<T>(0.f);
      if (offset[slot] != kOutside) values[slot] = load4(base + offset[slot]);
    }
    base += Traits::kChannels * (kAccess == Access::kChannels ? 1 : stride_c);
  }

  // To the tile in shared memory; `first` is the slice's first channel.
  __device__ void store(float* to, const Map<const T>& x, const Tile& tile, int first) const {
    if (kOne) {
#pragma unroll 1
      for (int slot = 0; slot < kSlots; slot++) {
        const int c = first + channel(slot), h = tile.row + row(slot) - 1;
        const bool there = inside(x, tile, slot) && c < x.channels;
        if (has(slot))
          to[item(slot)] = there ? x.load(tile.n, c, h, tile.column + column(slot) - Traits::kBefore) : 0.f;
      }
      return;
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++) {
      if (!has(slot)) continue;
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = to_float(values[slot].v[i]);
      if (kAccess == Access::kRows)
        reinterpret_cast<float4*>(to)[item(slot)] = {v[0], v[1], v[2], v[3]};
      else
#pragma unroll
        for (int i = 0; i < 4; i++) to[item(slot) + i * Traits::kPlane] = v[i];
    }
  }
};

// The slice of packed weights, likewise.
struct WeightSlice {
  using Traits = DirectTraits;
  static constexpr int kVectors = Traits::kWeights / 4;
  static constexpr int kSlots = (kVectors + Traits::kThreads - 1) / Traits::kThreads;

  const float4* source;
  float4 values[kSlots];

  __device__ explicit WeightSlice(const float* group) : source(reinterpret_cast<const float4*>(group) + threadIdx.x) {}
  __device__ static bool has(int slot) {
    return (slot + 1) * Traits::kThreads <= kVectors || threadIdx.x + slot * Traits::kThreads < kVectors;
  }
  __device__ void load() {
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++)
      if (has(slot)) values[slot] = __ldg(source + slot * Traits::kThreads);
    source += kVectors;
  }
  __device__ void store(float* weights) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++)
      if (has(slot)) reinterpret_cast<float4*>(weights)[threadIdx.x + slot * Traits::kThreads] = values[slot];
  }
};

inline int64_t packed_channels(int64_t channels) {
  return ceil_div(channels, DirectTraits::kChannels) * DirectTraits::kChannels;
}

// Weight: [K, C, 3, 3] of any strides. A thread writes one element.
template <class T>
__global__ void __launch_bounds__(256) pack_direct_kernel(Map<const T> weight, int outputs, int64_t channels,
                                                          float* packed, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  constexpr int kOutputs = DirectTraits::kOutputs;
  const int tap = static_cast<int>(i / kOutputs % 9), c = static_cast<int>(i / (9 * kOutputs) % channels);
  const int64_t k = i / (9 * kOutputs * channels) * kOutputs + i % kOutputs;
  const bool inside = k < outputs && c < weight.channels;
  packed[i] = inside ? weight.load(static_cast<int>(k), c, tap / 3, tap % 3) : 0.f;
}

// Two blocks a multiprocessor, at most 128 registers, but for kAny, which finds its addresses in the loop.
constexpr int min_blocks(Access access) { return access == Access::kAny ? 1 : 2; }

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

  HaloSlice<T, kAccess> halo(x, tile);
  WeightSlice weight(packed + tile.channel / Traits::kOutputs * packed_group);
  float sums[8][Traits::kPixels];  // [output][pixel]
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

  const Tile place = kept;
  const int again = static_cast<int>(opaque(threadIdx.x));  // no register over the loop
  const int first = place.channel + again % Traits::kOutputThreads * 4;
  const int h = place.row + again / 32;
  const int w0 = place.column + again % 32 / Traits::kOutputThreads * Traits::kPixels;
  if (h >= x.height) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int k0 = first + half * 32;
    if (kAccess == Access::kChannels) {
#pragma unroll
      for (int i = 0; i < Traits::kPixels; i++) {
        const float v[4] = {sums[4 * half][i], sums[4 * half + 1][i], sums[4 * half + 2][i], sums[4 * half + 3][i]};
        if (k0 < epilogue.out.channels && w0 + i < x.width) epilogue.template four<kAccess>(place.n, k0, h, w0 + i, v);
      }
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        if (k0 + k >= epilogue.out.channels) break;
        const float (&line)[8] = sums[4 * half + k];
        if (kAccess == Access::kRows) {
          if (w0 < x.width)
            epilogue.template four<kAccess>(place.n, k0 + k, h, w0, {line[0], line[1], line[2], line[3]});
          if (w0 + 4 < x.width)
            epilogue.template four<kAccess>(place.n, k0 + k, h, w0 + 4, {line[4], line[5], line[6], line[7]});
        } else {
#pragma unroll
          for (int i = 0; i < Traits::kPixels; i++)
            if (w0 + i < x.width) epilogue.one(place.n, k0 + k, h, w0 + i, line[i]);
        }
      }
    }
  }
}

}  // namespace swiftnet
