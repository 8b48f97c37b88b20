// The mean of several logit maps' probabilities at one size, or its labels, in one launch.
//
// A block makes a tile of pixels of the result. It first stages the region of each map that the tile's bilinear taps
// touch, as fp32:
//
//   staged [class][pitch]    the maps' regions side by side, [row][column] each
//
// pitch is odd, so that lanes may go along pixels or along classes without bank conflicts,
//
// and the host takes the largest tile whose regions fit. Then, of the pixel (h, w) of each thread,
//
//   softmax_then_resize   p_c = bilinear(softmax(logits)_c): the softmax is taken in place, once a staged pixel
//   resize_then_softmax   p_c = exp(bilinear(logit_c) - z), z = log Σ_c exp(bilinear(logit_c)) of each map
//   resize_only           p_c = bilinear(logit_c): one map's labels need no softmax
//
// Labels are written as they are found: the largest sum over maps wins, ties go to the lower class, and a NaN gives
// 255. A bilinear value lies between its corners, so a warp, which owns a compact patch of pixels, first bounds each
// class over its patch and evaluates only those that can win somewhere in it.
#pragma once
#include <cfloat>

#include "common/resize.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct MeanTraits {
  static constexpr int kMaxMaps = 32;
  static constexpr int kPatchRows = 4, kPatchColumns = 8;  // of a warp, a pixel each lane
  static constexpr int kMaxThreads = 256;
  static constexpr int kMinBlocks = 2;  // a multiprocessor's; see Conv1x1Traits
  static constexpr int kClasses = 8;    // whose sums a thread has in registers
  static constexpr int kSharedBytes = 48 * 1024, kPreferredBytes = 32 * 1024;
  static constexpr uint8_t kNaNLabel = 255;
  static_assert(kPatchRows * kPatchColumns == 32, "a lane for each pixel of a patch");
};

template <class T>
struct LogitMaps {
  int count, pitch;
  Map<const T> maps[MeanTraits::kMaxMaps];
  int first[MeanTraits::kMaxMaps],
      columns[MeanTraits::kMaxMaps];  // of each map's region in `staged`, and its row pitch
  bool channels_inner[MeanTraits::kMaxMaps];
};
static_assert(sizeof(LogitMaps<float>) <= 3072, "kernel parameters end at 4 KiB");

enum class MeanOf { kSoftmaxThenResize, kResizeThenSoftmax, kResizeOnly };

// log Σ exp(v) in one pass. NaN where torch.softmax gives NaN: an infinite largest value, or a NaN.
struct LogSumExp {
  float largest = -INFINITY, sum = 0.f;

  __device__ void add(float v) {
    if (v > largest) {
      sum = sum * expf(largest - v) + 1.f;
      largest = v;
    } else if (v != -INFINITY) {
      sum += expf(v - largest);
    }
  }
  __device__ float value() const { return isinf(largest) ? NAN : largest + logf(sum); }
};

// Along one axis, a map's pixels that are staged for the `count` pixels of the result from `begin` on: all between the
// first and the last tap; or, where the map is at least twice the result's size, each pixel's two taps in turn.
struct StagedAxis {
  int in, out, begin, first, count;
  bool only_taps;

  __device__ StagedAxis(int in, int out, int begin, int pixels)
      : in(in), out(out), begin(begin), only_taps(in / 2 >= out) {
    first = bilinear_tap(begin, in, out).lower;
    count = only_taps ? 2 * pixels : bilinear_tap(begin + pixels - 1, in, out).upper - first + 1;
  }
  // The map's index of the staged pixel i.
  __device__ int source(int i) const {
    if (!only_taps) return first + i;
    const ResizeTap tap = bilinear_tap(begin + i / 2, in, out);
    return i % 2 ? tap.upper : tap.lower;
  }
  // The taps of the result's pixel begin + i among the staged ones, times `pitch`.
  __device__ ResizeTap tap(int i, int pitch) const {
    const ResizeTap tap = bilinear_tap(begin + i, in, out);
    if (only_taps) return {2 * i * pitch, (2 * i + 1) * pitch, tap.weight};
    return {(tap.lower - first) * pitch, (tap.upper - first) * pitch, tap.weight};
  }
};

// How many pixels StagedAxis can have at most, for a tile of so many pixels: s source pixels between the first and the
// last tap's positions touch floor(s) + 3. bilinear_tap rounds each of the two by less than in · 2^-22.
inline int64_t staged_extent(int64_t in, int64_t out, int64_t tile) {
  const int64_t pixels = tile < out ? tile : out;
  if (in == out) return pixels;
  if (in / 2 >= out) return 2 * pixels;
  const double size = static_cast<double>(in);
  const double span = static_cast<double>(pixels - 1) * size / static_cast<double>(out) + size / 2097152;
  const int64_t most = static_cast<int64_t>(span) + 3;
  return most < in ? most : in;
}

// One map's bilinear value at a thread's pixel: resize_at on staged pixels.
struct StagedTaps {
  ResizeTap v, u;
  bool same;

