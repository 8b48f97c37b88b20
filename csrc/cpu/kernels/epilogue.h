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

// body(vector, its first channel, Whole or Rest); `last` is what counts of the last vector
template <typename Vectors, int N, typename Part, typename Body>
SWIFTNET_INLINE void for_vectors_of(Vectors (&y)[N], Part last, const Body& body) {
#pragma GCC unroll 8
  for (int n = 0; n + 1 < N; n++) body(y[n], n * kLanes, Whole{});
  body(y[N - 1], (N - 1) * kLanes, last);
}

template <typename T>
class Epilogue {
 public:
  explicit Epilogue(const Conv2d& call)
      : call_(call),
        size_(call.out.data ? call.out : call.tap),
        range_(range_of(call.activation)),
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

  // Of whole vectors of outputs from `channel` on, in `copy` if they go beyond the last; nullptr where there is none.
  const float* bias(int64_t channel, int vectors, float* copy) const {
    const int64_t left = size_.c - channel;
    if (!call_.bias || left >= vectors * kLanes) return call_.bias ? call_.bias + channel : nullptr;
    for (int i = 0; i < vectors * kLanes; i++) copy[i] = i < left ? call_.bias[channel + i] : 0.f;
    return copy;
  }

  // Takes N vectors of sums, of a pixel's outputs from `channel` on; those beyond the last do not count. `corners` are
  // only read where the call resizes.
  template <int N>
  SWIFTNET_INLINE void write(Floats (&y)[N], int64_t pixel, const Corners<T>& corners, int64_t channel) const {
    const int64_t left = size_.c - channel - (N - 1) * kLanes;
    if (left >= kLanes) {
      add_bias(y, channel, Whole{});
      write_biased(y, pixel, corners, channel, Whole{});
    } else {
      add_bias(y, channel, Rest{static_cast<int>(left)});
      write_biased(y, pixel, corners, channel, Rest{static_cast<int>(left)});
    }
  }
  // The same of sums that begin with the bias; `last` is what counts of the last vector.
  template <int N, typename Part>
  SWIFTNET_INLINE void write_biased(Floats (&y)[N], int64_t pixel, const Corners<T>& corners, int64_t channel,
                                    Part last) const {
    const int64_t offset = pixel * size_.c + channel;
    if (call_.residual.data) {
      const T* residual = static_cast<const T*>(call_.residual.data) + offset;
      for_vectors_of(y, last, [&](Floats& y, int64_t c, auto part) __attribute__((always_inline)) {
        y += load(residual + c, part);
      });
    }
    if (call_.up.data)
      for (int i = 0; i < corners_; i++) {
        const Floats share = broadcast(corners.shares[i]);
        const T* corner = corners.values[i] + channel;
        for_vectors_of(y, last, [&](Floats& y, int64_t c, auto part) __attribute__((always_inline)) {
          y += share * load(corner + c, part);
        });
      }
    if (call_.tap.data) {
      T* to = static_cast<T*>(call_.tap.data) + offset;
      for_vectors_of(y, last, [&](Floats tap, int64_t c, auto part) __attribute__((always_inline)) {
        if (call_.tap_scale) tap *= load(call_.tap_scale + channel + c, part);
        if (call_.tap_shift) tap += load(call_.tap_shift + channel + c, part);
        store(to + c, call_.tap_relu ? relu(tap) : tap, part);
      });
    }
    if (call_.out.data && call_.float_out)
      write_out(y, static_cast<float*>(call_.out.data) + offset, last);
    else if (call_.out.data)
      write_out(y, static_cast<T*>(call_.out.data) + offset, last);
  }

 private:
  template <int N, typename Part>
  SWIFTNET_INLINE void add_bias(Floats (&y)[N], int64_t channel, Part last) const {
    if (!call_.bias) return;
    const float* bias = call_.bias + channel;
    for_vectors_of(y, last,
                   [&](Floats& y, int64_t c, auto part) __attribute__((always_inline)) { y += load(bias + c, part); });
  }
  template <int N, typename To, typename Part>
  SWIFTNET_INLINE void write_out(const Floats (&y)[N], To* out, Part last) const {
    for_vectors_of(y, last, [&](Floats y, int64_t c, auto part) __attribute__((always_inline)) {
      store(out + c, clamp(y, range_), part);
    });
  }

  const Conv2d call_;
  const Map size_;
  const Range range_;
  const ResizeAxis rows_, columns_;
  // that count; of a map as large as the result one, as the zero weight of a neighbour would make NaN of Inf
  const int corners_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
