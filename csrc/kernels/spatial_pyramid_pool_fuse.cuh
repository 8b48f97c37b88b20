// The fusing 1×1 of spatial pyramid pooling:
//
//   out[n,k,h,w] = bias[k] + Σ_c weight[k,c] · relu(affine(source_c)),
//   source_c = x[n,c,h,w] for c < C, else channel (c - C) % D of level (c - C) / D resized to x's size
//
// One block of 256 threads makes 2×16 pixels of 64 outputs. The map is small (stride 32), so the tile is, for blocks on
// many multiprocessors; warps are kept busy by sharing the channels: four groups of 64 threads each multiply 8 channels
// of a slice of 32, a thread 8 pixels of 4 outputs, and in the end the groups' sums are added.
//
//   inputs [32 channels][32 pixels]     weights [32 channels][64 outputs]     a group's share: 8 channels of both
//
// A slice is of x or of the levels, never of both: x's last slice, and all of them, are filled up with zeros. While one
// slice is multiplied the next is on its way from global memory to registers. What resizing takes of rows, columns and
// weights is worked out once a block.
#pragma once
#include "common/resize.cuh"
#include "spatial_pyramid_pool.cuh"

namespace swiftnet {

struct FuseTraits {
  static constexpr int kRows = 2, kColumns = 16, kPixels = kRows * kColumns, kOutputs = 64;  // of a block
  static constexpr int kChannels = 32;                                                       // of a slice
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr int kGroups = 4, kShare = kChannels / kGroups;
  // + 4: rows stay aligned to vectors, and what is written down a column meets few bank conflicts
  static constexpr int kInputPitch = kPixels + 4, kWeightPitch = kOutputs + 4;
  static constexpr int kInputs = kChannels * kInputPitch, kSlice = kInputs + kChannels * kWeightPitch;
  static_assert(kThreads / kGroups * 32 == kPixels * kOutputs, "a thread has 8 × 4 sums");
  static_assert(kThreads * 4 == kChannels * kPixels, "a thread brings four inputs of each slice");
  static_assert(kGroups * kColumns * kWeightPitch <= 2 * kSlice, "a row's sums of all groups fit where slices were");
  static_assert(PyramidGrids::kMaxLevels * (kRows + kColumns) <= kThreads, "a thread makes one tap");
};

// The activated concatenation.
template <class T>
struct PyramidSource {
  Map<const T> x;
  const float* levels;  // [N][cells][outputs]
  PyramidGrids grids;
  int outputs;  // channels of one level
  AffineRelu affine_relu;

  __device__ int channels() const { return x.channels + grids.count * outputs; }
  // The end of the channels that share slices with channel c.
  __device__ int end(int c) const { return c < x.channels ? x.channels : channels(); }
};

// How the tile's pixels lie between the cells of each level.
struct PyramidTaps {
  // lower and upper are offsets in the image's levels: of a row of cells, and of a cell in it
  ResizeTap rows[PyramidGrids::kMaxLevels][FuseTraits::kRows];
  ResizeTap columns[PyramidGrids::kMaxLevels][FuseTraits::kColumns];
  bool single[PyramidGrids::kMaxLevels];  // a pixel is a cell: nearest, or a level of the map's size

  __device__ void fill(const PyramidGrids& grids, int outputs, Resize mode, const Tile& tile, int height, int width) {
    constexpr int kTaps = FuseTraits::kRows + FuseTraits::kColumns;
    const int l = threadIdx.x / kTaps, i = threadIdx.x % kTaps, column = i - FuseTraits::kRows;
    if (l >= grids.count) return;
    const PyramidLevel level = grids.level(l);
    const auto tap_of = [=](int dst, int in, int out) {
      return mode == Resize::kNearest ? resize_tap<Resize::kNearest>(dst, in, out)
                                      : resize_tap<Resize::kBilinear>(dst, in, out);
    };
    if (column < 0) {
      const ResizeTap tap = tap_of(min(tile.row + i, height - 1), level.rows, height);
      rows[l][i] = {(level.first_cell + tap.lower * level.columns) * outputs,
                    (level.first_cell + tap.upper * level.columns) * outputs, tap.weight};
    } else {
      const ResizeTap tap = tap_of(min(tile.column + column, width - 1), level.columns, width);
      columns[l][column] = {tap.lower * outputs, tap.upper * outputs, tap.weight};
    }
    if (i == 0) single[l] = mode == Resize::kNearest || (level.rows == height && level.columns == width);
  }
};

// A thread's share of a slice of inputs: from global memory to registers, and later to shared memory. Of x these are
// four channels of a pixel with kChannels, else four pixels of a row; of the levels four pixels of a row, with the
// lanes along the channels. Where the tile leaves the image, its edge is read again: sums of no pixel are not stored.
template <class T, Access kAccess>
struct PyramidSlice {
  using Traits = FuseTraits;
  static constexpr bool kAcross = kAccess == Access::kChannels;

  const T* pixel;      // of x, in channel 0
  int columns;         // of x from there on
  const float* image;  // of the levels, in channel 0
  int level;
  Four<T, kAccess != Access::kAny> of_x;
  float of_levels[4][4];  // of each pixel the cells that it lies between