  __device__ float of(const float* staged) const {
    if (same) return staged[v.lower + u.lower];
    const float upper_row = (1.f - u.weight) * staged[v.lower + u.lower] + u.weight * staged[v.lower + u.upper];
    const float lower_row = (1.f - u.weight) * staged[v.upper + u.lower] + u.weight * staged[v.upper + u.upper];
    return (1.f - v.weight) * upper_row + v.weight * lower_row;
  }
};

// Bounds of Σ over maps of bilinear values, as computed, of one class over a patch. With u = 2^-24 and A the sum of the
// maps' largest |corner|, a bilinear value errs by less than 6u·|corner| (twice 1 - w, product, sum), the sum of M of
// them by another (M - 1)u·A, and the sum of the corners' bounds by as much: (2M + 4)u·A in all. Twice that, and more,
// covers this bound's own rounding; FLT_MIN covers products that underflow. A class with a corner that is not finite
// has no bounds.
struct ClassBounds {
  float lower = 0.f, upper = 0.f, magnitude = 0.f;
  bool finite = true;

  __device__ void add(float least, float most) {
    lower += least;
    upper += most;
    magnitude += fmaxf(fabsf(least), fabsf(most));
  }
  __device__ void widen(int maps) {
    const float slack = static_cast<float>(2 * maps + 8) * (2.f / 16777216.f) * magnitude + FLT_MIN;
    lower = finite ? lower - slack : -INFINITY;
    upper = finite ? upper + slack : INFINITY;
  }
};

