// The mean of several logit maps' probabilities at one size, or its labels. A thread makes one pixel of the result and
// keeps nothing that grows with the number of classes:
//
//   softmax_then_resize   a first kernel writes each input pixel's z = log Σ_c exp(logit_c) (fp32 workspace); then
//                         p_c = bilinear(exp(logit_c - z)) class by class
//   resize_then_softmax   each thread first makes z of its pixel's resized logits, map by map, in shared memory; then
//                         p_c = exp(bilinear(logit_c) - z) class by class
//   resize_only           p_c = bilinear(logit_c): one map's labels need no softmax
//
// Labels are written as they are found: the largest sum over maps wins, ties go to the lower class, and a NaN gives
// 255.
#pragma once
#include "common/resize.cuh"
#include "common/tiles.cuh"

namespace swiftnet {

struct MeanTraits {
  static constexpr int kRows = 8, kColumns = 16, kThreads = kRows * kColumns;
  static constexpr int kMaxMaps = 32;
  static constexpr uint8_t kNaNLabel = 255;
  static_assert(kMaxMaps * kThreads * sizeof(float) <= 48 * 1024, "each pixel's z for each map");
};

template <class T>
struct LogitMaps {
  int count;
  Map<const T> maps[MeanTraits::kMaxMaps];
  const float* normalisers[MeanTraits::kMaxMaps];  // z [N, h, w] of each map, for softmax_then_resize
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

template <class T>
__global__ void __launch_bounds__(256) normaliser_kernel(Map<const T> logits, float* normaliser, int64_t pixels) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  const int w = static_cast<int>(pixel % logits.width), h = static_cast<int>(pixel / logits.width % logits.height);
  const int n = static_cast<int>(pixel / logits.width / logits.height);
  LogSumExp z;
  for (int c = 0; c < logits.channels; c++) z.add(logits.load(n, c, h, w));
  normaliser[pixel] = z.value();
}

// Out: Map<T> for the mean, Map<uint8_t> with one channel for the labels.
template <class T, MeanOf kOf, class Out>
__global__ void __launch_bounds__(MeanTraits::kThreads) multiscale_mean_kernel(LogitMaps<T> logits, Map<Out> out,
                                                                               int classes, Tiling tiling) {
  constexpr bool kLabels = std::is_same<Out, uint8_t>::value;
  __shared__ float normalisers[kOf == MeanOf::kResizeThenSoftmax ? MeanTraits::kMaxMaps : 1][MeanTraits::kThreads];

  const Tile tile = tiling.tile(blockIdx.x);
  const int thread = threadIdx.x, n = tile.n;
  const int h = tile.row + thread / MeanTraits::kColumns, w = tile.column + thread % MeanTraits::kColumns;
  if (h >= out.height || w >= out.width) return;  // no barrier follows: a thread reads only its own normalisers

  if (kOf == MeanOf::kResizeThenSoftmax)
    for (int m = 0; m < logits.count; m++) {
      LogSumExp z;
      for (int c = 0; c < classes; c++)
        z.add(resized<Resize::kBilinear>(logits.maps[m], n, c, h, w, out.height, out.width));
      normalisers[m][thread] = z.value();
    }

  float best = -INFINITY;
  int label = 0;
  for (int c = 0; c < classes; c++) {
    float sum = 0.f;
    for (int m = 0; m < logits.count; m++) {
      const Map<const T>& map = logits.maps[m];
      if (kOf == MeanOf::kSoftmaxThenResize) {
        const float* z = logits.normalisers[m] + static_cast<int64_t>(n) * map.height * map.width;
        const auto probability = [&](int y, int x) {
          return expf(map.load(n, c, y, x) - z[static_cast<int64_t>(y) * map.width + x]);
        };
        sum += resize_at<Resize::kBilinear>(probability, map.height, map.width, h, w, out.height, out.width);
      } else {
        const float v = resized<Resize::kBilinear>(map, n, c, h, w, out.height, out.width);
        sum += kOf == MeanOf::kResizeOnly ? v : expf(v - normalisers[m][thread]);
      }
    }
    if (!kLabels) {
      out.store(n, c, h, w, sum / static_cast<float>(logits.count));
    } else if (isnan(sum)) {
      label = MeanTraits::kNaNLabel;
      break;
    } else if (sum > best) {
      best = sum;
      label = c;
    }
  }
  if (kLabels) out.store(n, 0, h, w, static_cast<float>(label));
}

}  // namespace swiftnet
