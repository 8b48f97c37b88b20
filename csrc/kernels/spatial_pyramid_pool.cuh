// Spatial pyramid pooling in three launches; neither the pooled map nor the concatenation of the levels is written.
//
//   pool   strips[n][h][column][c] = Σ of row h of x over the columns of a cell, for each column of each grid
//   level  levels[n][cell][d]      = Σ_c level_weight[l,d,c] · relu(affine_l(mean[c])), of the mean of a cell's strips
//   fuse   the 1×1 over x and the resized levels: spatial_pyramid_pool_fuse.cuh
//
// By strips one read of x makes all cells, whether their windows nest or overlap, in blocks for each of its rows, and
// no thread adds up a whole cell. Grids of 16, 8, 4 and 2 columns make 30 strips of a row of 64 pixels. Strips and
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

// Channels of a strip in memory: whole vectors. What fills the last one up is never used.
__host__ __device__ constexpr int64_t strip_pitch(int64_t channels) { return ceil_div(channels, 4) * 4; }

// Four neighbours on their way from memory: as one vector, which stays packed until an element is used, because
// unpacking it waits for it.
template <class T, bool kWhole>
struct Four {
  using Bits = typename std::conditional<sizeof(T) == sizeof(float), float4, float2>::type;
  Bits bits;

  __device__ void load(const T* p, int64_t, int) { bits = __ldg(reinterpret_cast<const Bits*>(p)); }
  __device__ float operator[](int i) const {
    Vector4<T> four;
    memcpy(&four, &bits, sizeof four);
    return to_float(four.v[i]);
  }
};

// Or one by one, where no vector may be loaded; those after the `last` are the last again.
template <class T>
struct Four<T, false> {
  T v[4];

  __device__ void load(const T* p, int64_t stride, int last) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = __ldg(p + min(i, last) * stride);
  }
  __device__ float operator[](int i) const { return to_float(v[i]); }
};

struct PoolTraits {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kChannels = 32, kColumns = 64;  // of the tile that passes through shared memory
  static constexpr int kSlots = kChannels * kColumns / 4 / kThreads;
  static constexpr int kPitch = kChannels + 1;  // + 1: four pixels of a channel are written with few bank conflicts
};

