// Rows of logit maps as multiscale_mean reads them: float, a plane [class][pitch] each, their softmax taken where it
// comes before resizing; and where along a row the result's columns lie.
#pragma once
#include "cpu/kernels.h"
#include "cpu/kernels/softmax.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

// What of a row's values bounds of their sums count with; a row with a larger or no number is bounded by nothing.
constexpr float kLargestBounded = 1e37f;

// Along one axis, (1 - weight)·in[lower] + weight·in[lower + 1], the last pixel repeated: PyTorch's
// align_corners=False, position = (i + 1/2)·in/out - 1/2 and at least 0, in exact arithmetic: position · 2·out is an
// integer.
struct Taps {
  int64_t in, out;
  int64_t lower = 0, rest = 0;  // floor(position), and (position - lower) · 2·out

  Taps(int64_t in, int64_t out, int64_t i) : in(in), out(out) {
    const int64_t position = in * (2 * i + 1) - out;
    if (position > 0) lower = position / (2 * out), rest = position % (2 * out);
  }
  int64_t upper() const { return in == out || lower + 1 == in ? lower : lower + 1; }
  float weight() const { return static_cast<float>(static_cast<double>(rest) / static_cast<double>(2 * out)); }
};

// Floats from one class to the next: the pixels, their last one again, and what vectors that begin at any of these
// read.
SWIFTNET_INLINE int64_t row_pitch(int64_t width) { return round_up(width, 16) + 16; }

#if defined(__AVX512F__)

// The interleaved halves of two vectors, low or high.
SWIFTNET_INLINE __m512 interleave(__m512 a, __m512 b, bool high) {
  const __m512i low_half = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, high ? _mm512_add_epi32(low_half, _mm512_set1_epi32(8)) : low_half, b);
}

// From pixels [16][classes] to planes [classes][pitch]: interleaving all vectors with those half of them away
// transposes them in four turns.
template <typename T>
SWIFTNET_INLINE void load_pixels(const T* from, int64_t classes, int64_t pitch, float* to) {
  for (int64_t c = 0; c < classes; c += 16) {
    const int count = static_cast<int>(classes - c < 16 ? classes - c : 16);
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = (__m512)load_some(from + i * classes + c, count);
    for (int turn = 0; turn < 4; turn += 2) {
      for (int i = 0; i < 8; i++)
        b[2 * i] = interleave(a[i], a[i + 8], false), b[2 * i + 1] = interleave(a[i], a[i + 8], true);
      for (int i = 0; i < 8; i++)
        a[2 * i] = interleave(b[i], b[i + 8], false), a[2 * i + 1] = interleave(b[i], b[i + 8], true);
    }
    for (int i = 0; i < 16; i++)
      if (i < count) _mm512_storeu_ps(to + (c + i) * pitch, a[i]);
  }
}

#else

template <typename T>
SWIFTNET_INLINE void load_pixels(const T* from, int64_t classes, int64_t pitch, float* to) {
  for (int64_t c = 0; c < classes; c++)
    for (int i = 0; i < kLanes; i++) to[c * pitch + i] = to_float(from[i * classes + c]);
}

#endif

// Row y of image n; returns its largest absolute value, infinity if one is not finite or above kLargestBounded.
template <typename T>
float stage_row(const LogitMap& map, int64_t n, int64_t y, int64_t classes, bool with_softmax, float* row) {
  const int64_t pitch = row_pitch(map.w), plane = map.h * map.w;
  const T* const from = static_cast<const T*>(map.data) +
                        (map.channels_last ? (n * map.h + y) * map.w * classes : n * classes * plane + y * map.w);
  Floats largest = {};
  for (int64_t x = 0; x < map.w; x += kLanes) {
    const int count = static_cast<int>(map.w - x < kLanes ? map.w - x : kLanes);
    float* const to = row + x;
    if (map.channels_last && count == kLanes) {
      load_pixels(from + x * classes, classes, pitch, to);
    } else if (map.channels_last) {
      for (int64_t c = 0; c < classes; c++) {
        store(to + c * pitch, Floats{});
        for (int i = 0; i < count; i++) to[c * pitch + i] = to_float(from[(x + i) * classes + c]);
      }
    } else {
      for (int64_t c = 0; c < classes; c++)
        store(to + c * pitch, count == kLanes ? load(from + c * plane + x) : load_some(from + c * plane + x, count));
    }
    if (with_softmax) softmax(to, classes, pitch);
    for (int64_t c = 0; c < classes; c++) {
      const Floats value = load(to + c * pitch), size = value < 0.f ? -value : value;
      largest = size <= kLargestBounded ? maximum(size, largest) : broadcast(__builtin_inff());
      if (with_softmax) break;  // one probability tells of a pixel whether all are numbers
    }
  }
  for (int64_t c = 0; c < classes; c++) row[c * pitch + map.w] = row[c * pitch + map.w - 1];
  float most = with_softmax ? 1.f : 0.f;
  for (int i = 0; i < kLanes; i++) most = largest[i] > most ? largest[i] : most;
  return most;
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
