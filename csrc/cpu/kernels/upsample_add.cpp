#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/resize.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

enum class Source { kNone, kPixel, kBilinear };  // what a pixel takes of x

template <typename T>
struct Row {
  const T *upper, *lower, *skip;  // of x, and of the output's size
  T* out;
  float weight;       // of lower
  const char* ahead;  // the skip connection's next row
};

// kCount vectors of channels of a row. The columns of x between which it interpolates are resized vertically once, and
// kept while it stays between them.
template <typename T, Source kSource, bool kSkip, bool kAffine, int kCount, typename Part>
SWIFTNET_INLINE void block(const UpsampleAdd& call, Row<T>& row, int64_t c, Part part) {
  const int64_t channels = call.out.c, width = call.out.w;
  const ResizeAxis axis(call.x.w, width, call.nearest);
  const Range range = range_of(call.relu ? Activation::kRelu : Activation::kNone);
  Floats scale[kCount], shift[kCount], left[kCount], right[kCount];
  int64_t column = -2;  // that of left; right is the next one
  for (int i = 0; i < kCount; i++) {
    const int64_t at = c + i * kLanes;
    scale[i] = kAffine && call.scale ? load(call.scale + at, part) : broadcast(1.f);
    shift[i] = kAffine && call.shift ? load(call.shift + at, part) : Floats{};
    left[i] = right[i] = Floats{};
  }
  const auto resize_column = [&](int64_t w, Floats(&to)[kCount]) __attribute__((always_inline)) {
    for (int i = 0; i < kCount; i++) {
      const int64_t at = w * channels + c + i * kLanes;
      to[i] = interpolate(load(row.upper + at, part), load(row.lower + at, part), row.weight);
    }
  };
  for (int64_t w = 0; w < width; w++) {
    const ResizeTap u = kSource == Source::kNone ? ResizeTap{0, 0, 0.f} : axis.tap(w);
    if (kSource == Source::kBilinear && u.lower != column) {
      if (u.lower == column + 1)
        for (int i = 0; i < kCount; i++) left[i] = right[i];
      else
        resize_column(u.lower, left);
      resize_column(u.upper, right);
      column = u.lower;
    }
    for (int i = 0; i < kCount; i++) {
      const int64_t at = w * channels + c + i * kLanes;
      Floats y = Floats{};
      if (kSource == Source::kPixel) y = load(row.upper + u.lower * channels + c + i * kLanes, part);
      if (kSource == Source::kBilinear) y = interpolate(left[i], right[i], u.weight);
      if (kSkip) y = kSource == Source::kNone ? load(row.skip + at, part) : y + load(row.skip + at, part);
      if (kAffine) y = scale[i] * y + shift[i];
      store(row.out + at, clamp(y, range), part);
    }
    if (kSkip) ask_for<kCount * kLanes * sizeof(T)>(row.ahead);
  }
}

// Row h of image n.
template <typename T, Source kSource, bool kSkip, bool kAffine>
void make_row(const UpsampleAdd& call, int64_t n, int64_t h) {
  const Map &x = call.x, &out = call.out;
  const int64_t channels = out.c, pitch = out.w * channels, begin = (n * out.h + h) * pitch;
  Row<T> row{};
  if (kSource != Source::kNone) {
    const ResizeTap v = ResizeAxis(x.h, out.h, call.nearest).tap(h);
    const T* image = static_cast<const T*>(x.data) + n * x.h * x.w * channels;
    row.upper = image + v.lower * x.w * channels;
    row.lower = image + v.upper * x.w * channels;
    row.weight = v.weight;
  }
  if (kSkip) row.skip = static_cast<const T*>(call.skip.data) + begin;
  row.ahead = reinterpret_cast<const char*>(row.skip + (kSkip && begin + pitch < out.n * out.h * pitch ? pitch : 0));
  row.out = static_cast<T*>(out.data) + begin;
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) block<T, kSource, kSkip, kAffine, 4>(call, row, c, Whole{});
  for (; c + kLanes <= channels; c += kLanes) block<T, kSource, kSkip, kAffine, 1>(call, row, c, Whole{});
  if (c < channels) block<T, kSource, kSkip, kAffine, 1>(call, row, c, Rest{static_cast<int>(channels - c)});
}

template <typename T, Source kSource, bool kSkip, bool kAffine>
void rows(const UpsampleAdd& call) {
  parallel_for(call.threads, call.out.n * call.out.h, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) make_row<T, kSource, kSkip, kAffine>(call, i / call.out.h, i % call.out.h);
  });
}

template <typename T, Source kSource>
void run(const UpsampleAdd& call) {
  const bool affine = call.scale || call.shift;
  if (call.skip.data == nullptr)
    affine ? rows<T, kSource, false, true>(call) : rows<T, kSource, false, false>(call);
  else
    affine ? rows<T, kSource, true, true>(call) : rows<T, kSource, true, false>(call);
}

template <typename T>
void run(const UpsampleAdd& call) {
  const bool same_size = call.x.h == call.out.h && call.x.w == call.out.w;
  if (call.x.data == nullptr)
    run<T, Source::kNone>(call);
  else if (call.nearest || same_size)
    run<T, Source::kPixel>(call);
  else
    run<T, Source::kBilinear>(call);
}

}  // namespace

void upsample_add(const UpsampleAdd& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
