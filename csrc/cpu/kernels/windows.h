// Where a convolution's pixels read and write: windows' rows are contiguous in channels_last, kernel·C values each.
#pragma once
#include "cpu/kernels/epilogue.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int kPixelsOfChunk = 192;  // whose windows stay in the cache for all outputs; divisible by all pixels_at_once

struct Window {
  int64_t n, top, left;
};

template <typename T>
struct Chunk {
  int count;
  Pixel<T> pixels[kPixelsOfChunk];
  Window windows[kPixelsOfChunk];
};

template <typename T>
class Windows {
 public:
  Windows(const Conv2d& call, const Epilogue<T>& epilogue) : call_(call), epilogue_(epilogue) {
    const Map& y = call.out.data ? call.out : call.tap;
    height_ = y.h, width_ = y.w, pixels_ = y.n * y.h * y.w;
  }

  int64_t chunks() const { return (pixels_ + kPixelsOfChunk - 1) / kPixelsOfChunk; }

  void fill(int64_t number, Chunk<T>& chunk) const {
    const int64_t begin = number * kPixelsOfChunk, left = pixels_ - begin;
    chunk.count = static_cast<int>(left < kPixelsOfChunk ? left : kPixelsOfChunk);
    int64_t x = begin % width_, y = begin / width_ % height_, n = begin / width_ / height_;
    for (int i = 0; i < chunk.count; i++) {
      chunk.pixels[i] = epilogue_.pixel(n, y, x);
      chunk.windows[i] = {n, y * call_.stride - call_.padding, x * call_.stride - call_.padding};
      if (++x < width_) continue;
      x = 0;
      if (++y < height_) continue;
      y = 0, n++;
    }
  }

  // A row of a window in the map, or nullptr where it goes over the border.
  SWIFTNET_INLINE const T* row(const Window& window, int row) const {
    const Map& x = call_.x;
    const int64_t y = window.top + row;
    if (y < 0 || y >= x.h || window.left < 0 || window.left + call_.kernel > x.w) return nullptr;
    return static_cast<const T*>(x.data) + ((window.n * x.h + y) * x.w + window.left) * x.c;
  }

  // The same with zeros for what lies over the border.
  __attribute__((noinline)) void copy_row(const Window& window, int row, T* copy) const {
    const Map& x = call_.x;
    const int64_t y = window.top + row;
    for (int i = 0; i < call_.kernel; i++, copy += x.c) {
      const int64_t column = window.left + i;
      if (y < 0 || y >= x.h || column < 0 || column >= x.w) {
        std::memset(copy, 0, x.c * sizeof(T));
      } else {
        std::memcpy(copy, static_cast<const T*>(x.data) + ((window.n * x.h + y) * x.w + column) * x.c, x.c * sizeof(T));
      }
    }
  }

 private:
  const Conv2d call_;
  const Epilogue<T>& epilogue_;
  int64_t height_, width_, pixels_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
