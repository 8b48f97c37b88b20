// The 3×3 convolution by Winograd's F(2×2, 3×3), stride 1, zero padding 1, with fp32 arithmetic, in one launch:
//
//   a tile of 2×2 outputs = Aᵀ ( Σ_c (G g Gᵀ) ∘ (Bᵀ d B) ) A,  g the 3×3 weights and d the 4×4 inputs of channel c
//
// which takes 16 multiplies a channel where the sum over taps takes 36. (Winograd 1980; Lavin and Gray, CVPR 2016.)
//
// One block of 256 threads makes 4×8 tiles (8×16 pixels) of 32 outputs. Input channels pass through shared memory in
// slices of 8; for each slice
//
//   every thread transforms the window of one tile and channel      inputs  [16 points][8 channels][32 tiles]
//   and copies its part of the packed weights                       weights [16 points][8 channels][32 outputs]
//
// and 16 threads a point multiply them, 8 tiles × 8 outputs (4 + 4 each) a thread, while the next slice is on its way
// from global memory to registers. At the end the sums of a tile's 16 points, which are in different threads, meet in
// shared memory, 8 outputs at a time.
//
// An Inf would make NaN on the way (Inf - Inf), and large values may overflow: an output that is not finite is summed
// again tap by tap, as the direct kernel sums it.
#pragma once
#include "common/tiles.cuh"
#include "conv_epilogue.cuh"

namespace swiftnet {

struct WinogradTraits {
  static constexpr int kTileColumns = 8, kTiles = 32, kRows = 8, kColumns = 16;  // tiles and pixels of a block
  static constexpr int kOutputs = 32, kChannels = 8;  // outputs of a block, channels of a slice
  static constexpr int kPoints = 16, kThreads = 256, kMinBlocks = 2;
  static constexpr int kPass = 8, kPasses = kOutputs / kPass;  // outputs that meet at a time
  static constexpr int kWeights = kPoints * kChannels * kOutputs;
  static_assert(kTiles * kChannels == kThreads, "a thread transforms one window");
  static_assert(kTiles * kPass == kThreads, "a thread makes one tile's pixels in each pass");
};

// Weights in fp32 as the kernel reads them: [K / 32][C / 8][16][8][32], whole slices and groups by zeros. A thread
// multiplies the outputs at 4·t … 4·t + 3 and 16 further; the j-th of both halves of all threads meet in pass j, which
// makes neighbouring channels.
__host__ __device__ constexpr int64_t winograd_slices(int64_t channels) {
  return ceil_div(channels, WinogradTraits::kChannels);
}

__host__ __device__ constexpr int winograd_output_at(int position) {  // in its group
  return position % 4 * WinogradTraits::kPass + position / 16 * 4 + position % 16 / 4;
}

// Weight: [K, C, 3, 3] of any strides. A thread transforms the weights of one output and channel, G g Gᵀ.
template <class T>
__global__ void __launch_bounds__(256) pack_winograd_kernel(Map<const T> weight, int outputs, int64_t slices,
                                                            float* packed, int64_t count) {
  using Traits = WinogradTraits;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t slice = i / (Traits::kChannels * Traits::kOutputs);
  const int place = static_cast<int>(i % (Traits::kChannels * Traits::kOutputs));  // in a point's [8][32]
  const int64_t k = slice / slices * Traits::kOutputs + winograd_output_at(place % Traits::kOutputs);
  const int64_t c = slice % slices * Traits::kChannels + place / Traits::kOutputs;
  float g[3][3], rows[4][3];
#pragma unroll
  for (int tap = 0; tap < 9; tap++)
    g[tap / 3][tap % 3] = k < outputs && c < weight.channels
                              ? weight.load(static_cast<int>(k), static_cast<int>(c), tap / 3, tap % 3)
                              : 0.f;
#pragma unroll
  for (int s = 0; s < 3; s++) {
    rows[0][s] = g[0][s];
    rows[1][s] = 0.5f * (g[0][s] + g[1][s] + g[2][s]);
    rows[2][s] = 0.5f * (g[0][s] - g[1][s] + g[2][s]);
    rows[3][s] = g[2][s];
  }
  float* const to = packed + slice * Traits::kWeights + place;
  constexpr int kPoint = Traits::kChannels * Traits::kOutputs;
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const float (&row)[3] = rows[r];
    to[(4 * r + 0) * kPoint] = row[0];
    to[(4 * r + 1) * kPoint] = 0.5f * (row[0] + row[1] + row[2]);
    to[(4 * r + 2) * kPoint] = 0.5f * (row[0] - row[1] + row[2]);
    to[(4 * r + 3) * kPoint] = row[2];
  }
}

