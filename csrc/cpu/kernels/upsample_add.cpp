#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/resize.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

enum class Source { kNone, kPixel, kBilinear };  // what a pixel takes of x

constexpr int64_t kChunk = 512;  // channels of a column that are kept
static_assert(kChunk % kLanes == 0, "whole vectors");

template <typename T>
struct Row {
  const T *upper, *lower, *skip;  // of x, and of the output's size
  T* out;
  float weight;  // of lower
};

// A column of x between the two rows.
template <typename T>
SWIFTNET_INLINE void resize_column(const Row<T>& row, int64_t at, int64_t channels, float* to) {
  for_channels(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    store(to + c, interpolate(load(row.upper + at + c, part), load(row.lower + at + c, part), row.weight));
  });
}

// `count` channels of a row, from `first` on. The columns of x are resized vertically once, and kept while pixels are
// between them.
template <typename T, Source kSource, bool kSkip, bool kAffine>
void make_chunk(const UpsampleAdd& call, const Row<T>& row, int64_t first, int64_t count) {
  const int64_t channels = call.out.c;
  const ResizeAxis axis(call.x.w, call.out.w, call.nearest);
  const Range range = range_of(call.relu ? Activation::kRelu : Activation::kNone);
  const float *scale = kAffine && call.scale ? call.scale + first : nullptr,
              *shift = kAffine && call.shift ? call.shift + first : nullptr;
  alignas(64) float columns[2][kChunk];
  float *left = columns[0], *right = columns[1];
  int64_t left_column = -1, right_column = -1;
  for (int64_t w = 0; w < call.out.w; w++) {
    const ResizeTap u = kSource == Source::kNone ? ResizeTap{0, 0, 0.f} : axis.tap(w);
    if (kSource == Source::kBilinear && (u.lower != left_column || u.upper != right_column)) {
      float* const old = left;
      left = right, right = old;
      if (u.lower != right_column) resize_column(row, u.lower * channels + first, count, left);
      resize_column(row, u.upper * channels + first, count, right);
      left_column = u.lower, right_column = u.upper;
    }
    const T *pixel = row.upper + u.lower * channels + first, *skip = row.skip + (kSkip ? w * channels + first : 0);
    T* out = row.out + w * channels + first;
    for_channels(count, [&](int64_t c, auto part) __attribute__((always_inline)) {
      Floats y = Floats{};
      if (kSource == Source::kPixel) y = load(pixel + c, part);
      if (kSource == Source::kBilinear) y = interpolate(load(left + c), load(right + c), u.weight);
      if (kSkip) y = kSource == Source::kNone ? load(skip + c, part) : y + load(skip + c, part);
      if (kAffine && scale) y *= load(scale + c, part);
      if (kAffine && shift) y += load(shift + c, part);
      store(out + c, clamp(y, range), part);
    });
  }
}

// Row h of image n.
template <typename T, Source kSource, bool kSkip, bool kAffine>
void make_row(const UpsampleAdd& call, int64_t n, int64_t h) {
  const Map &x = call.x, &out = call.out;
  const int64_t channels = out.c, begin = (n * out.h + h) * out.w * channels;
  Row<T> row{};
  if (kSource != Source::kNone) {
    const ResizeTap v = ResizeAxis(x.h, out.h, call.nearest).tap(h);
    const T* image = static_cast<const T*>(x.data) + n * x.h * x.w * channels;
    row.upper = image + v.lower * x.w * channels;
    row.lower = image + v.upper * x.w * channels;
    row.weight = v.weight;
  }
  if (kSkip) row.skip = static_cast<const T*>(call.skip.data) + begin;
  row.out = static_cast<T*>(out.data) + begin;
  for (int64_t c = 0; c < channels; c += kChunk)
    make_chunk<T, kSource, kSkip, kAffine>(call, row, c, channels - c < kChunk ? channels - c : kChunk);
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
