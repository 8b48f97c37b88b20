// Spatial pyramid pooling in three launches; neither the pooled map nor the concatenation of the levels is written.
//
//   pool   strips[n][h][column][c] = Σ of row h of x over the columns of a cell, for each column of each grid
//   level  levels[n][cell][d]      = Σ_c level_weight[l,d,c] · relu(affine_l(mean[c])), mean from the strips of its
//   rows fuse   spatial_pyramid_pool_fuse.cuh: the 1×1 over x and the resized levels
//
// Strips make cells of any shape in one read of x: overlapping windows share its rows, and no thread adds up a whole
// cell. With grids of 16, 8, 4 and 2 columns they are about half as many as the pixels of a row of 64. Strips and
// levels are fp32.
//
// The cells of all levels are numbered one after the other, row by row, and so are the columns of all grids. A cell's
// window is PyTorch's: along H, cell i of a grid of g rows covers [floor(i·H/g), ceil((i+1)·H/g)), so windows overlap
// where g does not divide H.
#pragma once
#include "common/access.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct PyramidLevel {
  int rows, columns;
  int first_cell, first_column;  // their numbers
};

struct PyramidGrids {
  static constexpr int kMaxLevels = 8, kMaxCells = 1024;
  int count, cells, columns;  // levels; cells and columns of all of them
  PyramidLevel levels[kMaxLevels];

  // By an unrolled choice: indexing by a variable would put the grids into local memory.
  __device__ PyramidLevel level(int index) const {
    PyramidLevel chosen = levels[0];
#pragma unroll
    for (int l = 1; l < kMaxLevels; l++)
      if (l == index) chosen = levels[l];
    return chosen;
  }
  __device__ int level_of_cell(int cell) const {
    int index = 0;
#pragma unroll
    for (int l = 1; l < kMaxLevels; l++) index += l < count && cell >= levels[l].first_cell;
    return index;
  }
  __device__ int level_of_column(int column) const {
    int index = 0;
#pragma unroll
    for (int l = 1; l < kMaxLevels; l++) index += l < count && column >= levels[l].first_column;
    return index;
  }
};

struct Window {
  int begin, end;
};

// Of `size` = whole · cells + rest, so that 32 bits suffice: cells are at most 1024.
__device__ inline Window pooling_window(int cell, int cells, int size) {
  const int whole = size / cells, rest = size % cells;
  return {cell * whole + cell * rest / cells, (cell + 1) * whole + ((cell + 1) * rest + cells - 1) / cells};
}

// Channels of a strip in memory: whole vectors, the last filled up with zeros.
__host__ __device__ constexpr int64_t strip_pitch(int64_t channels) { return ceil_div(channels, 4) * 4; }

// Four neighbours in memory, as one vector where `whole` says so, else those of the first `count` that there are, and
// zeros. Vectors exist whole, with a count of four or more, or not at all.
template <class T>
__device__ inline Vector4<T> load_four(const T* p, bool whole, int64_t stride, int count) {
  if (whole && count > 0) return load4(p);
  Vector4<T> four;
#pragma unroll
  for (int i = 0; i < 4; i++) four.v[i] = i < count ? __ldg(p + i * stride) : from_float<T>(0.f);
  return four;
}

struct PoolTraits {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kChannels = 32, kColumns = 64;  // of the tile that passes through shared memory
  static constexpr int kPitch = kChannels + 1;         // + 1: four pixels of a channel are written with few conflicts
};

// One block makes the strips of 32 channels of one row: the row passes through a tile of 64 columns, and each warp adds
// up the columns of its strips, a lane one channel.
template <class T, Access kAccess>
__global__ void __launch_bounds__(PoolTraits::kThreads) pool_kernel(Map<const T> x, PyramidGrids grids, float* strips) {
  using Traits = PoolTraits;
  constexpr bool kAcross = kAccess == Access::kChannels;  // a vector is of four channels
  __shared__ float tile[Traits::kColumns][Traits::kPitch];
  __shared__ Window windows[PyramidGrids::kMaxCells];  // of each column of the grids

  const int groups = static_cast<int>(ceil_div(x.channels, Traits::kChannels));
  const int row = blockIdx.x / groups, channel = blockIdx.x % groups * Traits::kChannels;  // a row of the batch
  const int n = row / x.height, h = row % x.height, lane = threadIdx.x % 32;
  const int64_t pitch = strip_pitch(x.channels);
  float* const to = strips + static_cast<int64_t>(row) * grids.columns * pitch + channel + lane;

  for (int i = threadIdx.x; i < grids.columns; i += Traits::kThreads) {
    const PyramidLevel level = grids.level(grids.level_of_column(i));
    windows[i] = pooling_window(i - level.first_column, level.columns, x.width);
  }
  for (int column = 0; column < x.width; column += Traits::kColumns) {
#pragma unroll
    for (int i = threadIdx.x; i < Traits::kColumns * Traits::kChannels / 4; i += Traits::kThreads) {
      const int c = kAcross ? i % (Traits::kChannels / 4) * 4 : i / (Traits::kColumns / 4);
      const int s = kAcross ? i / (Traits::kChannels / 4) : i % (Traits::kColumns / 4) * 4;
      const int64_t offset = n * x.stride_n + (channel + c) * x.stride_c + h * x.stride_h + (column + s) * x.stride_w;
      const int count = channel + c < x.channels ? x.width - column - s : 0;
      const Vector4<T> v =
          load_four(x.data + offset, kAccess != Access::kAny, x.stride_w, kAcross && count > 0 ? 4 : count);
#pragma unroll
      for (int j = 0; j < 4; j++) tile[s + (kAcross ? 0 : j)][c + (kAcross ? j : 0)] = to_float(v.v[j]);
    }
    __syncthreads();
    for (int i = threadIdx.x / 32; i < grids.columns && channel + lane < pitch; i += Traits::kWarps) {
      const Window window = windows[i];
      const int begin = max(window.begin - column, 0), end = min(window.end - column, Traits::kColumns);
      if (begin >= end) continue;
      float sums[4] = {0.f, 0.f, 0.f, 0.f};  // of every fourth column: short chains of additions
      for (int s = begin; s < end; s += 4)
#pragma unroll
        for (int j = 0; j < 4; j++)
          if (s + j < end) sums[j] += tile[s + j][lane];
      const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      float& strip = to[i * pitch];
      strip = window.begin < column ? strip + sum : sum;  // the same thread's of the tile before
    }
    __syncthreads();  // the next tile overwrites what others may still read
  }
}