// From element to element and slice to slice, in bytes: what the loop adds as it is.
struct WindowSteps {
  int64_t column, row, slice;
};

// A thread's 4×4 window of one tile and channel: from global memory to registers, and later transformed to shared
// memory.
template <class T, bool kRows>
struct Window {
  const char* corner;  // its first element, in the next slice to load; perhaps outside the image
  unsigned inside;     // bit 4·r + s: whether element (r, s) is inside
  T values[16];

  __device__ Window(const Map<const T>& x, const Tile& tile, int tile_index, int channel) {
    const int h0 = tile.row + tile_index / WinogradTraits::kTileColumns * 2 - 1;
    const int w0 = tile.column + tile_index % WinogradTraits::kTileColumns * 2 - 1;
    corner = reinterpret_cast<const char*>(x.data + tile.n * x.stride_n + channel * x.stride_c + h0 * x.stride_h +
                                           w0 * x.stride_w);
    inside = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int h = h0 + i / 4, w = w0 + i % 4;
      inside |= static_cast<unsigned>(h >= 0 && h < x.height && w >= 0 && w < x.width) << i;
    }
  }

  __device__ void load(const WindowSteps& steps, bool there) {
    const unsigned wanted = there ? inside : 0u;
    const char* row = corner;
#pragma unroll
    for (int r = 0; r < 4; r++) {
      row = opaque(row);
      const char* element = row;
#pragma unroll
      for (int s = 0; s < 4; s++) {
        values[4 * r + s] = from_float<T>(0.f);
        if (wanted >> (4 * r + s) & 1u) values[4 * r + s] = __ldg(reinterpret_cast<const T*>(element));
        element = kRows ? element + sizeof(T) : opaque(element + steps.column);
      }
      row += steps.row;
    }
    corner += steps.slice;
  }

  // Bᵀ d B, a point every `stride`.
  __device__ void store(float* to, int stride) const {
    float rows[4][4];
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const float d0 = to_float(values[s]), d1 = to_float(values[4 + s]), d2 = to_float(values[8 + s]),
                  d3 = to_float(values[12 + s]);
      rows[0][s] = d0 - d2;
      rows[1][s] = d1 + d2;
      rows[2][s] = d2 - d1;
      rows[3][s] = d1 - d3;
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const float (&row)[4] = rows[r];
      to[(4 * r + 0) * stride] = row[0] - row[2];
      to[(4 * r + 1) * stride] = row[1] + row[2];
      to[(4 * r + 2) * stride] = row[2] - row[1];
      to[(4 * r + 3) * stride] = row[1] - row[3];
    }
  }
};

// One output as the direct kernel sums it.
template <class T>
__device__ float sum_of_taps(const Map<const T>& x, const Map<const T>& weight, int n, int k, int h, int w) {
  float sum = 0.f;
#pragma unroll 1
  for (int c = 0; c < x.channels; c++)
#pragma unroll 1
    for (int tap = 0; tap < 9; tap++) {
      const int y = h + tap / 3 - 1, z = w + tap % 3 - 1;
      const bool inside = y >= 0 && y < x.height && z >= 0 && z < x.width;
      sum = fmaf(inside ? x.load(n, c, y, z) : 0.f, weight.load(k, c, tap / 3, tap % 3), sum);
    }
  return sum;
}

// Whether the next slice's inputs are loaded before this slice is multiplied, or after it: from sm_70 on the compiler
// would need more than the 128 registers that two blocks a multiprocessor allow, and the other block fills the gap.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 700
constexpr bool kLoadEarly = false;
#else
constexpr bool kLoadEarly = true;
#endif

