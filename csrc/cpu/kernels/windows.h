// Where a convolution's pixels read and write: windows' rows are contiguous in channels_last, kernel·C values each.
#pragma once
#include "cpu/kernels/epilogue.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// The most whose windows stay in the cache while all outputs are made; few where the weight stays in the innermost
// cache, so that the outputs do too. The larger is divisible by all numbers of pixels made at once.
constexpr int kPixelsOfChunk = 192, kPixelsOfSmallChunk = 48;
constexpr int64_t kSmallWeightBytes = 16 * 1024;

struct Window {
  int64_t n, top, left;
};

template <typename T>
struct Chunk {
  int64_t first;  // of its pixels, counted through the batch
  int count;
  Corners<T> corners[kPixelsOfChunk];  // where the epilogue resizes
  Window windows[kPixelsOfChunk];      // where the map is not read pixel by pixel
  const T* starts[kPixelsOfChunk];     // where windows begin in the map; nullptr of those that go over the border
};

template <typename T>
class Windows {
 public:
  // Of at least one pixel; `at_once` are made at once.
  Windows(const Conv2d& call, const Epilogue<T>& epilogue, int at_once) : call_(call), epilogue_(epilogue) {
    const Map& y = call.out.data ? call.out : call.tap;
    height_ = y.h, width_ = y.w, pixels_ = y.n * y.h * y.w;
    const int64_t weight_bytes = y.c * call.x.c * call.kernel * call.kernel * sizeof(T);
    const int64_t threads = call.threads;
    const int64_t most = threads * (weight_bytes <= kSmallWeightBytes ? kPixelsOfSmallChunk : kPixelsOfChunk);
    const int64_t chunks = (pixels_ + most - 1) / most * threads;  // as many for each thread
    chunk_ = round_up((pixels_ + chunks - 1) / chunks, at_once);
  }

  int64_t chunks() const { return (pixels_ + chunk_ - 1) / chunk_; }
  bool single_pixels() const { return call_.kernel == 1 && call_.stride == 1 && call_.padding == 0; }

  void fill(int64_t number, Chunk<T>& chunk) const {
    chunk.first = number * chunk_;
    const int64_t left = pixels_ - chunk.first;
    chunk.count = static_cast<int>(left < chunk_ ? left : chunk_);
    if (single_pixels() && !epilogue_.resizes()) {
      for (int i = 0; i < chunk.count; i++) chunk.starts[i] = row(chunk, i, 0);
      return;
    }
    int64_t x = chunk.first % width_, y = chunk.first / width_ % height_, n = chunk.first / width_ / height_;
    for (int i = 0; i < chunk.count; i++) {
      if (epilogue_.resizes()) chunk.corners[i] = epilogue_.corners(n, y, x);
      chunk.windows[i] = {n, y * call_.stride - call_.padding, x * call_.stride - call_.padding};
      const bool over = chunk.windows[i].top < 0 || chunk.windows[i].top + call_.kernel > call_.x.h;
      chunk.starts[i] = over ? nullptr : row(chunk, i, 0);
      if (++x < width_) continue;
      x = 0;
      if (++y < height_) continue;
      y = 0, n++;
    }
  }

  // A row of a pixel's window in the map, or nullptr where it goes over the border.
  SWIFTNET_INLINE const T* row(const Chunk<T>& chunk, int pixel, int row) const {
    const Map& x = call_.x;
    if (single_pixels()) return static_cast<const T*>(x.data) + (chunk.first + pixel) * x.c;
    const Window& window = chunk.windows[pixel];
    const int64_t y = window.top + row;
    if (y < 0 || y >= x.h || window.left < 0 || window.left + call_.kernel > x.w) return nullptr;
    return static_cast<const T*>(x.data) + ((window.n * x.h + y) * x.w + window.left) * x.c;
  }

  // The same with zeros for what lies over the border.
  __attribute__((noinline)) void copy_row(const Chunk<T>& chunk, int pixel, int row, T* copy) const {
    const Map& x = call_.x;
    if (single_pixels()) {
      std::memcpy(copy, this->row(chunk, pixel, row), x.c * sizeof(T));
      return;
    }
    const Window& window = chunk.windows[pixel];
    const int64_t y = window.top + row;
    const int64_t left = window.left < 0 ? 0 : window.left;
    const int64_t right = window.left + call_.kernel < x.w ? window.left + call_.kernel : x.w;
    std::memset(copy, 0, call_.kernel * x.c * sizeof(T));
    if (y < 0 || y >= x.h || left >= right) return;
    std::memcpy(copy + (left - window.left) * x.c,
                static_cast<const T*>(x.data) + ((window.n * x.h + y) * x.w + left) * x.c,
                (right - left) * x.c * sizeof(T));
  }

 private:
  const Conv2d call_;
  const Epilogue<T>& epilogue_;
  int64_t height_, width_, pixels_, chunk_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
