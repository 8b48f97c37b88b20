// In turns, each over all threads: the sums of every row of x over the columns of each grid's windows (the one read of
// x); each window's mean, through its level's affine, ReLU and 1×1; then, a tile of pixels at a time, x and the resized
// levels side by side through the fusing affine and ReLU, times the weight.
#include "cpu/kernels/channels.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/resize.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int kTile = 24;  // pixels, divisible by all pixels_at_once

struct Extent {
  int64_t begin, end;
};

// PyTorch's adaptive pooling: window i of `cells` over `size` pixels.
SWIFTNET_INLINE Extent window_of(int64_t i, int64_t size, int64_t cells) {
  return {i * size / cells, ((i + 1) * size + cells - 1) / cells};
}

// Where things are in the workspace, in floats. A channel dimension is padded to whole vectors.
struct Layout {
  int64_t channels, level_channels, inputs, outputs;  // padded: C, D, C + L·D, K
  int64_t columns, cells;                             // of all grids
  int64_t strips, pooled, levels, weight, bias, scale, shift, scratch, scratch_of_thread, floats;
};

Layout layout_of(const SpatialPyramidPool& call) {
  Layout l{};
  const int64_t inputs = call.x.c + call.levels * call.level_channels;
  l.channels = round_up(call.x.c, kLanes), l.level_channels = round_up(call.level_channels, kLanes);
  // a level is written in whole vectors, beyond its end
  l.inputs = round_up(inputs, kLanes) + kLanes, l.outputs = round_up(call.out.c, kLanes);
  for (int i = 0; i < call.levels; i++) {
    l.columns += call.grids[i].columns;
    l.cells += call.grids[i].rows * call.grids[i].columns;
  }
  const auto take = [&](int64_t floats) {
    const int64_t begin = l.floats;
    l.floats += round_up(floats, 16);
    return begin;
  };
  l.strips = take(call.x.n * call.x.h * l.columns * l.channels);
  l.pooled = take(call.x.n * l.cells * l.channels);
  l.levels = take(call.x.n * l.cells * l.level_channels);
  l.weight = take(inputs * l.outputs);
  l.bias = take(l.outputs);
  l.scale = take(l.inputs);
  l.shift = take(l.inputs);
  l.scratch_of_thread = kTile * l.inputs;
  l.scratch = take(call.threads * l.scratch_of_thread);
  return l;
}

// The sums of row h of image n over the columns of every grid's windows.
template <typename T>
void sum_strips(const SpatialPyramidPool& call, const Layout& l, int64_t row, float* strips) {
  const Map& x = call.x;
  const T* pixels = static_cast<const T*>(x.data) + row * x.w * x.c;
  strips += row * l.columns * l.channels;
  for (int level = 0; level < call.levels; level++) {
    const int64_t columns = call.grids[level].columns;
    for (int64_t i = 0; i < columns; i++, strips += l.channels) {
      const Extent window = window_of(i, x.w, columns);
      for_channels(x.c, [&](int64_t c, auto part) __attribute__((always_inline)) {
        Floats sum = Floats{};
        for (int64_t w = window.begin; w < window.end; w++) sum += load(pixels + w * x.c + c, part);
        store(strips + c, sum);
      });
    }
  }
}

SWIFTNET_INLINE float sum_of(Floats values) {
  float sum = 0.f;
  for (int i = 0; i < kLanes; i++) sum += values[i];
  return sum;
}

// One window's mean through its level's affine, ReLU and 1×1.
void make_cell(const SpatialPyramidPool& call, const Layout& l, int64_t n, int64_t cell, float* memory) {
  int level = 0;
  int64_t i = cell, columns_before = 0;
  for (; i >= call.grids[level].rows * call.grids[level].columns; level++) {
    i -= call.grids[level].rows * call.grids[level].columns;
    columns_before += call.grids[level].columns;
  }
  const int64_t columns = call.grids[level].columns, channels = call.x.c;
  const Extent rows = window_of(i / columns, call.x.h, call.grids[level].rows);
  const Extent width = window_of(i % columns, call.x.w, columns);
  const float area = static_cast<float>((rows.end - rows.begin) * (width.end - width.begin));
  const float* strip = memory + l.strips + (n * call.x.h * l.columns + columns_before + i % columns) * l.channels;
  float* pooled = memory + l.pooled + (n * l.cells + cell) * l.channels;
  const float* scale = call.level_scale ? call.level_scale + level * channels : nullptr;
  const float* shift = call.level_shift ? call.level_shift + level * channels : nullptr;
  for_channels(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Floats sum = Floats{};
    for (int64_t h = rows.begin; h < rows.end; h++) sum += load(strip + h * l.columns * l.channels + c);
    Floats y = sum / area;
    if (scale) y *= load(scale + c, part);
    if (shift) y += load(shift + c, part);
    store(pooled + c, relu(y), part);
  });
  float* outputs = memory + l.levels + (n * l.cells + cell) * l.level_channels;
  const float* weight = call.level_weight + level * call.level_channels * channels;
  for (int64_t d = 0; d < l.level_channels; d++, weight += channels) {
    outputs[d] = 0.f;
    if (d >= call.level_channels) continue;
    Floats sum = Floats{};
    for_channels(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      sum += load(pooled + c, part) * load(weight + c, part);
    });
    outputs[d] = sum_of(sum);
  }
}

