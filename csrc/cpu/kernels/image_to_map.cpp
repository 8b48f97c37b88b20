#include "cpu/kernels/channels.h"
#include "cpu/kernels/level.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

template <typename T>
SWIFTNET_INLINE void pixel(const uint8_t* from, const float* mean, T* to, int64_t channels) {
  for_channels(channels, [&](int64_t c, auto part) __attribute__((always_inline)) {
    Floats y = Floats{};
    for (int i = 0; i < 3 && c == 0; i++) y[i] = from[i] - mean[i];
    store(to + c, y, part);
  });
}

SWIFTNET_INLINE Floats floats_of(Bytes bytes) {
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
}

// Pixels of three channels, three vectors at a time. Returns how many were made.
template <typename T>
SWIFTNET_INLINE int64_t pixels_of_3(const uint8_t* from, const float* mean, T* to, int64_t count) {
  Floats means[3] = {};
  for (int i = 0; i < 3 * kLanes; i++) means[i / kLanes][i % kLanes] = mean[i % 3];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int v = 0; v < 3; v++) {
      Bytes bytes;
      std::memcpy(&bytes, from + i * 3 + v * kLanes, kLanes);
      store(to + i * 3 + v * kLanes, floats_of(bytes) - means[v]);
    }
  }
  return i;
}

// Pixels of four channels: a vector of bytes, of which three quarters are pixels, is spread out. Returns how many were
// made; what follows the last ones is read too, so these are left.
template <typename T>
SWIFTNET_INLINE int64_t pixels_of_4(const uint8_t* from, const float* mean, T* to, int64_t count) {
  constexpr int kPixels = kLanes / 4;
  Bytes spread = {};
  Floats means = {};
  for (int i = 0; i < kLanes; i++) {
    spread[i] = i % 4 < 3 ? i / 4 * 3 + i % 4 : kLanes;  // from the second vector, zeros
    means[i] = i % 4 < 3 ? mean[i % 4] : 0.f;
  }
  int64_t i = 0;
  for (; (i * 3 + kLanes) <= count * 3; i += kPixels) {
    Bytes bytes;
    std::memcpy(&bytes, from + i * 3, kLanes);
    const Bytes four = __builtin_shuffle(bytes, Bytes{}, spread);
    store(to + i * 4, floats_of(four) - means);
  }
  return i;
}

template <typename T>
void run(const ImageToMap& call) {
  const Map& out = call.out;
  parallel_for(call.threads, out.h, [&](int64_t begin, int64_t end) {
    const uint8_t* from = call.image + begin * out.w * 3;
    T* to = static_cast<T*>(out.data) + begin * out.w * out.c;
    const int64_t count = (end - begin) * out.w;
    int64_t i = out.c == 4   ? pixels_of_4(from, call.mean, to, count)
                : out.c == 3 ? pixels_of_3(from, call.mean, to, count)
                             : 0;
    for (; i < count; i++) pixel(from + i * 3, call.mean, to + i * out.c, out.c);
  });
}

}  // namespace

void image_to_map(const ImageToMap& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
