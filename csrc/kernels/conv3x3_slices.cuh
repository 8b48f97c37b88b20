// What the kernels that sum over taps share: the shape of a block's tile, and how slices of input channels and of
// packed weights pass from global memory through registers to shared memory.
//
//        columns -4 … 35 of the tile
//       ┌─┬───── 32 ─────┬─┐
//      10 │              │ │ × 4 channels      weights [4 channels × 9 taps][64 outputs]
//       └─┴──────────────┴─┘
//
// The halo starts 4 columns early, so that rows are loaded and stored by whole aligned vectors. Weights are packed
// once: [K / 64][C][9][64], with C rounded up to whole slices and K to whole groups by zeros.
#pragma once
#include <climits>

#include "common/access.cuh"
#include "common/tiles.cuh"
#include "conv_epilogue.cuh"

namespace swiftnet {

struct TapTraits {
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
};

// A thread's share of one slice's halo tile: from global memory to registers, and later to shared memory. kAny, which
// would need more registers than there are, takes its elements one by one when it stores.
template <class Traits, class T, Access kAccess>
struct HaloSlice {
  using Element = typename Traits::Element;  // in shared memory
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
      if (offset[slot] != kOutside) values[slot] = load4(base + opaque(offset[slot]));
    }
    base += Traits::kChannels * (kAccess == Access::kChannels ? 1 : opaque(stride_c));
  }

  // To the tile in shared memory; `first` is the slice's first channel.
  __device__ void store(Element* to, const Map<const T>& x, const Tile& tile, int first) const {
    if (kOne) {
#pragma unroll 1
      for (int slot = 0; slot < kSlots; slot++) {
        const int c = first + channel(slot), h = tile.row + row(slot) - 1;
        const bool there = inside(x, tile, slot) && c < x.channels;
        const int w = tile.column + column(slot) - Traits::kBefore;
        if (has(slot)) to[item(slot)] = Traits::element(there ? x.at(tile.n, c, h, w) : from_float<T>(0.f));
      }
      return;
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++) {
      if (!has(slot)) continue;
      Vector4<Element> v;
#pragma unroll
      for (int i = 0; i < 4; i++) v.v[i] = Traits::element(values[slot].v[i]);
      if (kAccess == Access::kRows)
        reinterpret_cast<Vector4<Element>*>(to)[item(slot)] = v;
      else
#pragma unroll
        for (int i = 0; i < 4; i++) to[item(slot) + i * Traits::kPlane] = v.v[i];
    }
  }
};

// The slice of packed weights, likewise.
template <class Traits>
struct WeightSlice {
  static constexpr int kVectors = Traits::kWeights * sizeof(typename Traits::Weight) / sizeof(float4);
  static constexpr int kSlots = (kVectors + Traits::kThreads - 1) / Traits::kThreads;

  const float4* source;
  float4 values[kSlots] = {};

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
  __device__ void store(typename Traits::Weight* weights) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++)
      if (has(slot)) reinterpret_cast<float4*>(weights)[threadIdx.x + slot * Traits::kThreads] = values[slot];
  }
};

// Ends the t-th output thread's 8 pixels of a row: of four outputs, from kFirst·t on, and of four kApart further.
template <Access kAccess, int kFirst, int kApart, class T>
__device__ inline void finish_tile(const ConvEpilogue<T>& epilogue, const Tile& tile, int height, int width,
                                   const float (&sums)[8][8]) {
  const int thread = static_cast<int>(opaque(threadIdx.x));  // no register over the loop before
  const int k = tile.channel + thread % TapTraits::kOutputThreads * kFirst;
  const int h = tile.row + thread / 32;
  const int w = tile.column + thread % 32 / TapTraits::kOutputThreads * TapTraits::kPixels;
  if (h >= height) return;
  epilogue.template rectangle<kAccess>(tile.n, k, h, w, width, sums);
  epilogue.template rectangle<kAccess>(tile.n, k + kApart, h, w, width, sums + 4);
}

inline int64_t packed_channels(int64_t channels) {
  return ceil_div(channels, TapTraits::kChannels) * TapTraits::kChannels;
}

// Weight: [K, C, 3, 3] of any strides. A thread writes one element.
template <class T, class Packed>
__global__ void __launch_bounds__(256) pack_taps_kernel(Map<const T> weight, int outputs, int64_t channels,
                                                        Packed* packed, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  constexpr int kOutputs = TapTraits::kOutputs;
  const int tap = static_cast<int>(i / kOutputs % 9), c = static_cast<int>(i / (9 * kOutputs) % channels);
  const int64_t k = i / (9 * kOutputs * channels) * kOutputs + i % kOutputs;
  const bool inside = k < outputs && c < weight.channels;
  packed[i] = from_float<Packed>(inside ? weight.load(static_cast<int>(k), c, tap / 3, tap % 3) : 0.f);
}

// `packed` takes Packed elements, whole groups and slices of them.
template <class T, class Packed>
void pack_taps(const TensorView& weight, float* packed, Stream stream) {
  const int64_t channels = packed_channels(weight.shape[1]);
  const int64_t count = ceil_div(weight.shape[0], TapTraits::kOutputs) * TapTraits::kOutputs * channels * 9;
  const int64_t blocks = ceil_div(count, 256);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const Map<const T> map = map_of<const T>(weight);
  const int outputs = static_cast<int>(weight.shape[0]);
  Packed* const to = reinterpret_cast<Packed*>(packed);
  SWIFTNET_LAUNCH((pack_taps_kernel<T, Packed>), grid, block, 0, stream, map, outputs, channels, to, count);
}

// How a kernel that sums over taps touches its maps: a slice of whole vectors has whole channels too.
inline Access tap_access(const Conv3x3Call& call) {
  if (call.x.shape[1] % TapTraits::kChannels != 0) return Access::kAny;
  return access_of({&call.x, &call.residual, &call.sum, &call.out});
}

inline Tiling tap_tiling(const TensorView& out) {
  return tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], TapTraits::kOutputs, TapTraits::kRows,
                TapTraits::kColumns);
}

// Two blocks a multiprocessor, at most 128 registers, but for kAny, which finds its addresses in the loop.
constexpr int min_blocks(Access access) { return access == Access::kAny ? 1 : 2; }

}  // namespace swiftnet
