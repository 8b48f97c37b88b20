// What a convolution does with a pixel's sums: bias, residual, a resized map, activation, and the tap beside it.
#pragma once
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// Where an output's coordinate lies between two of the input, as PyTorch resizes (align_corners=False).
struct Between {
  int64_t low, high;
  float share;  // of high
};

SWIFTNET_INLINE Between between(int64_t i, int64_t size, int64_t resized, bool nearest) {
  if (size == resized) return {i, i, 0.f};
  const float ratio = static_cast<float>(size) / static_cast<float>(resized);
  if (nearest) {
    const int64_t at = static_cast<int64_t>(static_cast<float>(i) * ratio), low = at < size - 1 ? at : size - 1;
    return {low, low, 0.f};
  }
  const float at = (static_cast<float>(i) + 0.5f) * ratio - 0.5f, inside = at > 0.f ? at : 0.f;
  const int64_t floor = static_cast<int64_t>(inside), low = floor < size - 1 ? floor : size - 1;
  return {low, low < size - 1 ? low + 1 : low, inside - static_cast<float>(low)};
}

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
        plain_(!call.residual.data && !call.up.data && !call.tap.data && !call.float_out) {}

  int64_t outputs() const { return size_.c; }
  bool resizes() const { return call_.up.data; }

  Corners<T> corners(int64_t n, int64_t y, int64_t x) const {
    const Map& up = call_.up;
    const Between rows = between(y, up.h, size_.h, call_.nearest), columns = between(x, up.w, size_.w, call_.nearest);
    const T* image = static_cast<const T*>(up.data) + n * up.h * up.w * up.c;
    Corners<T> corners;
    for (int i = 0; i < 4; i++) {
      corners.values[i] = image + ((i / 2 ? rows.high : rows.low) * up.w + (i % 2 ? columns.high : columns.low)) * up.c;
      corners.shares[i] = (i / 2 ? rows.share : 1.f - rows.share) * (i % 2 ? columns.share : 1.f - columns.share);
    }
    return corners;
  }

  // Whether N vectors of outputs, from `channel` on, need nothing but the bias and the activation.
  bool is_plain(int64_t channel, int vectors) const { return plain_ && channel + vectors * kLanes <= size_.c; }
  const float* bias(int64_t channel) const { return call_.bias ? call_.bias + channel : nullptr; }

  // Takes N vectors of sums, of the outputs from `channel` on, of a pixel: plain ones that the bias is in already.
  template <int N>
  SWIFTNET_INLINE void write_plain(const Floats (&sums)[N], int64_t pixel, int64_t channel) const {
    T* out = static_cast<T*>(call_.out.data) + pixel * size_.c + channel;
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) store(out + n * kLanes, activated(sums[n]));
  }

  // Takes the sums of any outputs; those beyond the last do not count. `corners` are only read where the call resizes.
  template <int N>
  SWIFTNET_INLINE void write(const Floats (&sums)[N], int64_t pixel, const Corners<T>& corners, int64_t channel) const {
    for (int n = 0; n < N; n++) {
      const int64_t first = channel + n * kLanes;
      if (first < size_.c) write_any(sums[n], pixel * size_.c, corners, first, size_.c - first);
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
  SWIFTNET_INLINE Floats activated(Floats y) const {
    if (call_.activation == Activation::kNone) return y;
    y = relu(y);
    return call_.activation == Activation::kRelu ? y : y > 6.f ? broadcast(6.f) : y;
  }

  SWIFTNET_INLINE void write_any(Floats y, int64_t offset, const Corners<T>& corners, int64_t channel,
                                 int64_t count) const {
    offset += channel;
    if (call_.bias) y += some(call_.bias + channel, count);
    if (call_.residual.data) y += some(static_cast<const T*>(call_.residual.data) + offset, count);
    if (call_.up.data) {
      const int taken = call_.nearest ? 1 : 4;
      for (int i = 0; i < taken; i++) y += corners.shares[i] * some(corners.values[i] + channel, count);
    }
    if (call_.tap.data) {
      Floats tap = y;
      if (call_.tap_scale) tap *= some(call_.tap_scale + channel, count);
      if (call_.tap_shift) tap += some(call_.tap_shift + channel, count);
      keep(static_cast<T*>(call_.tap.data) + offset, call_.tap_relu ? relu(tap) : tap, count);
    }
    if (!call_.out.data) return;
    if (call_.float_out) {
      keep(static_cast<float*>(call_.out.data) + offset, activated(y), count);
    } else {
      keep(static_cast<T*>(call_.out.data) + offset, activated(y), count);
    }
  }

  template <typename U>
  SWIFTNET_INLINE static Floats some(const U* p, int64_t count) {
    return count >= kLanes ? load(p) : load_some(p, static_cast<int>(count));
  }
  template <typename U>
  SWIFTNET_INLINE static void keep(U* p, Floats values, int64_t count) {
    if (count >= kLanes) {
      store(p, values);
    } else {
      store_some(p, values, static_cast<int>(count));
    }
  }

  const Conv2d call_;
  const Map size_;
  const bool plain_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