// One block makes the strips of 32 channels of one row: the row passes through a tile of 64 columns, and each warp adds
// up the columns of its strips, a lane one channel. Where the tile leaves the row, or the channels, the last ones are
// read again: no window has them, and no strip.
template <class T, Access kAccess>
__global__ void __launch_bounds__(PoolTraits::kThreads) pool_kernel(Map<const T> x, PyramidGrids grids, float* strips) {
  using Traits = PoolTraits;
  constexpr bool kAcross = kAccess == Access::kChannels;  // four channels are a vector
  __shared__ float tile[Traits::kColumns][Traits::kPitch];
  __shared__ Window windows[PyramidGrids::kMaxCells];  // of each column of the grids

  const int groups = static_cast<int>(ceil_div(x.channels, Traits::kChannels));
  const int row = blockIdx.x / groups, channel = blockIdx.x % groups * Traits::kChannels;  // a row of the batch
  const int n = row / x.height, h = row % x.height, lane = threadIdx.x % 32;
  const int64_t pitch = strip_pitch(x.channels);
  float* const to = strips + static_cast<int64_t>(row) * grids.columns * pitch + channel + lane;

  for (int column = 0; column < x.width; column += Traits::kColumns) {
    Four<T, kAccess != Access::kAny> values[Traits::kSlots];
    const auto c_of = [](int i) { return kAcross ? i % (Traits::kChannels / 4) * 4 : i / (Traits::kColumns / 4); };
    const auto s_of = [](int i) { return kAcross ? i / (Traits::kChannels / 4) : i % (Traits::kColumns / 4) * 4; };
#pragma unroll
    for (int slot = 0; slot < Traits::kSlots; slot++) {
      const int i = threadIdx.x + slot * Traits::kThreads;
      const int c = min(channel + c_of(i), x.channels - (kAcross ? 4 : 1));
      const int w = min(column + s_of(i), x.width - (kAccess == Access::kRows ? 4 : 1));
      values[slot].load(&x.at(n, c, h, w), x.stride_w, x.width - 1 - w);
    }
    if (column == 0)  // while the first loads are on their way
      for (int i = threadIdx.x; i < grids.columns; i += Traits::kThreads) {
        const PyramidLevel level = grids.level(grids.level_of_column(i));
        windows[i] = pooling_window(i - level.first_column, level.columns, x.width);
      }
#pragma unroll
    for (int slot = 0; slot < Traits::kSlots; slot++) {
      const int i = threadIdx.x + slot * Traits::kThreads;
#pragma unroll
      for (int j = 0; j < 4; j++) tile[s_of(i) + (kAcross ? 0 : j)][c_of(i) + (kAcross ? j : 0)] = values[slot][j];
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
};

struct LevelTraits {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  static constexpr int kChannels = 128;                             // of a slice: four of each lane
  static constexpr int kPerWarp = 6, kOutputs = kWarps * kPerWarp;  // of a block
  // Three blocks a multiprocessor, at most 80 registers, but where each weight has an address of its own.
  static constexpr int min_blocks(bool whole) { return whole ? 3 : 2; }
};

// One block makes 48 outputs of one cell, for each slice of channels in three steps: each warp adds up its share of the
// window's rows, a thread adds the warps' parts of its channel and activates their mean, and each warp multiplies it by
// its outputs' weights, with the lanes along the channels. In the end the lanes add up by shuffles. Where kWhole four
// channels of the weights are a vector.
template <class T, bool kWhole>
__global__ void __launch_bounds__(LevelTraits::kThreads, LevelTraits::min_blocks(kWhole)) level_kernel(
    const float* strips, PyramidGrids grids, int channels, int height, int width, int outputs, AffineRelu affine_relu,
    LevelWeight<T> weight, float* levels) {
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
    const int own = min(first + thread % Traits::kChannels, channels - 1);  // the channel that the thread activates
    const int64_t parameter = static_cast<int64_t>(index) * channels + own;
    const float scale = affine_relu.scale[parameter], shift = affine_relu.shift[parameter];
    float part[4] = {0.f, 0.f, 0.f, 0.f};
    const float* strip = window + warp * row_pitch + c;
    if (c < channels)
#pragma unroll 4
      for (int r = rows.begin + warp; r < rows.end; r += Traits::kWarps, strip += Traits::kWarps * row_pitch) {
        const Vector4<float> of_row = load4(strip);
#pragma unroll
        for (int j = 0; j < 4; j++) part[j] += of_row.v[j];
      }
    const int from = min(c, channels - (kWhole ? 4 : 1));
    Four<T, kWhole> weights[Traits::kPerWarp];
#pragma unroll
    for (int i = 0; i < Traits::kPerWarp; i++) {
      const int d = min(d0 + i * Traits::kWarps, outputs - 1);
      const T* const p = weight.data + index * weight.stride_l + d * weight.stride_d + from * weight.stride_c;
      weights[i].load(p, weight.stride_c, channels - 1 - from);
    }
    store4(&parts[warp][4 * lane], part);
    __syncthreads();
    if (thread < Traits::kChannels) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < Traits::kWarps; w++) sum += parts[w][thread];
      inputs[thread] = relu(fmaf(sum / pixels, scale, shift));
    }
    __syncthreads();
    const Vector4<float> four = *reinterpret_cast<const Vector4<float>*>(inputs + 4 * lane);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (c + j >= channels) break;
#pragma unroll
      for (int i = 0; i < Traits::kPerWarp; i++) sums[i] = fmaf(four.v[j], weights[i][j], sums[i]);
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
