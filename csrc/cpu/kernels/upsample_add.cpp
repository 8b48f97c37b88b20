#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/resize.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

enum class Source { kNone, kPixel, kBilinear };  // what a pixel takes of x

// out[h] of image n, a row of pixels.
template <typename T, Source kSource, bool kSkip, bool kAffine>
void row(const UpsampleAdd& call, int64_t n, int64_t h) {
  const Map &x = call.x, &out = call.out;
  const int64_t channels = out.c, begin = (n * out.h + h) * out.w * channels;
  const T* skip = kSkip ? static_cast<const T*>(call.skip.data) + begin : nullptr;
  T* to = static_cast<T*>(out.data) + begin;
  const ResizeTap v = kSource == Source::kNone ? ResizeTap{0, 0, 0.f} : resize_tap(call.nearest, h, x.h, out.h);
  const T* image = static_cast<const T*>(x.data) + n * x.h * x.w * channels;
  const T *upper_row = image + v.lower * x.w * channels, *lower_row = image + v.upper * x.w * channels;
  const Range range = range_of(call.relu ? Activation::kRelu : Activation::kNone);
  for (int64_t w = 0; w < out.w; w++) {
    const ResizeTap u = kSource == Source::kNone ? ResizeTap{0, 0, 0.f} : resize_tap(call.nearest, w, x.w, out.w);
    const T *upper_left = upper_row + u.lower * channels, *upper_right = upper_row + u.upper * channels;
    const T *lower_left = lower_row + u.lower * channels, *lower_right = lower_row + u.upper * channels;
    for_channels(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
      Floats y = Floats{};
      if (kSource == Source::kPixel) y = load(upper_left + c, part);
      if (kSource == Source::kBilinear) {
        const Floats upper = interpolate(load(upper_left + c, part), load(upper_right + c, part), u.weight);
        const Floats lower = interpolate(load(lower_left + c, part), load(lower_right + c, part), u.weight);
        y = interpolate(upper, lower, v.weight);
      }
      if (kSkip) y = kSource == Source::kNone ? load(skip + c, part) : y + load(skip + c, part);
      if (kAffine && call.scale) y *= load(call.scale + c, part);
      if (kAffine && call.shift) y += load(call.shift + c, part);
      store(to + c, clamp(y, range), part);
    });
    skip += kSkip ? channels : 0;
    to += channels;
  }
}

template <typename T, Source kSource, bool kSkip, bool kAffine>
void rows(const UpsampleAdd& call) {
  parallel_for(call.threads, call.out.n * call.out.h, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) row<T, kSource, kSkip, kAffine>(call, i / call.out.h, i % call.out.h);
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
