// The lateral connection: conv1×1 over relu(scale·tap + shift), with bias, the resized coarser map and ReLU after it.
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

// y = [relu](sum + bias + up(x))
template <class T, Resize kMode>
struct LateralEpilogue {
  Parameter bias;
  Map<const T> x;  // data == nullptr where there is none
  int height, width;
  bool relu_last;

  __device__ float operator()(float sum, int n, int k, int h, int w) const {
    float y = sum + bias[k];
    if (x.data != nullptr) y += resized<kMode>(x, n, k, h, w, height, width);
    return relu_last ? relu(y) : y;
  }
};

}  // namespace swiftnet
