// What a convolution does with a pixel's sums: bias, residual, a resized map, activation, and the tap beside it.
#pragma once
#include "cpu/kernels.h"
#include "cpu/kernels/channels.h"
#include "cpu/kernels/resize.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// What is read of `up` for a pixel of the result.
template <typename T>
struct Corners {
  const T* values[4];
  float shares[4];
};

template <typename T>
class Epilogue {
 public:
  explicit Epilogue(const Conv2d& call)
      : call_(call),
        size_(call.out.data ? call.out : call.tap),
        range_(range_of(call.activation)),
        simple_(!call.up.data && !call.tap.data && !call.float_out),
        rows_(call.up.h, size_.h, call.nearest),
        columns_(call.up.w, size_.w, call.nearest),
        corners_(call.nearest || (call.up.h == size_.h && call.up.w == size_.w) ? 1 : 4) {}

  int64_t outputs() const { return size_.c; }
  bool resizes() const { return call_.up.data; }

  Corners<T> corners(int64_t n, int64_t y, int64_t x) const {
    const Map& up = call_.up;
    const ResizeTap row = rows_.tap(y), column = columns_.tap(x);
    const T* image = static_cast<const T*>(up.data) + n * up.h * up.w * up.c;
    Corners<T> corners;
    for (int i = 0; i < 4; i++) {
      corners.values[i] =
          image + ((i / 2 ? row.upper : row.lower) * up.w + (i % 2 ? column.upper : column.lower)) * up.c;
      corners.shares[i] = (i / 2 ? row.weight : 1.f - row.weight) * (i % 2 ? column.weight : 1.f - column.weight);
    }
    return corners;
  }

  // Whether there is nothing but the bias, a residual and the activation.
  bool is_simple() const { return simple_; }
  // Of whole vectors of outputs from `channel` on, in `copy` if they go beyond the last; nullptr where there is none.
  const float* bias(int64_t channel, int vectors, float* copy) const {
    const int64_t left = size_.c - channel;
    if (!call_.bias || left >= vectors * kLanes) return call_.bias ? call_.bias + channel : nullptr;
    for (int i = 0; i < vectors * kLanes; i++) copy[i] = i < left ? call_.bias[channel + i] : 0.f;
    return copy;
  }

  // Takes N vectors of sums, of the outputs from `channel` on, of a pixel: simple ones that the bias is in already.
  template <int N, typename Part>
  SWIFTNET_INLINE void write_simple(Floats (&sums)[N], int64_t pixel, int64_t channel, Part last) const {
    const int64_t offset = pixel * size_.c + channel, of_last = offset + (N - 1) * kLanes;
    if (call_.residual.data) {
      const T* residual = static_cast<const T*>(call_.residual.data);
#pragma GCC unroll 8
      for (int n = 0; n + 1 < N; n++) sums[n] += load(residual + offset + n * kLanes);
      sums[N - 1] += load(residual + of_last, last);
    }
    T* out = static_cast<T*>(call_.out.data);
#pragma GCC unroll 8
    for (int n = 0; n + 1 < N; n++) store(out + offset + n * kLanes, clamp(sums[n], range_));
    store(out + of_last, clamp(sums[N - 1], range_), last);
  }

  // Takes the sums of any outputs; those beyond the last do not count. `corners` are only read where the call resizes.
  template <int N>
  SWIFTNET_INLINE void write(const Floats (&sums)[N], int64_t pixel, const Corners<T>& corners, int64_t channel) const {
    for (int n = 0; n < N; n++) {
      const int64_t first = channel + n * kLanes;
      const int64_t left = size_.c - first;
      if (left >= kLanes)
        write_vector(sums[n], pixel * size_.c + first, corners, first, Whole{});
      else if (left > 0)
        write_vector(sums[n], pixel * size_.c + first, corners, first, Rest{static_cast<int>(left)});
    }
  }
  template <int N>
  SWIFTNET_INLINE void write(const float* sums, int64_t pixel, const Corners<T>& corners, int64_t channel) const {
    Floats values[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) values[n] = load(sums + n * kLanes);
    write(values, pixel, corners, channel);
  }

 private:
  template <typename Part>
  SWIFTNET_INLINE void write_vector(Floats y, int64_t offset, const Corners<T>& corners, int64_t channel,
                                    Part part) const {
    if (call_.bias) y += load(call_.bias + channel, part);
    if (call_.residual.data) y += load(static_cast<const T*>(call_.residual.data) + offset, part);
    if (call_.up.data)
      for (int i = 0; i < corners_; i++) y += corners.shares[i] * load(corners.values[i] + channel, part);
    if (call_.tap.data) {
      Floats tap = y;
      if (call_.tap_scale) tap *= load(call_.tap_scale + channel, part);
      if (call_.tap_shift) tap += load(call_.tap_shift + channel, part);
      store(static_cast<T*>(call_.tap.data) + offset, call_.tap_relu ? relu(tap) : tap, part);
    }
    if (!call_.out.data) return;
    y = clamp(y, range_);
    if (call_.float_out)
      store(static_cast<float*>(call_.out.data) + offset, y, part);
    else
      store(static_cast<T*>(call_.out.data) + offset, y, part);
  }

  const Conv2d call_;
  const Map size_;
  const Range range_;
  const bool simple_;
  const ResizeAxis rows_, columns_;
  // that count; of a map as large as the result one, as the zero weight of a neighbour would make NaN of Inf
  const int corners_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