template <class T>
struct LevelWeight {  // [L, D, C]
  const T* data;
  int64_t stride_l, stride_d, stride_c;
  bool whole;  // four channels are a vector
};

struct LevelTraits {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kChannels = 128;                             // of a slice: four of each lane
  static constexpr int kPerWarp = 6, kOutputs = kWarps * kPerWarp;  // of a block
};

// One block makes 48 outputs of one cell. For each slice of channels the warps share the rows of the cell's window;
// then each warp makes its outputs, whose lanes go along the channels and in the end add up by shuffles.
template <class T>
__global__ void __launch_bounds__(LevelTraits::kThreads) level_kernel(const float* strips, PyramidGrids grids,
                                                                      int channels, int height, int width, int outputs,
                                                                      AffineRelu affine_relu, LevelWeight<T> weight,
                                                                      float* levels) {
  using Traits = LevelTraits;
  __align__(16) __shared__ float parts[Traits::kWarps][Traits::kChannels];  // of the window's sums, one of each warp
  __align__(16) __shared__ float inputs[Traits::kChannels];

  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int groups = static_cast<int>(ceil_div(outputs, Traits::kOutputs));
  const int cell_of_batch = blockIdx.x / groups, n = cell_of_batch / grids.cells, cell = cell_of_batch % grids.cells;
  const int d0 = blockIdx.x % groups * Traits::kOutputs + warp;  // the warp's first output; the next is kWarps further
  const int index = grids.level_of_cell(cell);
  const PyramidLevel level = grids.level(index);
  const int row = (cell - level.first_cell) / level.columns, column = (cell - level.first_cell) % level.columns;
  const Window rows = pooling_window(row, level.rows, height), across = pooling_window(column, level.columns, width);
  const float pixels = static_cast<float>(rows.end - rows.begin) * static_cast<float>(across.end - across.begin);
  const int64_t pitch = strip_pitch(channels), row_pitch = grids.columns * pitch;
  const float* const window =
      strips + (static_cast<int64_t>(n) * height + rows.begin) * row_pitch + (level.first_column + column) * pitch;

  float sums[Traits::kPerWarp];
#pragma unroll
  for (int i = 0; i < Traits::kPerWarp; i++) sums[i] = 0.f;
  for (int first = 0; first < channels; first += Traits::kChannels) {
    const int c = first + 4 * lane;
    Vector4<T> weights[Traits::kPerWarp];
#pragma unroll
    for (int i = 0; i < Traits::kPerWarp; i++) {
      const int d = min(d0 + i * Traits::kWarps, outputs - 1);
      weights[i] = load_four(weight.data + index * weight.stride_l + d * weight.stride_d + c * weight.stride_c,
                             weight.whole, weight.stride_c, channels - c);
    }
    const int own = min(first + thread % Traits::kChannels, channels - 1);  // the channel that the thread activates
    const int64_t parameter = static_cast<int64_t>(index) * channels + own;
    const float scale = affine_relu.scale[parameter], shift = affine_relu.shift[parameter];
    float part[4] = {0.f, 0.f, 0.f, 0.f};
    if (c < channels)
#pragma unroll 4
      for (int r = warp; r < rows.end - rows.begin; r += Traits::kWarps) {
        const Vector4<float> strip = load4(window + r * row_pitch + c);
#pragma unroll
        for (int j = 0; j < 4; j++) part[j] += strip.v[j];
      }
    store4(&parts[warp][4 * lane], part);
    __syncthreads();
    if (thread < Traits::kChannels) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < Traits::kWarps; w++) sum += parts[w][thread];
      inputs[thread] = first + thread < channels ? relu(fmaf(sum / pixels, scale, shift)) : 0.f;
    }
    __syncthreads();
    const float4 v = *reinterpret_cast<const float4*>(inputs + 4 * lane);
#pragma unroll
    for (int i = 0; i < Traits::kPerWarp; i++) {
      sums[i] = fmaf(v.x, to_float(weights[i].v[0]), sums[i]);
      sums[i] = fmaf(v.y, to_float(weights[i].v[1]), sums[i]);
      sums[i] = fmaf(v.z, to_float(weights[i].v[2]), sums[i]);
      sums[i] = fmaf(v.w, to_float(weights[i].v[3]), sums[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < Traits::kPerWarp; i++) {
    for (int distance = 16; distance > 0; distance /= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], distance);
    const int d = d0 + i * Traits::kWarps;
    if (lane == 0 && d < outputs) levels[static_cast<int64_t>(cell_of_batch) * outputs + d] = sums[i];
  }
}

}  // namespace swiftnet
