// Resizing exactly as PyTorch does it: bilinear with align_corners=False, and nearest; csrc/kernels/common/resize.cuh
// is its twin. Internal to each file, so that no two instruction sets share its code.
#pragma once
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// out = (1 - weight)·in[lower] + weight·in[upper]. Index arithmetic is fp32, as in PyTorch.
struct ResizeTap {
  int64_t lower, upper;
  float weight;
};

// The taps of one dimension.
struct ResizeAxis {
  int64_t in, out;
  float ratio;
  bool nearest;

  ResizeAxis(int64_t in_size, int64_t out_size, bool is_nearest)
      : in(in_size),
        out(out_size),
        ratio(static_cast<float>(in_size) / static_cast<float>(out_size)),
        nearest(is_nearest) {}

  // That of nearest is one index, twice.
  SWIFTNET_INLINE ResizeTap tap(int64_t dst) const {
    if (in == out) return {dst, dst, 0.f};
    if (nearest) {
      const int64_t index = static_cast<int64_t>(static_cast<float>(dst) * ratio);
      const int64_t inside = index < in - 1 ? index : in - 1;
      return {inside, inside, 0.f};
    }
    float src = ratio * (static_cast<float>(dst) + 0.5f) - 0.5f;
    src = src < 0.f ? 0.f : src;
    int64_t lower = static_cast<int64_t>(src);
    lower = lower < in - 1 ? lower : in - 1;
    const float part = src - static_cast<float>(lower);
    return {lower, lower + 1 < in ? lower + 1 : in - 1, part < 0.f ? 0.f : part > 1.f ? 1.f : part};
  }
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