  __device__ static int lane() { return threadIdx.x % 32; }
  __device__ static int warp() { return threadIdx.x / 32; }
  // In a slice of x.
  __device__ static int channel() { return kAcross ? lane() % 4 * 4 + warp() % 2 * 16 : lane() / 8 + warp() * 4; }
  __device__ static int place() { return kAcross ? lane() / 4 + warp() / 2 * 8 : lane() % 8 * 4; }
  // In a slice of the levels the channel is the lane.
  __device__ static int level_place() { return warp() * 4; }

  __device__ PyramidSlice(const PyramidSource<T>& source, const Tile& tile) {
    const Map<const T>& x = source.x;
    const int h = min(tile.row + place() / Traits::kColumns, x.height - 1);
    const int w = min(tile.column + place() % Traits::kColumns, x.width - (kAccess == Access::kRows ? 4 : 1));
    pixel = x.data + tile.n * x.stride_n + h * x.stride_h + w * x.stride_w;
    columns = x.width - w;
    image = source.levels + static_cast<int64_t>(tile.n) * source.grids.cells * source.outputs;
  }

  __device__ void load(const PyramidSource<T>& source, const PyramidTaps& taps, int first) {
    if (first < source.x.channels)
      load_x(source, first);
    else
      load_levels(source, taps, first);
  }

  __device__ void load_x(const PyramidSource<T>& source, int first) {
    const int c = min(first + channel(), source.x.channels - (kAcross ? 4 : 1));
    of_x.load(pixel + c * source.x.stride_c, source.x.stride_w, columns - 1);
  }

  __device__ void load_levels(const PyramidSource<T>& source, const PyramidTaps& taps, int first) {
    const int c = min(first + lane(), source.channels() - 1) - source.x.channels;
    level = c / source.outputs;
    const float* const map = image + (c - level * source.outputs);
    const ResizeTap v = taps.rows[level][level_place() / Traits::kColumns];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const ResizeTap u = taps.columns[level][level_place() % Traits::kColumns + i];
#pragma unroll
      for (int t = 0; t < 4; t++)
        of_levels[i][t] = __ldg(map + ((t / 2 ? v.upper : v.lower) + (t % 2 ? u.upper : u.lower)));
    }
  }

  // With scale and shift, (x, y), of the slice's channels.
  __device__ void store(const PyramidSource<T>& source, const PyramidTaps& taps, int first, float* inputs,
                        const float2* affine) const {
    float v[4];
    if (first < source.x.channels) {
      const int c = channel();
      const bool there = first + c < source.x.channels;
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = activated(of_x[i], affine[c + (kAcross ? i : 0)], there);
      float* const to = inputs + c * Traits::kInputPitch + place();
      if (kAcross)
#pragma unroll
        for (int i = 0; i < 4; i++) to[i * Traits::kInputPitch] = v[i];
      else
        store4(to, v);
    } else {
      const bool there = first + lane() < source.channels();
      resize(taps, v);
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = activated(v[i], affine[lane()], there);
      store4(inputs + lane() * Traits::kInputPitch + level_place(), v);
    }
  }

  __device__ static float activated(float v, float2 affine, bool there) {
    return there ? relu(fmaf(v, affine.x, affine.y)) : 0.f;
  }

  __device__ void resize(const PyramidTaps& taps, float (&v)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = of_levels[i][0];
    if (taps.single[level]) return;
    const float down = taps.rows[level][level_place() / Traits::kColumns].weight;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float (&cells)[4] = of_levels[i];
      const float across = taps.columns[level][level_place() % Traits::kColumns + i].weight;
      const float upper_row = interpolate(cells[0], cells[1], across);
      v[i] = interpolate(upper_row, interpolate(cells[2], cells[3], across), down);
    }
  }
};

template <class T>
struct FuseWeight {  // [K, C + L·D]
  const T* data;
  int64_t stride_k, stride_c;
};

// The slice of weights, likewise: four channels of two outputs, which are vectors where kWhole.
template <class T, bool kWhole>
struct FuseWeightSlice {
  using Traits = FuseTraits;
  static constexpr int kApart = Traits::kOutputs / 2;
  Four<T, kWhole> values[2];

  __device__ static int channel() { return threadIdx.x % 4 * 4 + threadIdx.x / 32 % 2 * 16; }
  __device__ static int output() { return threadIdx.x % 32 / 4 + threadIdx.x / 64 * 8; }

  // Outputs that are not there are the last one again; their sums are not stored.
  __device__ void load(const FuseWeight<T>& weight, int k0, int outputs, int first, int end) {
    const int c = min(first + channel(), end - (kWhole ? 4 : 1));
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int k = min(opaque(k0) + output() + i * kApart, outputs - 1);  // no registers over the products
      values[i].load(weight.data + k * weight.stride_k + c * weight.stride_c, weight.stride_c, end - 1 - c);
    }
  }

  __device__ void store(int first, int end, float* weights) const {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        weights[(channel() + j) * Traits::kWeightPitch + output() + i * kApart] =
            first + channel() + j < end ? values[i][j] : 0.f;
  }
};

