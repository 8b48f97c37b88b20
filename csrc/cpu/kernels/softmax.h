// The exponential and the softmax of vectors of pixels.
#pragma once
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// exp(x) for x <= 0, within 1.2e-7 of it; 0 below -87, where it would soon be subnormal, and of -inf; NaN of NaN.
// exp(x) = 2^n · exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. The polynomial's error is below 4e-9 there.
SWIFTNET_INLINE Floats exponential(Floats x) {
  const Floats rounder = broadcast(12582912.f);  // 1.5 · 2^23: what is added to it is rounded to an integer
  const Floats shifted = x * 1.44269504f + rounder, n = shifted - rounder;
  Floats r = x - n * 0.693359375f;  // exact: the constant has 9 bits
  r = r - n * -2.12194440e-4f;
  Floats p = broadcast(1.3814541e-3f);
  p = p * r + 8.3687451e-3f;
  p = p * r + 4.1668391e-2f;
  p = p * r + 1.6666520e-1f;
  p = p * r + 4.9999993e-1f;
  p = p * (r * r) + r + 1.f;
  const Floats power = as_floats((as_words(shifted) + 127u) << 23);
  return x < -87.f ? Floats{} : p * power;
}

// In place: values [classes][stride] of kLanes pixels each. NaN where torch.softmax gives NaN: a NaN, an infinite
// largest value, or nothing but -inf.
SWIFTNET_INLINE void softmax(float* values, int64_t classes, int64_t stride) {
  Floats largest = load(values), sum = {};
  for (int64_t c = 1; c < classes; c++) largest = maximum(load(values + c * stride), largest);
  for (int64_t c = 0; c < classes; c++) {
    const Floats e = exponential(load(values + c * stride) - largest);
    store(values + c * stride, e);
    sum += e;
  }
  const Floats scale = 1.f / sum;
  for (int64_t c = 0; c < classes; c++) store(values + c * stride, load(values + c * stride) * scale);
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
