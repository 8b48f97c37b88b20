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
  const float ratio = static_cast<float>(size) / static_cast<float>(resized);
  if (nearest) {
    const int64_t at = static_cast<int64_t>(static_cast<float>(i) * ratio), low = at < size - 1 ? at : size - 1;
    return {low, low, 0.f};
  }
  const float at = (static_cast<float>(i) + 0.5f) * ratio - 0.5f, inside = at > 0.f ? at : 0.f;
  const int64_t floor = static_cast<int64_t>(inside), low = floor < size - 1 ? floor : size - 1;
  return {low, low < size - 1 ? low + 1 : low, inside - static_cast<float>(low)};
}

// A pixel of the result, and what is read for it.
template <typename T>
struct Pixel {
  int64_t offset;  // in elements, of its first channel
  const T* corners[4];
  float shares[4];
};

template <typename T>
class Epilogue {
 public:
  explicit Epilogue(const Conv2d& call) : call_(call), size_(call.out.data ? call.out : call.tap) {}

  int64_t outputs() const { return size_.c; }

  Pixel<T> pixel(int64_t n, int64_t y, int64_t x) const {
    Pixel<T> pixel;
    pixel.offset = ((n * size_.h + y) * size_.w + x) * size_.c;
    const Map& up = call_.up;
    if (!up.data) return pixel;
    const Between rows = between(y, up.h, size_.h, call_.nearest), columns = between(x, up.w, size_.w, call_.nearest);
    const T* image = static_cast<const T*>(up.data) + n * up.h * up.w * up.c;
    for (int i = 0; i < 4; i++) {
      pixel.corners[i] = image + ((i / 2 ? rows.high : rows.low) * up.w + (i % 2 ? columns.high : columns.low)) * up.c;
      pixel.shares[i] = (i / 2 ? rows.share : 1.f - rows.share) * (i % 2 ? columns.share : 1.f - columns.share);
    }
    return pixel;
  }

  // Sums of the outputs from `channel` on, of which only `count` count where these are less than a vector.
  SWIFTNET_INLINE void write(Floats y, const Pixel<T>& pixel, int64_t channel, int count) const {
    if (call_.bias) y += some(call_.bias + channel, count);
    if (call_.residual.data) y += some(static_cast<const T*>(call_.residual.data) + pixel.offset + channel, count);
    if (call_.up.data) {
      const int corners = call_.nearest ? 1 : 4;
      for (int i = 0; i < corners; i++) y += pixel.shares[i] * some(pixel.corners[i] + channel, count);
    }
    if (call_.tap.data) {
      Floats tap = y;
      if (call_.tap_scale) tap *= some(call_.tap_scale + channel, count);
      if (call_.tap_shift) tap += some(call_.tap_shift + channel, count);
      keep(static_cast<T*>(call_.tap.data) + pixel.offset + channel, call_.tap_relu ? relu(tap) : tap, count);
    }
    if (!call_.out.data) return;
    if (call_.activation != Activation::kNone) y = relu(y);
    if (call_.activation == Activation::kRelu6) y = y > 6.f ? broadcast(6.f) : y;
    if (call_.float_out) {
      keep(static_cast<float*>(call_.out.data) + pixel.offset + channel, y, count);
    } else {
      keep(static_cast<T*>(call_.out.data) + pixel.offset + channel, y, count);
    }
  }

 private:
  template <typename U>
  SWIFTNET_INLINE static Floats some(const U* p, int count) {
    return count >= kLanes ? load(p) : load_some(p, count);
  }
  template <typename U>
  SWIFTNET_INLINE static void keep(U* p, Floats values, int count) {
    if (count >= kLanes) {
      store(p, values);
    } else {
      store_some(p, values, count);
    }
  }

  const Conv2d call_;
  const Map size_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
