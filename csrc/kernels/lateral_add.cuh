// The lateral connection: conv1×1 over relu(scale·tap + shift), and after it bias, the resized coarser map, the next
// layer's affine and ReLU.
#pragma once
#include "common/conv1x1.cuh"
#include "common/resize.cuh"

namespace swiftnet {

template <class T>
struct AffineSource {
  Map<const T> tap;
  AffineRelu affine_relu;

  __device__ float operator()(int n, int c, int h, int w) const { return affine_relu(tap.load(n, c, h, w), c); }
};

// y = [relu](out_scale·(sum + bias + up(x)) + out_shift)
template <class T, Resize kMode>
struct LateralEpilogue {
  Parameter bias, out_scale, out_shift;
  Map<const T> x;  // data == nullptr where there is none
  int height, width;
  bool relu_last;

  __device__ float operator()(float sum, int n, int k, int h, int w) const {
    float y = sum + bias[k];
    if (x.data != nullptr) y += resized<kMode>(x, n, k, h, w, height, width);
    return finish(y, out_scale[k], out_shift[k]);
  }

  __device__ float finish(float y, float scale, float shift) const {
    if (out_scale.data != nullptr || out_shift.data != nullptr) y = fmaf(y, scale, shift);
    return relu_last ? relu(y) : y;
  }

  // Whether a resized value is one of x, not a blend of four.
  __device__ bool single() const { return kMode == Resize::kNearest || (x.height == height && x.width == width); }
};

}  // namespace swiftnet