// What a block keeps in shared memory. kRows: neighbouring pixels of a row are neighbours in memory, and threads go
// along them; else along channels.
template <bool kRows>
struct WinogradLayout {
  using Traits = WinogradTraits;
  static constexpr int kPitch = Traits::kTiles + (kRows ? 0 : 4);  // + 4: written along channels without bank conflicts
  static constexpr int kPoint = Traits::kChannels * kPitch;        // of the inputs, and of the sums where they meet
  static constexpr int kInputs = Traits::kPoints * kPoint;

  // The tile that a thread transforms or makes, and the channel or output.
  __device__ static int tile(int thread) { return kRows ? thread % Traits::kTiles : thread / Traits::kChannels; }
  __device__ static int plane(int thread) { return kRows ? thread / Traits::kTiles : thread % Traits::kChannels; }
};

// One group's sums over all channels, [output][tile] of a thread's share of its point.
template <class T, bool kRows>
__device__ inline void sum_points(const Map<const T>& x, const WindowSteps& steps, const float* packed_group,
                                  const Tile& tile, float* inputs, float* weights, float (&sums)[8][8]) {
  using Traits = WinogradTraits;
  using Layout = WinogradLayout<kRows>;
  const int thread = static_cast<int>(opaque(threadIdx.x)), own_plane = Layout::plane(thread);
  const int point = thread / 16, tiles = thread % 4 * 4, outputs = thread / 4 % 4 * 4;

  Window<T, kRows> window(x, tile, Layout::tile(thread), own_plane);
  const float4* packed_slice = reinterpret_cast<const float4*>(packed_group);  // the same for all threads
#pragma unroll
  for (int k = 0; k < 8; k++)
#pragma unroll
    for (int i = 0; i < 8; i++) sums[k][i] = 0.f;

  window.load(steps, own_plane < x.channels);
  for (int next = Traits::kChannels;; next += Traits::kChannels) {
    float4 packed_values[Traits::kWeights / 4 / Traits::kThreads];
#pragma unroll
    for (int i = 0; i < 4; i++) packed_values[i] = __ldg(packed_slice + threadIdx.x + i * Traits::kThreads);
    packed_slice += Traits::kWeights / 4;
    __syncthreads();  // what was there before has been read
    window.store(inputs + own_plane * Layout::kPitch + Layout::tile(thread), Layout::kPoint);
#pragma unroll
    for (int i = 0; i < 4; i++) reinterpret_cast<float4*>(weights)[thread + i * Traits::kThreads] = packed_values[i];
    __syncthreads();
    const auto load_next = [&] {
      const int again = static_cast<int>(opaque(threadIdx.x));  // no register over the multiplies
      if (next < x.channels) window.load(steps, next + Layout::plane(again) < x.channels);
    };
    if (kLoadEarly) load_next();

    const float* const in = inputs + point * Layout::kPoint + tiles;
    const float* const w = weights + point * Traits::kChannels * Traits::kOutputs + outputs;
#pragma unroll
    for (int c = 0; c < Traits::kChannels; c++) {
      const float4 a = *reinterpret_cast<const float4*>(in + c * Layout::kPitch);
      const float4 b = *reinterpret_cast<const float4*>(in + c * Layout::kPitch + 16);
      const float4 low = *reinterpret_cast<const float4*>(w + c * Traits::kOutputs);
      const float4 high = *reinterpret_cast<const float4*>(w + c * Traits::kOutputs + 16);
      const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
      const float u[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int k = 0; k < 8; k++)
#pragma unroll
        for (int i = 0; i < 8; i++) sums[k][i] = fmaf(v[i], u[k], sums[k][i]);
    }
    if (next >= x.channels) break;
    if (!kLoadEarly) load_next();
  }
}

