#include "cpu/kernels/level.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

SWIFTNET_INLINE Floats floats_of(Bytes bytes) {
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
}

// Three vectors at a time, in which the three means come round.
template <typename T>
void run(const ImageToMap& call) {
  const Map& out = call.out;
  Floats means[3] = {};
  for (int i = 0; i < 3 * kLanes; i++) means[i / kLanes][i % kLanes] = call.mean[i % 3];
  parallel_for(call.threads, out.h, [&](int64_t begin, int64_t end) {
    const uint8_t* from = call.image + begin * out.w * 3;
    T* to = static_cast<T*>(out.data) + begin * out.w * 3;
    const int64_t count = (end - begin) * out.w * 3;
    int64_t i = 0;
    for (; i + 3 * kLanes <= count; i += 3 * kLanes)
      for (int v = 0; v < 3; v++) {
        Bytes bytes;
        std::memcpy(&bytes, from + i + v * kLanes, kLanes);
        store(to + i + v * kLanes, floats_of(bytes) - means[v]);
      }
    for (; i < count; i++) put(to + i, from[i] - call.mean[i % 3]);
  });
}

}  // namespace

void image_to_map(const ImageToMap& call) { call.bf16 ? run<bfloat16>(call) : run<float>(call); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
