// lateral_add for maps of many pixels, with fp32 arithmetic, register-blocked:
//
//   y = epilogue( Σ_c weight[k,c] · relu(scale[c]·tap[n,c,h,w] + shift[c]) )
//
// One block of 256 threads makes 4×32 pixels of 128 outputs; a thread 4 pixels × 4 outputs of each quadrant, its 64
// sums in registers, for which it reads 4 vectors of shared memory a channel. Input channels pass through shared memory
// in slices of 8, double-buffered: while one slice is multiplied the next is on its way from global memory to
// registers.
//
//             left    right half of 4×32 pixels
//           ┌───────┬───────┐
//           │ 64×64 │       │ 64 outputs
//           ├───────┼───────┤              inputs [8 channels][128 pixels]   weights [8 channels][128 outputs]
//           │       │       │ 64 outputs
//           └───────┴───────┘
//
// In the end quadrants pass through shared memory one after the other, so that neighbouring threads finish and store
// neighbours in memory, and few registers hold what resizing x takes.
//
// Sums are those of conv1x1_kernel bit by bit: one fused multiply-add for each channel, in their order.
#pragma once
#include "common/access.cuh"
#include "lateral_add.cuh"

namespace swiftnet {

struct WideTraits {
  static constexpr int kRows = 4, kColumns = 32, kPixels = kRows * kColumns, kOutputs = 128;  // of a block
  static constexpr int kChannels = 8, kMaxChannels = 1024;                                    // of a slice; in all
  static constexpr int kHalf = 64, kHalfColumns = 16;  // pixels or outputs of a quadrant; its columns
  static constexpr int kThreads = 256, kMinBlocks = 2;
  static constexpr int kPitch = kPixels + 4;         // + 4: a column of four channels is written without bank conflicts
  static constexpr int kSlice = kChannels * kPitch;  // of inputs, or of weights
  static constexpr int kQuadrantPitch = kHalf + 4;   // likewise
  static constexpr int kQuadrant = kHalf * kQuadrantPitch;
  static constexpr int kShared = kQuadrant > 4 * kSlice ? kQuadrant : 4 * kSlice;  // floats
  static_assert(kPixels == kOutputs && kPixels == 2 * kHalf, "inputs and weights have one pitch");
  static_assert(kThreads * 4 == kChannels * kPixels, "a thread brings four values of each slice");
  static_assert(kThreads == (kHalf / 4) * kHalfColumns, "a thread finishes four outputs of a column of a quadrant");

  // Of a pixel in the order of shared memory.
  __device__ static int row(int pixel) { return pixel % kHalf / kHalfColumns; }
  __device__ static int column(int pixel) { return pixel / kHalf * kHalfColumns + pixel % kHalfColumns; }
};

// A thread's share of one slice of inputs, from global memory to registers, and later to shared memory: with kRows four
// pixels of a channel, with kChannels four channels of a pixel. Where the tile leaves the image, its edge is read
// again: sums of no pixel are not stored.
template <class T, Access kAccess>
struct InputSlice {
  using Traits = WideTraits;
  const T* next;  // in the slice to load

  __device__ static int pixel() { return kAccess == Access::kChannels ? threadIdx.x / 2 : threadIdx.x % 32 * 4; }
  __device__ static int channel() { return kAccess == Access::kChannels ? threadIdx.x % 2 * 4 : threadIdx.x / 32; }

  __device__ InputSlice(const Map<const T>& tap, const Tile& tile) {
    const int h = tile.row + Traits::row(pixel()), w = tile.column + Traits::column(pixel());
    next =
        &tap.at(tile.n, channel(), min(h, tap.height - 1), min(w, tap.width - (kAccess == Access::kChannels ? 1 : 4)));
  }

  __device__ Vector4<T> load(int64_t stride_c) {
    const Vector4<T> values = load4(next);
    next += Traits::kChannels * stride_c;
    return values;
  }

  // With scale and shift, (x, y), of the slice's channels.
  __device__ static void store(const Vector4<T>& values, float* inputs, const float2* affine) {
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int c = channel() + (kAccess == Access::kChannels ? i : 0);
      v[i] = relu(fmaf(to_float(values.v[i]), affine[c].x, affine[c].y));
    }
    float* const to = inputs + channel() * Traits::kPitch + pixel();
    if (kAccess == Access::kRows)
      *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
    else
#pragma unroll
      for (int i = 0; i < 4; i++) to[i * Traits::kPitch] = v[i];
  }
};

// The slice of weights, likewise: four channels of an output.
template <class T>
struct MatrixSlice {
  using Traits = WideTraits;
  const T* data;
  int next;  // offset in the slice to load

  __device__ static int output() { return threadIdx.x / 2; }
  __device__ static int channel() { return threadIdx.x % 2 * 4; }

  __device__ MatrixSlice(const MatrixWeight<T>& weight, int k0, int outputs) : data(weight.data) {
    next = min(k0 + output(), outputs - 1) * static_cast<int>(weight.stride_k) + channel();
  }