// From a group's sums to pixels: calls finish(k, h, w, sum) for each output below `outputs` and pixel of the thread's
// tile.
template <class T, bool kRows, class Finish>
__device__ inline void make_pixels(const Map<const T>& x, const Map<const T>& weight, const Tile& tile, int outputs,
                                   const float (&sums)[8][8], float* inputs, const Finish& finish) {
  using Traits = WinogradTraits;
  using Layout = WinogradLayout<kRows>;
  const int thread = static_cast<int>(opaque(threadIdx.x)), own_tile = Layout::tile(thread);
  const int h0 = tile.row + own_tile / Traits::kTileColumns * 2;
  const int w0 = tile.column + own_tile % Traits::kTileColumns * 2;
  const int k0 = tile.channel + Layout::plane(thread);
  unsigned not_finite = 0;  // bit 4·pass + i: of the tile's i-th pixel
#pragma unroll
  for (int pass = 0; pass < Traits::kPasses; pass++) {
    __syncthreads();  // the last slice has been multiplied, the last pass read
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float* const to =
          inputs + thread / 16 * Layout::kPoint + (half * 4 + thread / 4 % 4) * Layout::kPitch + thread % 4 * 4;
      const float (&s)[8] = sums[half * 4 + pass];
      *reinterpret_cast<float4*>(to) = {s[0], s[1], s[2], s[3]};
      *reinterpret_cast<float4*>(to + 16) = {s[4], s[5], s[6], s[7]};
    }
    __syncthreads();
    const int k = k0 + pass * Traits::kPass;
    if (k >= outputs) continue;
    float rows[2][4];  // Aᵀ m
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const float* const m = inputs + s * Layout::kPoint + Layout::plane(thread) * Layout::kPitch + own_tile;
      const float m0 = m[0], m1 = m[4 * Layout::kPoint], m2 = m[8 * Layout::kPoint], m3 = m[12 * Layout::kPoint];
      rows[0][s] = m0 + m1 + m2;
      rows[1][s] = m1 - m2 - m3;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float (&row)[4] = rows[i / 2];
      const int h = h0 + i / 2, w = w0 + i % 2;
      if (h >= x.height || w >= x.width) continue;
      const float sum = i % 2 ? row[1] - row[2] - row[3] : row[0] + row[1] + row[2];
      if (!(fabsf(sum) < INFINITY)) not_finite |= 1u << (4 * pass + i);
      finish(k, h, w, sum);
    }
  }
  while (not_finite != 0) {
    const int i = __ffs(not_finite) - 1, k = k0 + i / 4 * Traits::kPass, h = h0 + i % 4 / 2, w = w0 + i % 2;
    finish(k, h, w, sum_of_taps(x, weight, tile.n, k, h, w));
    not_finite &= not_finite - 1;
  }
}

template <class T, bool kRows>
__global__ void __launch_bounds__(WinogradTraits::kThreads, WinogradTraits::kMinBlocks) conv3x3_winograd_kernel(
    Map<const T> x, Map<const T> weight, WindowSteps steps, const float* packed, int64_t packed_group,
    ConvEpilogue<T> epilogue, Tiling tiling) {
  __align__(16) __shared__ float inputs[WinogradLayout<kRows>::kInputs];
  __align__(16) __shared__ float weights[WinogradTraits::kWeights];
  const Tile tile = tiling.tile(blockIdx.x);
  float sums[8][8];
  sum_points<T, kRows>(x, steps, packed + tile.channel / WinogradTraits::kOutputs * packed_group, tile, inputs, weights,
                       sums);
  const Tile place = tiling.tile(opaque(blockIdx.x));  // found again: the loop needs all registers
  make_pixels<T, kRows>(x, weight, place, epilogue.out.channels, sums, inputs,
                        [&](int k, int h, int w, float sum) { epilogue.one(place.n, k, h, w, sum); });
}

template <class T>
WindowSteps window_steps(const Map<const T>& x) {
  const int64_t size = sizeof(T);
  return {x.stride_w * size, x.stride_h * size, WinogradTraits::kChannels * x.stride_c * size};
}

inline bool goes_along_rows(const TensorView& x) { return x.strides[3] == 1 && !channels_inner(x); }

}  // namespace swiftnet
