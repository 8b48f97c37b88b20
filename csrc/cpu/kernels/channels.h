// Loops over a pixel's channels: whole vectors, and what is left of them.
#pragma once
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

struct Whole {};
struct Rest {
  int count;  // 0 < count < kLanes
};

template <typename T>
SWIFTNET_INLINE Floats load(const T* p, Whole) {
  return load(p);
}
template <typename T>
SWIFTNET_INLINE Floats load(const T* p, Rest rest) {
  return load_some(p, rest.count);
}
template <typename T>
SWIFTNET_INLINE void store(T* p, Floats values, Whole) {
  store(p, values);
}
template <typename T>
SWIFTNET_INLINE void store(T* p, Floats values, Rest rest) {
  store_some(p, values, rest.count);
}

// body(first channel, Whole or Rest)
template <typename Body>
SWIFTNET_INLINE void for_channels(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, Whole{});
  if (c < channels) body(c, Rest{static_cast<int>(channels - c)});
}

// Memory that is contiguous and soon to be read is asked for while a loop goes through other memory in strides:
// channels come in blocks.
template <int kBytes>
SWIFTNET_INLINE void ask_for(const char*& ahead) {
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(ahead + i);
  ahead += kBytes;
}

// An activation as the range that it leaves values in; NaN stays NaN.
struct Range {
  float lower, upper;
};

SWIFTNET_INLINE Range range_of(Activation activation) {
  return {activation == Activation::kNone ? -__builtin_inff() : 0.f,
          activation == Activation::kRelu6 ? 6.f : __builtin_inff()};
}

SWIFTNET_INLINE Floats clamp(Floats a, Range range) {
  return at_most(at_least(a, broadcast(range.lower)), broadcast(range.upper));
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