// Out: Map<T> for the mean, Map<uint8_t> with one channel for the labels.
template <class T, MeanOf kOf, class Out>
__global__ void __launch_bounds__(MeanTraits::kMaxThreads, MeanTraits::kMinBlocks) multiscale_mean_kernel(
    LogitMaps<T> logits, Map<Out> out, int classes, Tiling tiling) {
  using Traits = MeanTraits;
  constexpr bool kLabels = std::is_same<Out, uint8_t>::value;
  constexpr bool kBounded = kLabels && kOf != MeanOf::kResizeThenSoftmax;
  constexpr unsigned kWarp = 0xffffffffu;

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x, threads = blockDim.x, lane = thread % 32, warp = thread / 32, warps = threads / 32;
  const int n = tile.n, rows = min(tiling.rows, out.height - tile.row);
  const int columns = min(tiling.columns, out.width - tile.column);

  SWIFTNET_DYNAMIC_SHARED(float, staged);
  ResizeTap* const row_taps = reinterpret_cast<ResizeTap*>(staged + classes * logits.pitch);  // [map][row]
  ResizeTap* const column_taps = row_taps + logits.count * tiling.rows;                       // [map][column]
  float* const extra = reinterpret_cast<float*>(column_taps + logits.count * tiling.columns);
  float* const normalisers = extra + thread;                          // [map][thread]
  float* const bounds = extra + warp * (ceil_div(classes, 32) * 32);  // [warp][class]: each class's upper bound

  for (int m = 0; m < logits.count; m++) {
    const Map<const T>& map = logits.maps[m];
    const StagedAxis y(map.height, out.height, tile.row, rows), x(map.width, out.width, tile.column, columns);
    for (int i = thread; i < rows + columns; i += threads) {
      if (i < rows) {
        ResizeTap tap = y.tap(i, logits.columns[m]);
        tap.lower += logits.first[m];
        tap.upper += logits.first[m];
        row_taps[m * tiling.rows + i] = tap;
      } else {
        column_taps[m * tiling.columns + i - rows] = x.tap(i - rows, 1);
      }
    }
    const bool inner = logits.channels_inner[m];
    for (int pixel = inner ? warp : lane; pixel < y.count * x.count; pixel += inner ? warps : 32) {
      const int i = pixel / x.count, j = pixel % x.count;
      const T* const source = &map.at(n, 0, y.source(i), x.source(j));
      float* const target = staged + logits.first[m] + i * logits.columns[m] + j;
#pragma unroll 4
      for (int c = inner ? lane : warp; c < classes; c += inner ? 32 : warps)
        target[c * logits.pitch] = to_float(source[c * map.stride_c]);
    }
  }
  __syncthreads();

  if (kOf == MeanOf::kSoftmaxThenResize) {
    int turn = warp;  // groups of 32 pixels go to the warps in turn, whichever map they are of
    for (int m = 0; m < logits.count; m++) {
      const Map<const T>& map = logits.maps[m];
      const StagedAxis y(map.height, out.height, tile.row, rows), x(map.width, out.width, tile.column, columns);
      const int pixels = y.count * x.count, groups = (pixels + 31) / 32;
      for (; turn < groups; turn += warps) {
        const int pixel = turn * 32 + lane;
        if (pixel >= pixels) continue;
        float* const values = staged + logits.first[m] + pixel / x.count * logits.columns[m] + pixel % x.count;
        float largest = -INFINITY, sum = 0.f;
        for (int c = 0; c < classes; c++) largest = fmaxf(largest, values[c * logits.pitch]);
        for (int c = 0; c < classes; c++) {
          const float e = expf(values[c * logits.pitch] - largest);  // NaN of two infinities, which the sum spreads
          values[c * logits.pitch] = e;
          sum += e;
        }
        for (int c = 0; c < classes; c++) values[c * logits.pitch] /= sum;
      }
      turn -= groups;
    }
    __syncthreads();
  }

  const int across = tiling.columns / Traits::kPatchColumns;
  for (int patch = warp; patch < tiling.rows / Traits::kPatchRows * across; patch += warps) {
    const int row0 = patch / across * Traits::kPatchRows, column0 = patch % across * Traits::kPatchColumns;
    if (row0 >= rows || column0 >= columns) continue;  // of the whole warp
    const int row = row0 + lane / Traits::kPatchColumns, column = column0 + lane % Traits::kPatchColumns;
    const bool inside = row < rows && column < columns;
    const int last_row = min(row0 + Traits::kPatchRows, rows) - 1;
    const int last_column = min(column0 + Traits::kPatchColumns, columns) - 1;
    // lanes outside the image go along with the last row and column: all take part in shuffles
    const ResizeTap* const my_row = row_taps + min(row, last_row);
    const ResizeTap* const my_column = column_taps + min(column, last_column);
    const auto taps = [&](int m) {
      const Map<const T>& map = logits.maps[m];
      return StagedTaps{my_row[m * tiling.rows], my_column[m * tiling.columns],
                        map.height == out.height && map.width == out.width};
    };

    if (kOf == MeanOf::kResizeThenSoftmax)
      for (int m = 0; m < logits.count; m++) {
        const StagedTaps at = taps(m);
        LogSumExp z;
        for (int c = 0; c < classes; c++) z.add(at.of(staged + c * logits.pitch));
        normalisers[m * threads] = z.value();
      }

    int candidates = classes, label = 0;
    float least = -INFINITY;  // what the winner has at least
    if (kBounded) {
      for (int c = lane; c < classes; c += 32) {
        ClassBounds bound;
        for (int m = 0; m < logits.count; m++) {
          const ResizeTap *v = row_taps + m * tiling.rows, *u = column_taps + m * tiling.columns;
          float low = INFINITY, high = -INFINITY;
          for (int i = v[row0].lower; i <= v[last_row].upper; i += logits.columns[m])
            for (int j = u[column0].lower; j <= u[last_column].upper; j++) {
              const float corner = staged[c * logits.pitch + i + j];
              low = fminf(low, corner);
              high = fmaxf(high, corner);
              bound.finite = bound.finite && fabsf(corner) <= FLT_MAX;
            }
          bound.add(low, high);
        }
        bound.widen(logits.count);
        bounds[c] = bound.upper;
        least = fmaxf(least, bound.lower);
      }
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) least = fmaxf(least, __shfl_xor_sync(kWarp, least, lanes));
      candidates = 0;
    }
    // class first + lane can win, or make NaN
    const auto possible = [&](int first) {
      const int c = first + lane;
      return __ballot_sync(kWarp, c < classes && (!kBounded || !(bounds[c] < least)));
    };
    if (kBounded)
      for (int first = 0; first < classes; first += 32) {
        const unsigned mask = possible(first);
        candidates += __popc(mask);
        if (mask != 0) label = first + __ffs(mask) - 1;
      }

    float best = -INFINITY;
    if (!kBounded || candidates > 1 || least == -INFINITY) {
      label = 0;
      for (int first = 0; first < classes; first += 32) {
        unsigned mask = possible(first);
        while (mask != 0) {
          int of[Traits::kClasses];
          float sums[Traits::kClasses];
#pragma unroll
          for (int k = 0; k < Traits::kClasses; k++) {
            of[k] = mask != 0 ? first + __ffs(mask) - 1 : -1;
            mask &= mask - 1;
            sums[k] = 0.f;
          }
          for (int m = 0; m < logits.count; m++) {
            const StagedTaps at = taps(m);
            const float z = kOf == MeanOf::kResizeThenSoftmax ? normalisers[m * threads] : 0.f;
#pragma unroll
            for (int k = 0; k < Traits::kClasses; k++) {
              if (of[k] < 0) continue;
              const float v = at.of(staged + of[k] * logits.pitch);
              sums[k] += kOf == MeanOf::kResizeThenSoftmax ? expf(v - z) : v;
            }
          }
#pragma unroll
          for (int k = 0; k < Traits::kClasses; k++) {
            if (of[k] < 0) continue;
            const float sum = sums[k];
            if (!kLabels) {
              if (inside)
                out.store(n, of[k], tile.row + row, tile.column + column, sum / static_cast<float>(logits.count));
            } else if (isnan(sum)) {
              label = Traits::kNaNLabel;
              best = INFINITY;  // which nothing exceeds
            } else if (sum > best) {
              best = sum;
              label = of[k];
            }
          }
        }
      }
    }
    if (kLabels && inside) out.store(n, 0, tile.row + row, tile.column + column, static_cast<float>(label));
  }
}

}  // namespace swiftnet