  __device__ Vector4<T> load() {
    const Vector4<T> values = load4(data + next);
    next += Traits::kChannels;
    return values;
  }

  __device__ static void store(const Vector4<T>& values, float* weights) {
#pragma unroll
    for (int i = 0; i < 4; i++) weights[(channel() + i) * Traits::kPitch + output()] = to_float(values.v[i]);
  }
};

// Four outputs of a pixel, of which `count` exist.
template <class T, Access kAccess>
struct FourOutputs {
  __device__ static void load(const T* p, int64_t stride_c, int count, float (&v)[4]) {
    if (kAccess == Access::kChannels) {
      const Vector4<T> four = load4(p);
#pragma unroll
      for (int j = 0; j < 4; j++) v[j] = to_float(four.v[j]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) v[j] = j < count ? to_float(__ldg(p + j * stride_c)) : 0.f;
    }
  }
  __device__ static void store(T* p, int64_t stride_c, int count, const float (&v)[4]) {
    if (kAccess == Access::kChannels)
      store4(p, v);
    else
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (j < count) p[j * stride_c] = from_float<T>(v[j]);
  }
};

// Four outputs of x, resized, at a column of the tile: going down the tile, a row of x is read and interpolated once
// for all rows of the tile that need it.
template <class T, Access kAccess, Resize kMode>
struct ResizedColumn {
  const Map<const T>& x;
  const T *left, *right;  // in row 0
  const int count;        // outputs that exist
  const bool single;      // each value is one of x: nearest, or a map of the same size
  const float weight;
  int above_row = -1, below_row = -1;
  float above[4], below[4];

  __device__ ResizedColumn(const LateralEpilogue<T, kMode>& epilogue, int n, int k, int count, const ResizeTap& column)
      : x(epilogue.x), count(count), single(epilogue.single()), weight(column.weight) {
    left = x.data == nullptr ? nullptr : &x.at(n, k, 0, column.lower);
    right = x.data == nullptr ? nullptr : &x.at(n, k, 0, column.upper);
  }

  __device__ void read(int row, float (&y)[4]) const {
    FourOutputs<T, kAccess>::load(left + row * x.stride_h, x.stride_c, count, y);
    if (single) return;
    float z[4];
    FourOutputs<T, kAccess>::load(right + row * x.stride_h, x.stride_c, count, z);
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] = interpolate(y[j], z[j], weight);
  }

  // Taps come from the top to the bottom.
  __device__ void at(const ResizeTap& tap, float (&y)[4]) {
    if (tap.lower != above_row) {
      if (!single && tap.lower == below_row)
#pragma unroll
        for (int j = 0; j < 4; j++) above[j] = below[j];
      else
        read(tap.lower, above);
      above_row = tap.lower;
    }
    if (!single && tap.upper != below_row) {
      read(tap.upper, below);
      below_row = tap.upper;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] = single ? above[j] : interpolate(above[j], below[j], tap.weight);
  }
};

struct OutputParameters {
  float bias, scale, shift;
};

// Makes four outputs of a quadrant's column, from (k, h, w) on, of the sums in shared memory from `sums` on.
template <class T, Access kAccess, Resize kMode>
__device__ inline void finish_column(const LateralEpilogue<T, kMode>& epilogue, const Map<T>& out, int n, int k, int h,
                                     int w, const ResizeTap* row_taps, const ResizeTap& column_tap,
                                     const OutputParameters* parameters, const float* sums) {
  using Traits = WideTraits;
  constexpr bool kInner = kAccess == Access::kChannels;
  const int count = min(out.channels - k, 4), rows = min(out.height - h, Traits::kRows);
  ResizedColumn<T, kAccess, kMode> resized(epilogue, n, k, count, column_tap);
  T* to = &out.at(n, k, h, w);
#pragma unroll 1
  for (int row = 0; row < rows; row++) {
    float y[4], up[4];
    if (kInner) {
      const float4 v = *reinterpret_cast<const float4*>(sums);
      y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) y[j] = sums[j * Traits::kQuadrantPitch];
    }
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] += parameters[j].bias;
    if (epilogue.x.data != nullptr) {
      resized.at(row_taps[row], up);
#pragma unroll
      for (int j = 0; j < 4; j++) y[j] += up[j];
    }
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] = epilogue.finish(y[j], parameters[j].scale, parameters[j].shift);
    FourOutputs<T, kAccess>::store(to, out.stride_c, count, y);
    to += out.stride_h;
    sums += Traits::kHalfColumns * (kInner ? Traits::kQuadrantPitch : 1);
  }
}

