// Convolutions of any kernel and stride: outputs from pointers to the windows' rows, which are contiguous in
// channels_last. Windows over the border are copied beside with their zeros.
//
//   pixel m's window      row 0: kernel·C values   row 1 …
//   packed weight         [block of outputs][row of the kernel][kernel·C][outputs]
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/winograd.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int kMaxPixels = kPixels > kPixelsOfNarrow ? kPixels : kPixelsOfNarrow;
constexpr int64_t kPixelsOfChunk = 192;  // whose windows stay in the cache for all outputs; divisible by all M

// Bytes for the windows over the border of the pixels made at once, and a row of zeros, for each thread.
int64_t windows_bytes(const Conv2d& call) {
  const int64_t row = call.kernel * call.x.c * (call.bf16 ? 2 : 4);
  return ((kMaxPixels * call.kernel + 1) * row + 63) / 64 * 64;
}

template <typename T>
class Direct {
 public:
  explicit Direct(const Conv2d& call) : call_(call), epilogue_(call), depth_(call.kernel * call.x.c) {
    const Map& y = call.out.data ? call.out : call.tap;
    height_ = y.h, width_ = y.w, pixels_ = y.n * y.h * y.w;
  }

  int64_t chunks() const { return (pixels_ + kPixelsOfChunk - 1) / kPixelsOfChunk; }

  void operator()(int64_t chunk, T* windows) const {
    const int64_t begin = chunk * kPixelsOfChunk, left = pixels_ - begin;
    Pixels pixels;
    pixels.count = static_cast<int>(left < kPixelsOfChunk ? left : kPixelsOfChunk);
    int64_t x = begin % width_, y = begin / width_ % height_, n = begin / width_ / height_;
    for (int i = 0; i < pixels.count; i++) {
      pixels.results[i] = epilogue_.pixel(n, y, x);
      pixels.windows[i] = {n, y * call_.stride - call_.padding, x * call_.stride - call_.padding};
      if (++x < width_) continue;
      x = 0;
      if (++y < height_) continue;
      y = 0, n++;
    }
    const auto* packed = static_cast<const typename Packed<T>::Type*>(call_.packed);
    for (int64_t first = 0; first < epilogue_.outputs(); first += kBlock) {
      const int64_t outputs = epilogue_.outputs() - first;
      const int vectors = outputs >= kBlock ? kVectors : static_cast<int>((outputs + kLanes - 1) / kLanes);
      switch (vectors) {
        case 1: block<1>(pixels, first, packed, windows); break;
        case 2: block<2>(pixels, first, packed, windows); break;
#if defined(__AVX512F__)
        case 3: block<3>(pixels, first, packed, windows); break;
        default: block<4>(pixels, first, packed, windows);
#endif
      }
      packed += call_.kernel * depth_ * vectors * kLanes;
    }
  }

 private:
  struct Window {
    int64_t n, top, left;
  };
  struct Pixels {
    int count;
    Pixel<T> results[kPixelsOfChunk];
    Window windows[kPixelsOfChunk];
  };

  template <int N, typename Type>
  void block(const Pixels& pixels, int64_t first, const Type* packed, T* copies) const {
    constexpr int M = pixels_at_once(N);
    for (int p = 0; p < pixels.count; p += M) {
      const int count = pixels.count - p < M ? pixels.count - p : M;
      Floats sums[M][N] = {};
      for (int row = 0; row < call_.kernel; row++) {
        const T* a[M];
#pragma GCC unroll 16
        for (int m = 0; m < M; m++)
          a[m] = window_row(pixels.windows[p + (m < count ? m : 0)], row, copies, copies + (1 + m * call_.kernel + row) * depth_);
        accumulate(sums, a, packed + row * depth_ * N * kLanes, depth_);
      }
#pragma GCC unroll 16
      for (int m = 0; m < M; m++) {
        if (m >= count) break;
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
          const int64_t channel = first + n * kLanes;
          epilogue_.write(sums[m][n], pixels.results[p + m], channel, static_cast<int>(epilogue_.outputs() - channel));
        }
      }
    }
  }

  // Where a row of a window lies, or its copy where it goes over the border.
  SWIFTNET_INLINE const T* window_row(const Window& window, int row, const T* zeros, T* copy) const {
    const Map& x = call_.x;
    const int64_t y = window.top + row;
    if (y < 0 || y >= x.h) return zeros;
    const T* line = static_cast<const T*>(x.data) + (window.n * x.h + y) * x.w * x.c;
    if (window.left >= 0 && window.left + call_.kernel <= x.w) return line + window.left * x.c;
    copy_over_border(line, window.left, copy);
    return copy;
  }

  __attribute__((noinline)) void copy_over_border(const T* line, int64_t left, T* copy) const {
    const int64_t channels = call_.x.c;
    for (int i = 0; i < call_.kernel; i++, copy += channels) {
      if (left + i < 0 || left + i >= call_.x.w) {
        std::memset(copy, 0, channels * sizeof(T));
      } else {
        std::memcpy(copy, line + (left + i) * channels, channels * sizeof(T));
      }
    }
  }

  const Conv2d call_;
  const Epilogue<T> epilogue_;
  const int64_t depth_;
  int64_t height_, width_, pixels_;
};

template <typename T>
void direct(const Conv2d& call) {
  const Direct<T> convolution(call);
  const int64_t chunks = convolution.chunks(), parts = call.threads < chunks ? call.threads : chunks;
  parallel_for(call.threads, parts, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; part++) {
      T* windows = reinterpret_cast<T*>(static_cast<char*>(call.workspace) + part * windows_bytes(call));
      std::memset(windows, 0, call.kernel * call.x.c * sizeof(T));
      for (int64_t chunk = part * chunks / parts; chunk < (part + 1) * chunks / parts; chunk++) convolution(chunk, windows);
    }
  });
}

template <typename T>
void pack_direct(const float* weight, int64_t outputs, int64_t channels, int kernel, void* packed) {
  using Type = typename Packed<T>::Type;
  // [outputs, channels, kernel, kernel] → depth (row, column, channel)
  pack_blocks<Type, Packed<T>::kPair>(
      outputs, kernel * kernel * channels,
      [=](int64_t output, int64_t k) {
        return weight[(output * channels + k % channels) * kernel * kernel + k / channels];
      },
      static_cast<Type*>(packed));
}

}  // namespace

int64_t packed_bytes(bool bf16, bool winograd, int64_t outputs, int64_t channels, int kernel) {
  if (winograd) return winograd_packed_bytes(outputs, channels);
  const int64_t size = bf16 ? sizeof(Packed<bfloat16>::Type) : sizeof(float);
  return padded_to_lanes(outputs) * channels * kernel * kernel * size;
}

void pack_conv2d(bool bf16, bool winograd, const float* weight, int64_t outputs, int64_t channels, int kernel,
                 void* packed) {
  if (winograd) {
    pack_winograd(weight, outputs, channels, packed);
  } else if (bf16) {
    pack_direct<bfloat16>(weight, outputs, channels, kernel, packed);
  } else {
    pack_direct<float>(weight, outputs, channels, kernel, packed);
  }
}

int64_t conv2d_workspace(const Conv2d& call) {
  return call.winograd ? winograd_workspace(call) : call.threads * windows_bytes(call);
}

void conv2d(const Conv2d& call) {
  if (call.winograd) {
    winograd(call);
  } else if (call.bf16) {
    direct<bfloat16>(call);
  } else {
    direct<float>(call);
  }
}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
