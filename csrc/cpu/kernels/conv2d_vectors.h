// Convolutions by multiplying vectors: blocks of outputs for a few pixels at once.
//
//   packed weight [block of outputs][row of the kernel][kernel·C, filled up to pairs][outputs]
#pragma once
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/windows.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

template <typename T>
class ByVectors {
 public:
  using Type = typename Packed<T>::Type;

  static int at_once(int64_t outputs) { return pixels_at_once(next_block(outputs)); }

  static int64_t packed_bytes(int64_t outputs, int64_t channels, int kernel) {
    return round_up(outputs, kLanes) * kernel * filled(kernel * channels) * sizeof(Type);
  }

  static void pack(const float* weight, int64_t outputs, int64_t channels, int kernel, void* packed) {
    const int64_t depth = kernel * channels, row_depth = filled(depth);
    pack_blocks<Type, Packed<T>::kPair>(
        outputs, kernel * row_depth,
        [=](int64_t output, int64_t k) {
          const int64_t row = k / row_depth, column = k % row_depth / channels, channel = k % row_depth % channels;
          return column < kernel ? weight[((output * channels + channel) * kernel + row) * kernel + column] : 0.f;
        },
        static_cast<Type*>(packed));
  }

  // For a thread: the rows over the border of the pixels made at once.
  static int64_t copies_bytes(const Conv2d& call) {
    return kMostPixels * call.kernel * call.kernel * call.x.c * sizeof(T);
  }

  ByVectors(const Conv2d& call, const Epilogue<T>& epilogue, const Windows<T>& windows)
      : call_(call), epilogue_(epilogue), windows_(windows), depth_(call.kernel * call.x.c) {}

  void operator()(const Chunk<T>& chunk, T* copies) const {
    const Type* packed = static_cast<const Type*>(call_.packed);
    for (int64_t first = 0, vectors; first < epilogue_.outputs(); first += vectors * kLanes) {
      vectors = next_block(epilogue_.outputs() - first);
      for_vectors(static_cast<int>(vectors), [&](auto n) { block<decltype(n)::value>(chunk, first, packed, copies); });
      packed += call_.kernel * filled(depth_) * vectors * kLanes;
    }
  }

 private:
  static int64_t filled(int64_t depth) { return round_up(depth, Packed<T>::kPair); }

  template <int N>
  void block(const Chunk<T>& chunk, int64_t first, const Type* packed, T* copies) const {
    constexpr int M = pixels_at_once(N);
    const int left = static_cast<int>(epilogue_.outputs() - first) - (N - 1) * kLanes;
    float copy[N * kLanes];
    const float* bias = epilogue_.bias(first, N, copy);
    for (int p = 0; p < chunk.count; p += M) {
      const int count = chunk.count - p < M ? chunk.count - p : M;
      const T* copied[kMaxKernel * M];
      const Rows<T> rows = all_inside<M>(chunk, p, count) ? Rows<T>{chunk.starts + p, 0, call_.x.w * call_.x.c}
                                                          : copied_rows<M>(chunk, p, count, copied, copies);
      if (left >= kLanes)
        multiply_and_write<M, N>(rows, packed, bias, chunk, p, count, first, Whole{});
      else
        multiply_and_write<M, N>(rows, packed, bias, chunk, p, count, first, Rest{left});
    }
  }

  // Whether M pixels from `pixel` on count, and all of their windows lie in the map.
  template <int M>
  SWIFTNET_INLINE static bool all_inside(const Chunk<T>& chunk, int pixel, int count) {
    bool all = count == M;
    for (int m = 0; m < M && all; m++) all = chunk.starts[pixel + m];
    return all;
  }

  // Rows over the border are copied with their zeros; pixels that do not count are the first one.
  template <int M>
  __attribute__((noinline)) Rows<T> copied_rows(const Chunk<T>& chunk, int pixel, int count, const T** rows,
                                                T* copies) const {
    for (int m = 0; m < M; m++)
      for (int row = 0; row < call_.kernel; row++) {
        const int of = pixel + (m < count ? m : 0);
        const T*& start = rows[row * M + m];
        start = windows_.row(chunk, of, row);
        if (start) continue;
        T* copy = copies + (m * call_.kernel + row) * depth_;
        windows_.copy_row(chunk, of, row, copy);
        start = copy;
      }
    return {rows, M, 0};
  }

  template <int M, int N, typename Part>
  __attribute__((noinline)) void multiply_and_write(const Rows<T>& rows, const Type* packed, const float* bias,
                                                    const Chunk<T>& chunk, int p, int count, int64_t first,
                                                    Part last) const {
    Floats sums[M][N];
    multiply(rows, packed, call_.kernel, depth_, bias, sums);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++) {
      if (m >= count) break;
      epilogue_.write_biased(sums[m], chunk.first + p + m, chunk.corners[p + m], first, last);
    }
  }

  const Conv2d call_;
  const Epilogue<T>& epilogue_;
  const Windows<T>& windows_;
  const int64_t depth_;
};

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
