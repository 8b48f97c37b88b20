#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// as PyTorch's: NaN wins
SWIFTNET_INLINE Floats larger(Floats most, Floats value) {
  most = value > most ? value : most;
  return value == value ? most : value;
}

// A row of outputs for kVectors vectors of channels. An output shares its right column of three with the next one's
// left.
template <int kVectors, typename T, typename Part>
SWIFTNET_INLINE void row(const T* const (&rows)[3], int64_t width, int64_t step, T* out, int64_t out_width, Part part) {
  Floats left[kVectors];
  for (Floats& most : left) most = broadcast(-__builtin_inff());
  for (int64_t w = 0; w < out_width; w++) {
    for (int i = 0; i < kVectors; i++) {
      const int64_t middle = 2 * w * step + i * kLanes, right = middle + step;
      Floats most = left[i];
      for (const T* pixels : rows) most = larger(most, load(pixels + middle, part));
      if (2 * w + 1 < width) {
        Floats column = load(rows[0] + right, part);
        for (int r = 1; r < 3; r++) column = larger(column, load(rows[r] + right, part));
        most = larger(most, column);
        left[i] = column;
      }
      store(out + w * step + i * kLanes, most, part);
    }
  }
}

template <typename T>
void run(const MaxPool3x3& call) {
  const Map &x = call.x, &out = call.out;
  const int64_t channels = out.c, pitch = x.w * channels;
  parallel_for(call.threads, out.n * out.h, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t h = 2 * (i % out.h);
      const T* middle = static_cast<const T*>(x.data) + (i / out.h * x.h + h) * pitch;
      T* to = static_cast<T*>(out.data) + i * out.w * channels;
      int64_t c = 0;
      // a row beyond the border repeats the middle one, which changes no maximum
      const auto rows = [&](const T*(&pixels)[3]) {
        pixels[0] = middle + c - (h > 0 ? pitch : 0);
        pixels[1] = middle + c;
        pixels[2] = middle + c + (h + 1 < x.h ? pitch : 0);
      };
      const T* pixels[3];
      for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
        rows(pixels);
        row<4>(pixels, x.w, channels, to + c, out.w, Whole{});
      }
      for (; c + kLanes <= channels; c += kLanes) {
        rows(pixels);
        row<1>(pixels, x.w, channels, to + c, out.w, Whole{});
      }
      if (c == channels) continue;
      rows(pixels);
      row<1>(pixels, x.w, channels, to + c, out.w, Rest{static_cast<int>(channels - c)});
    }
  });
}

}  // namespace

void max_pool3x3(const MaxPool3x3& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
