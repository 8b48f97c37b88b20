// What ends a 3×3 convolution:
//
//   sum = Σ_{c,r,s} weight[k,c,r,s] · x[n,c,h+r-1,w+s-1] + bias[k] + residual[n,k,h,w],    out = [relu](sum)
//
// `sum` may be written too.
#pragma once
#include "common/access.cuh"
#include "conv3x3.cuh"

namespace swiftnet {

template <class T>
struct ConvEpilogue {
  Parameter bias;
  Map<const T> residual;  // data == nullptr where there is none, here and below
  Map<T> sum, out;
  bool relu_last;

  __device__ void one(int n, int k, int h, int w, float v) const {
    float y = v + bias[k];
    if (residual.data != nullptr) y += residual.load(n, k, h, w);
    if (sum.data != nullptr) sum.store(n, k, h, w, y);
    out.store(n, k, h, w, relu_last ? relu(y) : y);
  }

  // Four pixels of a row (kRows) or four channels (kChannels), from (k, h, w) on.
  template <Access kAccess>
  __device__ void four(int n, int k, int h, int w, const float (&v)[4]) const {
    float y[4];
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = v[i] + bias[kAccess == Access::kChannels ? k + i : k];
    if (residual.data != nullptr) {
      const Vector4<T> r = load4(&residual.at(n, k, h, w));
#pragma unroll
      for (int i = 0; i < 4; i++) y[i] += to_float(r.v[i]);
    }
    if (sum.data != nullptr) store4(&sum.at(n, k, h, w), y);
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = relu_last ? relu(y[i]) : y[i];
    store4(&out.at(n, k, h, w), y);
  }

  // Four outputs, from k on, of eight pixels of a row, from (h, w) on; sums points to [4][8].
  template <Access kAccess>
  __device__ void rectangle(int n, int k, int h, int w, int width, const float (*sums)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (kAccess == Access::kChannels && k < out.channels && w + i < width)
        four<kAccess>(n, k, h, w + i, {sums[0][i], sums[1][i], sums[2][i], sums[3][i]});
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float (&line)[8] = sums[j];
      if (kAccess == Access::kChannels || k + j >= out.channels) break;
      if (kAccess == Access::kRows) {
        if (w < width) four<kAccess>(n, k + j, h, w, {line[0], line[1], line[2], line[3]});
        if (w + 4 < width) four<kAccess>(n, k + j, h, w + 4, {line[4], line[5], line[6], line[7]});
      } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (w + i < width) one(n, k + j, h, w + i, line[i]);
      }
    }
  }
};

template <class T>
ConvEpilogue<T> conv_epilogue(const Conv3x3Call& call) {
  return {parameter_of(call.bias, 0.f), optional_map<const T>(call.residual), optional_map<T>(call.sum),
          map_of<T>(call.out), call.relu};
}

}  // namespace swiftnet