template <class T, Access kAccess, Resize kMode>
__global__ void __launch_bounds__(WideTraits::kThreads, WideTraits::kMinBlocks) lateral_add_wide_kernel(
    Map<const T> tap, AffineRelu affine_relu, MatrixWeight<T> weight, LateralEpilogue<T, kMode> epilogue, Map<T> out,
    Tiling tiling) {
  using Traits = WideTraits;
  constexpr bool kInner = kAccess == Access::kChannels;
  __align__(16) __shared__ float shared[Traits::kShared];  // two slices of inputs and weights; then a quadrant's sums
  __align__(16) __shared__ float2 affine[Traits::kMaxChannels];
  __shared__ OutputParameters parameters[Traits::kOutputs];
  __shared__ ResizeTap row_taps[Traits::kRows], column_taps[Traits::kColumns];
  __shared__ Tile kept;  // over the loop, which needs all registers

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x;
  InputSlice<T, kAccess> input(tap, tile);
  MatrixSlice<T> matrix(weight, tile.channel, out.channels);
  const Vector4<T> first_pixels = input.load(tap.stride_c), first_row = matrix.load();

  if (thread == 0) kept = tile;
  if (thread < Traits::kRows) row_taps[thread] = resize_tap<kMode>(tile.row + thread, epilogue.x.height, out.height);
  if (thread < Traits::kColumns)
    column_taps[thread] = resize_tap<kMode>(tile.column + thread, epilogue.x.width, out.width);
  if (thread < Traits::kOutputs) {
    const int k = min(tile.channel + thread, out.channels - 1);
    parameters[thread] = {epilogue.bias[k], epilogue.out_scale[k], epilogue.out_shift[k]};
  }
  for (int c = thread; c < tap.channels; c += Traits::kThreads)
    affine[c] = {affine_relu.scale[c], affine_relu.shift[c]};
  __syncthreads();

  // 16 threads, 8 of them in a warp, go along what goes along memory in the end: pixels with kRows, else outputs
  const int along = (thread % 8 + thread / 32 % 2 * 8) * 4, across = (thread / 8 % 4 + thread / 64 * 4) * 4;
  constexpr int kAlong = kInner ? Traits::kSlice : 0, kAcross = Traits::kSlice - kAlong;

  float sums[4][4][4];  // [quadrant][along][across]
#pragma unroll
  for (int q = 0; q < 4; q++)
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) sums[q][i][j] = 0.f;

  input.store(first_pixels, shared, affine);
  matrix.store(first_row, shared + Traits::kSlice);
  __syncthreads();

  int buffer = 0;
  for (int next = Traits::kChannels;; next += Traits::kChannels) {
    const bool more = next < tap.channels;
    Vector4<T> pixels, row;  // of the next slice
    if (more) {
      pixels = input.load(tap.stride_c);
      row = matrix.load();
    }
    const float* const from = shared + buffer + kAlong + along;
    const float* const with = shared + buffer + kAcross + across;
#pragma unroll
    for (int c = 0; c < Traits::kChannels; c++) {
      float v[2][4], u[2][4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float4 a = *reinterpret_cast<const float4*>(from + c * Traits::kPitch + half * Traits::kHalf);
        const float4 b = *reinterpret_cast<const float4*>(with + c * Traits::kPitch + half * Traits::kHalf);
        v[half][0] = a.x, v[half][1] = a.y, v[half][2] = a.z, v[half][3] = a.w;
        u[half][0] = b.x, u[half][1] = b.y, u[half][2] = b.z, u[half][3] = b.w;
      }
#pragma unroll
      for (int q = 0; q < 4; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) sums[q][i][j] = fmaf(v[q / 2][i], u[q % 2][j], sums[q][i][j]);
    }
    if (!more) break;
    buffer ^= 2 * Traits::kSlice;
    input.store(pixels, shared + buffer, affine + next);  // the other buffer's readers have passed the last barrier
    matrix.store(row, shared + buffer + Traits::kSlice);
    __syncthreads();
  }

  const Tile place = kept;
  const int group = (kInner ? thread % 16 : thread / 16) * 4, column = kInner ? thread / 16 : thread % 16;
#pragma unroll
  for (int q = 0; q < 4; q++) {
    __syncthreads();  // others may still read the last slice, or quadrant
#pragma unroll
    for (int j = 0; j < 4; j++)
      *reinterpret_cast<float4*>(shared + (across + j) * Traits::kQuadrantPitch + along) = {
          sums[q][0][j], sums[q][1][j], sums[q][2][j], sums[q][3][j]};
    __syncthreads();
    const int output = group + (kInner ? q / 2 : q % 2) * Traits::kHalf;  // of the tile
    const int w = column + (kInner ? q % 2 : q / 2) * Traits::kHalfColumns;
    if (place.channel + output >= out.channels || place.column + w >= out.width) continue;
    finish_column<T, kAccess>(
        epilogue, out, place.n, place.channel + output, place.row, place.column + w, row_taps, column_taps[w],
        parameters + output,
        shared + (kInner ? column * Traits::kQuadrantPitch + group : group * Traits::kQuadrantPitch + column));
  }
}

}  // namespace swiftnet