// The fusing weight packed, and what comes with it, padded.
void pack(const SpatialPyramidPool& call, const Layout& l, float* memory) {
  const int64_t inputs = call.x.c + call.levels * call.level_channels;
  pack_blocks<float, 1>(
      call.out.c, inputs, [&](int64_t k, int64_t i) { return call.fuse_weight[k * inputs + i]; }, memory + l.weight);
  for (int64_t k = 0; k < l.outputs; k++)
    memory[l.bias + k] = k < call.out.c && call.fuse_bias ? call.fuse_bias[k] : 0.f;
  for (int64_t i = 0; i < l.inputs; i++) {
    memory[l.scale + i] = i < inputs && call.fuse_scale ? call.fuse_scale[i] : 1.f;
    memory[l.shift + i] = i < inputs && call.fuse_shift ? call.fuse_shift[i] : 0.f;
  }
}

// What the fusing 1×1 reads of one pixel.
template <typename T>
void concatenate(const SpatialPyramidPool& call, const Layout& l, int64_t pixel, const float* memory, float* to) {
  const Map& x = call.x;
  const float *scale = memory + l.scale, *shift = memory + l.shift;
  const auto put = [&](int64_t i, Floats y)
                       __attribute__((always_inline)) { store(to + i, relu(load(scale + i) * y + load(shift + i))); };
  const T* from = static_cast<const T*>(x.data) + pixel * x.c;
  for_channels(x.c, [&](int64_t c, auto part) __attribute__((always_inline)) { put(c, load(from + c, part)); });
  const int64_t w = pixel % x.w, h = pixel / x.w % x.h, n = pixel / x.w / x.h;
  const float* cells = memory + l.levels + n * l.cells * l.level_channels;
  int64_t at = x.c;
  for (int level = 0; level < call.levels; level++, at += call.level_channels) {
    const Grid grid = call.grids[level];
    const bool one = call.nearest || (grid.rows == x.h && grid.columns == x.w);  // of the four cells counts
    const ResizeTap v = ResizeAxis(grid.rows, x.h, call.nearest).tap(h);
    const ResizeTap u = ResizeAxis(grid.columns, x.w, call.nearest).tap(w);
    const float *upper = cells + v.lower * grid.columns * l.level_channels,
                *lower = cells + v.upper * grid.columns * l.level_channels;
    const int64_t left = u.lower * l.level_channels, right = u.upper * l.level_channels;
    for (int64_t c = 0; c < l.level_channels; c += kLanes) {
      Floats y = load(upper + left + c);
      if (!one)
        y = interpolate(interpolate(y, load(upper + right + c), u.weight),
                        interpolate(load(lower + left + c), load(lower + right + c), u.weight), v.weight);
      put(at + c, y);
    }
    cells += grid.rows * grid.columns * l.level_channels;
  }
}

// N vectors of outputs from `first` on, of `count` pixels from `pixel` on, whose inputs are in `scratch`.
template <int N, typename T>
void multiply_tile(const SpatialPyramidPool& call, const Layout& l, const float* scratch, int64_t pixel, int64_t count,
                   int64_t first, const float* weight, const float* bias) {
  constexpr int M = pixels_at_once(N);
  const int64_t inputs = call.x.c + call.levels * call.level_channels, left = call.out.c - first;
  for (int64_t p = 0; p < count; p += M) {
    const float* pixels[M];
    for (int m = 0; m < M; m++) pixels[m] = scratch + (p + m < count ? p + m : p) * l.inputs;
    float sums[M * N * kLanes];
    multiply_to<M, N>(pixels, weight, inputs, bias, sums);
    for (int64_t m = 0; m < M && p + m < count; m++) {
      T* to = static_cast<T*>(call.out.data) + (pixel + p + m) * call.out.c + first;
      for_channels(left < N * kLanes ? left : N * kLanes, [&](int64_t c, auto part) __attribute__((always_inline)) {
        store(to + c, load(sums + m * N * kLanes + c), part);
      });
    }
  }
}

template <typename T>
void fuse(const SpatialPyramidPool& call, const Layout& l, int64_t begin, int64_t end, const float* memory,
          float* scratch) {
  const int64_t inputs = call.x.c + call.levels * call.level_channels;
  for (int64_t pixel = begin; pixel < end; pixel += kTile) {
    const int64_t count = end - pixel < kTile ? end - pixel : kTile;
    for (int64_t p = 0; p < count; p++) concatenate<T>(call, l, pixel + p, memory, scratch + p * l.inputs);
    const float* weight = memory + l.weight;
    for (int64_t first = 0, vectors; first < call.out.c; first += vectors * kLanes) {
      vectors = next_block(call.out.c - first);
      const float* bias = memory + l.bias + first;
      for_vectors(static_cast<int>(vectors), [&](auto n) {
        multiply_tile<decltype(n)::value, T>(call, l, scratch, pixel, count, first, weight, bias);
      });
      weight += inputs * vectors * kLanes;
    }
  }
}

template <typename T>
void run(const SpatialPyramidPool& call) {
  const Layout l = layout_of(call);
  float* memory = static_cast<float*>(call.workspace);
  const int64_t rows = call.x.n * call.x.h, pixels = rows * call.x.w;
  parallel_for(call.threads, rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) sum_strips<T>(call, l, i, memory + l.strips);
  });
  pack(call, l, memory);
  parallel_for(call.threads, call.x.n * l.cells, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) make_cell(call, l, i / l.cells, i % l.cells, memory);
  });
  parallel_parts(call.threads, pixels, [&](int64_t part, int64_t begin, int64_t end) {
    fuse<T>(call, l, begin, end, memory, memory + l.scratch + part * l.scratch_of_thread);
  });
}

}  // namespace

int64_t spatial_pyramid_pool_workspace(const SpatialPyramidPool& call) {
  return layout_of(call).floats * static_cast<int64_t>(sizeof(float));
}

void spatial_pyramid_pool(const SpatialPyramidPool& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
