// Resizing exactly as PyTorch does it: bilinear with align_corners=False, and nearest.
#pragma once
#include "../../ops.h"
#include "map.cuh"

namespace swiftnet {

// out = (1 - weight)·in[lower] + weight·in[upper]. Index arithmetic is fp32, as in PyTorch.
struct ResizeTap {
  int lower, upper;
  float weight;
};

__device__ inline ResizeTap bilinear_tap(int dst, int in, int out) {
  if (in == out) return {dst, dst, 0.f};
  const float ratio = static_cast<float>(in) / static_cast<float>(out);
  float src = ratio * (static_cast<float>(dst) + 0.5f) - 0.5f;
  src = src < 0.f ? 0.f : src;
  const int lower = min(static_cast<int>(src), in - 1);
  const float weight = min(max(src - static_cast<float>(lower), 0.f), 1.f);
  return {lower, min(lower + 1, in - 1), weight};
}

__device__ inline int nearest_index(int dst, int in, int out) {
  if (in == out) return dst;
  const float ratio = static_cast<float>(in) / static_cast<float>(out);
  return min(static_cast<int>(floorf(static_cast<float>(dst) * ratio)), in - 1);
}

// The tap of the mode; that of kNearest is one index, twice.
template <Resize kMode>
__device__ inline ResizeTap resize_tap(int dst, int in, int out) {
  if (kMode == Resize::kBilinear) return bilinear_tap(dst, in, out);
  const int nearest = nearest_index(dst, in, out);
  return {nearest, nearest, 0.f};
}

// Zero weights are multiplied out, not skipped, so that Inf and NaN spread as in PyTorch. The fused multiply-add is
// said, so that every kernel gets the same bits.
__device__ inline float interpolate(float lower, float upper, float weight) {
  return fmaf(1.f - weight, lower, weight * upper);
}

// Interpolates `value(h, w)`, defined on a map of in_h × in_w, at pixel (h, w) of one of out_h × out_w.
template <Resize kMode, class Value>
__device__ inline float resize_at(const Value& value, int in_h, int in_w, int h, int w, int out_h, int out_w) {
  if (in_h == out_h && in_w == out_w) return value(h, w);
  if (kMode == Resize::kNearest) return value(nearest_index(h, in_h, out_h), nearest_index(w, in_w, out_w));
  const ResizeTap v = bilinear_tap(h, in_h, out_h), u = bilinear_tap(w, in_w, out_w);
  const float upper_row = interpolate(value(v.lower, u.lower), value(v.lower, u.upper), u.weight);
  const float lower_row = interpolate(value(v.upper, u.lower), value(v.upper, u.upper), u.weight);
  return interpolate(upper_row, lower_row, v.weight);
}

// Channel c of image n of `map`, resized to height × width, at (h, w).
template <Resize kMode, class T>
__device__ inline float resized(const Map<T>& map, int n, int c, int h, int w, int height, int width) {
  return resize_at<kMode>([&](int y, int x) { return map.load(n, c, y, x); }, map.height, map.width, h, w, height,
                          width);
}

}  // namespace swiftnet
