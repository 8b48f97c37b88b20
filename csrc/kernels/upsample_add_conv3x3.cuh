// The decoder's block: conv3×3 over relu(scale·(up(x) + skip) + shift), evaluated as the halo tile is filled.
#pragma once
#include "common/resize.cuh"
#include "conv3x3.cuh"

namespace swiftnet {

template <class T, Resize kMode>
struct BlendSource {
  Map<const T> x, skip;
  AffineRelu affine_relu;

  __device__ float operator()(int n, int c, int h, int w) const {
    const float up = resized<kMode>(x, n, c, h, w, skip.height, skip.width);
    return affine_relu(up + skip.load(n, c, h, w), c);
  }
};

}  // namespace swiftnet
