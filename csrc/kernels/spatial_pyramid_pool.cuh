// Spatial pyramid pooling in three launches; the concatenation of the levels is never written.
//
//   pool   cells[n][cell][c]   = mean of x[n, c, window(cell)]                     fp32 workspace, x is read once
//   level  levels[n][cell][d]  = Σ_c level_weight[l,d,c] · relu(affine_l(cells[n][cell][c]))    fp32 workspace
//   fuse   out = fuse_bias + Σ_c fuse_weight[k,c] · relu(affine(source_c)),
//          source_c = x[c] for c < C, else channel (c - C) % D of level (c - C) / D resized to x's size
//
// The cells of all levels are numbered one after the other, row by row. A cell's window is PyTorch's: along H, cell i
// of a grid of g rows covers [floor(i·H/g), ceil((i+1)·H/g)), so windows overlap where g does not divide H.
#pragma once
#include "common/conv1x1.cuh"
#include "common/resize.cuh"

namespace swiftnet {

struct PoolTraits {
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;                            // a multiprocessor's; see Conv1x1Traits
  static constexpr int kChannels = 8, kRows = 16, kColumns = 16;  // of the tile that passes through shared memory
  static constexpr int kMaxCells = 1024;                          // their sums stay in shared memory
  static_assert((kMaxCells + kRows * kColumns) * kChannels * sizeof(float) <= 48 * 1024, "shared memory");
};

struct PyramidGrids {
  static constexpr int kMaxLevels = 8;
  int levels, cells;
  int rows[kMaxLevels], columns[kMaxLevels];
  int first[kMaxLevels];  // the number of each level's first cell

  __device__ int level_of(int cell) const {
    int level = 0;
#pragma unroll
    for (int l = 1; l < kMaxLevels; l++) level += l < levels && cell >= first[l];
    return level;
  }
};

struct Window {
  int begin, end;
};

__device__ inline Window pooling_window(int cell, int cells, int size) {
  const int64_t begin = static_cast<int64_t>(cell) * size / cells;
  const int64_t end = (static_cast<int64_t>(cell + 1) * size + cells - 1) / cells;
  return {static_cast<int>(begin), static_cast<int>(end)};
}

struct CellWindow {
  Window rows, columns;

