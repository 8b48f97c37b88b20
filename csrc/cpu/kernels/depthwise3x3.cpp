#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

#ifdef __AVX512F__
constexpr int kVectors = 2;  // 18 weights, 6 sums and the pixels in 32 registers
#else
constexpr int kVectors = 1;
#endif

// what rows above and below the image are read from, a pixel repeated
const float zeros[kVectors * kLanes] = {};

template <typename T>
struct Rows {
  const T* pixels[3];
  int64_t steps[3];  // from a pixel to the next
};

template <int kCount>
struct Weights {
  Floats taps[9][kCount], bias[kCount];
};

template <int kCount, typename T, typename Part>
SWIFTNET_INLINE void load_column(const Rows<T>& rows, int64_t w, Floats (&column)[3][kCount], Part part) {
  for (int r = 0; r < 3; r++)
    for (int i = 0; i < kCount; i++) column[r][i] = load(rows.pixels[r] + w * rows.steps[r] + i * kLanes, part);
}

// sums += column · the weights of column `tap` of the 3×3
template <int kCount>
SWIFTNET_INLINE void add(Floats (&sums)[kCount], const Floats (&column)[3][kCount], const Weights<kCount>& weights,
                         int tap) {
  for (int r = 0; r < 3; r++)
    for (int i = 0; i < kCount; i++) sums[i] += column[r][i] * weights.taps[3 * r + tap][i];
}

template <int kCount, typename T, typename Part>
SWIFTNET_INLINE void finish(T* out, const Floats (&sums)[kCount], Range range, Part part) {
  for (int i = 0; i < kCount; i++) store(out + i * kLanes, clamp(sums[i], range), part);
}

template <int kCount>
SWIFTNET_INLINE void copy(Floats (&to)[kCount], const Floats (&from)[kCount]) {
  for (int i = 0; i < kCount; i++) to[i] = from[i];
}

// A column of three pixels adds to three outputs, of which the left one is then done.
template <int kCount, typename T, typename Part>
SWIFTNET_INLINE void row_of_stride_1(const Rows<T>& rows, int64_t width, int64_t step, const Weights<kCount>& weights,
                                     Range range, T* out, const char*& ahead, Part part) {
  Floats column[3][kCount], left[kCount], middle[kCount], right[kCount];
  copy(left, weights.bias);
  copy(middle, weights.bias);
  load_column(rows, 0, column, part);
  add(left, column, weights, 1);
  add(middle, column, weights, 0);
  for (int64_t w = 1; w < width; w++) {
    copy(right, weights.bias);
    load_column(rows, w, column, part);
    add(left, column, weights, 2);
    add(middle, column, weights, 1);
    add(right, column, weights, 0);
    ask_for<kCount * kLanes * sizeof(T)>(ahead);
    finish(out, left, range, part);
    copy(left, middle);
    copy(middle, right);
    out += step;
  }
  finish(out, left, range, part);
}

template <int kCount, typename T, typename Part>
SWIFTNET_INLINE void row_of_stride_2(const Rows<T>& rows, int64_t width, int64_t step, const Weights<kCount>& weights,
                                     Range range, T* out, const char*& ahead, Part part) {
  Floats column[3][kCount], sums[kCount], next[kCount];
  copy(sums, weights.bias);
  for (int64_t w = 0; w + 1 < width; w += 2) {
    load_column(rows, w, column, part);
    add(sums, column, weights, 1);
    load_column(rows, w + 1, column, part);
    add(sums, column, weights, 2);
    copy(next, weights.bias);
    add(next, column, weights, 0);
    ask_for<4 * kCount * kLanes * sizeof(T)>(ahead);
    finish(out, sums, range, part);
    copy(sums, next);
    out += step;
  }
  if (width % 2 == 0) return;
  load_column(rows, width - 1, column, part);
  add(sums, column, weights, 1);
  finish(out, sums, range, part);
}

// kCount vectors of channels from c on, of row h of the output of image n; `ahead` are the rows that the next one reads
// first.
template <int kCount, typename T, typename Part>
SWIFTNET_INLINE void row(const Depthwise3x3& call, int64_t n, int64_t h, int64_t c, const char*& ahead, Part part) {
  const Map &x = call.x, &out = call.out;
  Weights<kCount> weights;
  for (int i = 0; i < kCount; i++) {
    for (int tap = 0; tap < 9; tap++) weights.taps[tap][i] = load(call.weight + tap * x.c + c + i * kLanes, part);
    weights.bias[i] = call.bias ? load(call.bias + c + i * kLanes, part) : Floats{};
  }
  Rows<T> rows;
  for (int r = 0; r < 3; r++) {
    const int64_t y = call.stride * h + r + call.top;
    const bool inside = y >= 0 && y < x.h;
    rows.pixels[r] =
        inside ? static_cast<const T*>(x.data) + (n * x.h + y) * x.w * x.c + c : reinterpret_cast<const T*>(zeros);
    rows.steps[r] = inside ? x.c : 0;
  }
  T* to = static_cast<T*>(out.data) + (n * out.h + h) * out.w * out.c + c;
  const Range range = range_of(call.activation);
  if (call.stride == 1)
    row_of_stride_1(rows, x.w, x.c, weights, range, to, ahead, part);
  else
    row_of_stride_2(rows, x.w, x.c, weights, range, to, ahead, part);
}

template <typename T>
void run(const Depthwise3x3& call) {
  const Map& out = call.out;
  parallel_for(call.threads, out.n * out.h, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t n = i / out.h, h = i % out.h;
      const int64_t below = call.stride * h + 3 + call.top;  // the first row that this row of outputs does not read
      const char* ahead =
          reinterpret_cast<const char*>(static_cast<const T*>(call.x.data) +
                                        (n * call.x.h + (below < call.x.h ? below : call.x.h)) * call.x.w * call.x.c);
      int64_t c = 0;
      for (; c + kVectors * kLanes <= out.c; c += kVectors * kLanes) row<kVectors, T>(call, n, h, c, ahead, Whole{});
      for (; c + kLanes <= out.c; c += kLanes) row<1, T>(call, n, h, c, ahead, Whole{});
      if (c < out.c) row<1, T>(call, n, h, c, ahead, Rest{static_cast<int>(out.c - c)});
    }
  });
}

}  // namespace

void depthwise3x3(const Depthwise3x3& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