template <class T, Access kAccess, bool kWhole>
__global__ void __launch_bounds__(FuseTraits::kThreads, FuseTraits::kMinBlocks) fuse_kernel(
    PyramidSource<T> source, Resize mode, FuseWeight<T> weight, Parameter bias, Map<T> out, Tiling tiling) {
  using Traits = FuseTraits;
  constexpr bool kAcross = kAccess == Access::kChannels;
  __align__(16) __shared__ float shared[2 * Traits::kSlice];  // two slices; then a row's sums
  __shared__ float2 affine[2][Traits::kChannels];             // of two slices
  __shared__ PyramidTaps taps;

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x;
  PyramidSlice<T, kAccess> input(source, tile);
  FuseWeightSlice<T, kWhole> matrix;
  const auto next_slice = [&](int first) { return min(first + Traits::kChannels, source.end(first)); };
  const auto load_affine = [&](int first) {
    const int c = min(first + thread, source.channels() - 1);
    return float2{source.affine_relu.scale[c], source.affine_relu.shift[c]};
  };

  taps.fill(source.grids, source.outputs, mode, tile, out.height, out.width);
  if (thread < Traits::kChannels) {
    affine[0][thread] = load_affine(0);
    affine[1][thread] = load_affine(next_slice(0));
  }
  __syncthreads();
  input.load_x(source, 0);
  matrix.load(weight, tile.channel, out.channels, 0, source.end(0));
  input.store(source, taps, 0, shared, affine[0]);
  matrix.store(0, source.end(0), shared + Traits::kInputs);
  __syncthreads();

  // 8 neighbouring lanes go along the outputs; they read the same pixels
  const int group = thread / 64, quad = thread / 8 % 4 * 4, four = (thread % 8 + thread / 32 % 2 * 8) * 4;
  float sums[2][4][4];  // [row][pixel][output]
#pragma unroll
  for (int r = 0; r < 2; r++)
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) sums[r][i][j] = 0.f;

  int buffer = 0;
  for (int first = 0;;) {
    const int next = next_slice(first);
    const bool more = next < source.channels();
    float2 after;  // the affine of the slice after the next
    if (more) {
      input.load(source, taps, next);
      matrix.load(weight, tile.channel, out.channels, next, source.end(next));
      if (thread < Traits::kChannels) after = load_affine(next_slice(next));
    }
    const float* const from = shared + buffer * Traits::kSlice + group * Traits::kShare * Traits::kInputPitch + quad;
    const float* const with =
        shared + buffer * Traits::kSlice + Traits::kInputs + group * Traits::kShare * Traits::kWeightPitch + four;
#pragma unroll
    for (int c = 0; c < Traits::kShare; c++) {
      const float4 b = *reinterpret_cast<const float4*>(with + c * Traits::kWeightPitch);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float4 a = *reinterpret_cast<const float4*>(from + c * Traits::kInputPitch + r * Traits::kColumns);
        const float pixels[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          sums[r][i][0] = fmaf(pixels[i], b.x, sums[r][i][0]);
          sums[r][i][1] = fmaf(pixels[i], b.y, sums[r][i][1]);
          sums[r][i][2] = fmaf(pixels[i], b.z, sums[r][i][2]);
          sums[r][i][3] = fmaf(pixels[i], b.w, sums[r][i][3]);
        }
      }
    }
    if (!more) break;
    buffer ^= 1;  // the other buffer's readers have passed the last barrier
    input.store(source, taps, next, shared + buffer * Traits::kSlice, affine[buffer]);
    matrix.store(next, source.end(next), shared + buffer * Traits::kSlice + Traits::kInputs);
    if (thread < Traits::kChannels) affine[buffer ^ 1][thread] = after;
    __syncthreads();
    first = next;
  }

  // A thread ends four neighbours in memory: outputs of a pixel with kChannels, else pixels of an output.
  const int column = kAcross ? thread / 16 : thread % 4 * 4, output = kAcross ? thread % 16 * 4 : thread / 4;
  const int w = tile.column + column, k = tile.channel + output;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    __syncthreads();  // others may still read the last slice, or row
#pragma unroll
    for (int i = 0; i < 4; i++)
      store4(shared + (group * Traits::kColumns + quad + i) * Traits::kWeightPitch + four, sums[r][i]);
    __syncthreads();
    const int h = tile.row + r;
    if (h >= out.height || w >= out.width || k >= out.channels) continue;
    float y[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float* const of_group =
          shared + (column + (kAcross ? 0 : i)) * Traits::kWeightPitch + output + (kAcross ? i : 0);
      constexpr int kGroup = Traits::kColumns * Traits::kWeightPitch;
      y[i] = (of_group[0] + of_group[kGroup]) + (of_group[2 * kGroup] + of_group[3 * kGroup]);
      y[i] += bias[k + (kAcross ? i : 0)];
    }
    T* const to = &out.at(tile.n, k, h, w);
    if (kAccess != Access::kAny)
      store4(to, y);
    else
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (w + i < out.width) to[i * out.stride_w] = from_float<T>(y[i]);
  }
}

}  // namespace swiftnet