  __device__ CellWindow(const PyramidGrids& grids, int cell, int height, int width) {
    // the level's grid by an unrolled choice: indexing by `level` would put the grids into local memory
    int grid_rows = grids.rows[0], grid_columns = grids.columns[0], first = 0;
#pragma unroll
    for (int l = 1; l < PyramidGrids::kMaxLevels; l++)
      if (l < grids.levels && cell >= grids.first[l]) {
        grid_rows = grids.rows[l];
        grid_columns = grids.columns[l];
        first = grids.first[l];
      }
    rows = pooling_window((cell - first) / grid_columns, grid_rows, height);
    columns = pooling_window((cell - first) % grid_columns, grid_columns, width);
  }
};

// One block pools 8 channels of one image to all cells: the map passes through a 16×16 tile, and each thread adds to
// its cells' sums what lies in the tile.
template <class T, bool kChannelsInner>
__global__ void __launch_bounds__(PoolTraits::kThreads, PoolTraits::kMinBlocks) pool_kernel(Map<const T> x,
                                                                                            PyramidGrids grids,
                                                                                            float* cells) {
  using Traits = PoolTraits;
  __shared__ float pixels[Traits::kRows][Traits::kColumns][Traits::kChannels];
  SWIFTNET_DYNAMIC_SHARED(float, sums);  // [cells][kChannels]

  const int groups = static_cast<int>(ceil_div(x.channels, Traits::kChannels));
  const int n = blockIdx.x / groups, channel = blockIdx.x % groups * Traits::kChannels;
  const int items = grids.cells * Traits::kChannels;
  // a thread owns its sums: no barrier is needed around them
  for (int item = threadIdx.x; item < items; item += Traits::kThreads) sums[item] = 0.f;

  for (int row = 0; row < x.height; row += Traits::kRows)
    for (int column = 0; column < x.width; column += Traits::kColumns) {
      constexpr int kPixels = Traits::kRows * Traits::kColumns;
      for (int i = threadIdx.x; i < kPixels * Traits::kChannels; i += Traits::kThreads) {
        const int c = kChannelsInner ? i % Traits::kChannels : i / kPixels;
        const int pixel = kChannelsInner ? i / Traits::kChannels : i % kPixels;
        const int r = pixel / Traits::kColumns, s = pixel % Traits::kColumns;
        const bool inside = channel + c < x.channels && row + r < x.height && column + s < x.width;
        pixels[r][s][c] = inside ? x.load(n, channel + c, row + r, column + s) : 0.f;
      }
      __syncthreads();
      for (int item = threadIdx.x; item < items; item += Traits::kThreads) {
        const int c = item % Traits::kChannels, cell = item / Traits::kChannels;
        const CellWindow window(grids, cell, x.height, x.width);
        const Window v = window.rows, u = window.columns;
        float sum = 0.f;
        for (int r = max(v.begin - row, 0); r < min(v.end - row, Traits::kRows); r++)
          for (int s = max(u.begin - column, 0); s < min(u.end - column, Traits::kColumns); s++) sum += pixels[r][s][c];
        sums[item] += sum;
      }
      __syncthreads();  // the next tile overwrites what others may still read
    }

  for (int item = threadIdx.x; item < items; item += Traits::kThreads) {
    const int c = item % Traits::kChannels, cell = item / Traits::kChannels;
    if (channel + c >= x.channels) continue;
    const CellWindow window(grids, cell, x.height, x.width);
    const Window v = window.rows, u = window.columns;
    const float count = static_cast<float>(v.end - v.begin) * static_cast<float>(u.end - u.begin);
    cells[(static_cast<int64_t>(n) * grids.cells + cell) * x.channels + channel + c] = sums[item] / count;
  }
}

struct LevelTraits {
  static constexpr int kWarps = 8, kThreads = 32 * kWarps;
};

// One warp makes one output: its lanes go along the input channels and add up by shuffles.
template <class T>
__global__ void __launch_bounds__(LevelTraits::kThreads) level_kernel(const float* cells, PyramidGrids grids,
                                                                      int channels, int outputs, AffineRelu affine_relu,
                                                                      const T* weight, int64_t stride_l,
                                                                      int64_t stride_d, int64_t stride_c, float* levels,
                                                                      int64_t count) {
  const int lane = threadIdx.x % 32;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * LevelTraits::kWarps + threadIdx.x / 32;
  if (item >= count) return;  // whole warps, so the shuffles below have all lanes
  const int d = static_cast<int>(item % outputs);
  const int64_t cell_of_batch = item / outputs;
  const int level = grids.level_of(static_cast<int>(cell_of_batch % grids.cells));
  float sum = 0.f;
  for (int c = lane; c < channels; c += 32) {
    const float v = affine_relu(cells[cell_of_batch * channels + c], static_cast<int64_t>(level) * channels + c);
    sum = fmaf(v, to_float(weight[level * stride_l + d * stride_d + c * stride_c]), sum);
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (lane == 0) levels[item] = sum;
}

// The activated concatenation, as the source of the fusing 1×1.
template <class T, Resize kMode>
struct PyramidSource {
  Map<const T> x;
  const float* levels;
  PyramidGrids grids;
  int outputs;  // channels of one level
  AffineRelu affine_relu;

  __device__ float operator()(int n, int c, int h, int w) const {
    if (c < x.channels) return affine_relu(x.load(n, c, h, w), c);
    const int level = (c - x.channels) / outputs, d = (c - x.channels) % outputs;
    const int rows = grids.rows[level], columns = grids.columns[level];
    const float* const map = levels + (static_cast<int64_t>(n) * grids.cells + grids.first[level]) * outputs + d;
    const int64_t stride = outputs;
    const auto value = [=](int r, int s) { return map[(r * columns + s) * stride]; };
    return affine_relu(resize_at<kMode>(value, rows, columns, h, w, x.height, x.width), c);
  }
};

struct BiasEpilogue {
  Parameter bias;
  __device__ float operator()(float sum, int, int k, int, int) const { return sum + bias[k]; }
};

}  // namespace swiftnet
