// Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A over tiles of 4×4 outputs, from 6×6 of the input (Lavin and Gray, CVPR 2016): 36
// products for 16 outputs instead of 144. The points 0, ±3/4, ±3/2 and ∞ keep the rounding errors at half of those of
// the usual 0, ±1, ±2 (Barabasz et al., 2018).
//
// A thread takes a group of tiles through all steps, in its cache:
//   V [36][tiles][C]   the transformed input
//   M [36][tiles][block of outputs] = V · U, U [block of outputs][36][C][outputs] being the packed weight
#include "cpu/kernels/winograd.h"

#include "cpu/kernels/channels.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/gemm.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int kTile = 4, kPatch = 6, kPoints = kPatch * kPatch;
constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
constexpr int64_t kCacheBytes = 448 * 1024;  // for V

int64_t tiles_of_group(int64_t channels) {
  const int64_t fitting = kCacheBytes / (kPoints * channels * 4) / kPixels * kPixels;
  return fitting < kPixels ? kPixels : fitting < 48 ? fitting : 48;
}

// From one point to the next: a cache line more than the tiles take, so that the points of a tile, which are made
// together, do not fall on the same places of the cache.
int64_t point_stride(int64_t tiles, int64_t width) { return tiles * width + 16; }

int64_t group_floats(const Conv2d& call) {
  const int64_t tiles = tiles_of_group(call.x.c);
  return kPoints * (point_stride(tiles, call.x.c) + point_stride(tiles, kBlock)) + kPixelsOfNarrow * kBlock;
}

// d ↦ Bᵀ d
SWIFTNET_INLINE void transform_input(const Floats (&d)[kPatch], Floats (&v)[kPatch]) {
  const Floats even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const Floats even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  v[0] = kA2 * kB2 * d[0] - (kA2 + kB2) * d[2] + d[4];
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_b + odd_b;
  v[4] = even_b - odd_b;
  v[5] = kA2 * kB2 * d[1] - (kA2 + kB2) * d[3] + d[5];
}

// m ↦ Aᵀ m
SWIFTNET_INLINE void transform_output(const Floats (&m)[kPatch], Floats (&y)[kTile]) {
  const Floats sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = kA * difference_a + kB * difference_b;
  y[2] = kA2 * sum_a + kB2 * sum_b;
  y[3] = kA * kA2 * difference_a + kB * kB2 * difference_b + m[5];
}

// G: row i of point p is (1, p, p²) / Π over the other points q of (p - q).
void transform_weight(const float* g, double (&u)[kPoints]) {
  constexpr double kP[5] = {0, kA, -kA, kB, -kB};
  double G[kPatch][3] = {};
  for (int i = 0; i < 5; i++) {
    double product = 1;
    for (int j = 0; j < 5; j++) product *= i == j ? 1 : kP[i] - kP[j];
    G[i][0] = 1 / product, G[i][1] = kP[i] / product, G[i][2] = kP[i] * kP[i] / product;
  }
  G[5][2] = 1;
  for (int i = 0; i < kPatch; i++)
    for (int j = 0; j < kPatch; j++) {
      double sum = 0;
      for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) sum += G[i][a] * g[a * 3 + b] * G[j][b];
      u[i * kPatch + j] = sum;
    }
}

template <typename T>
class Winograd {
 public:
  explicit Winograd(const Conv2d& call)
      : call_(call),
        epilogue_(call),
        channels_(call.x.c),
        group_(tiles_of_group(call.x.c)),
        v_stride_(point_stride(group_, channels_)) {
    rows_ = (call.x.h + kTile - 1) / kTile, columns_ = (call.x.w + kTile - 1) / kTile;
    tiles_ = call.x.n * rows_ * columns_;
  }

  int64_t groups() const { return (tiles_ + group_ - 1) / group_; }

  void operator()(int64_t group, float* v) const {
    const int64_t begin = group * group_, count = tiles_ - begin < group_ ? tiles_ - begin : group_;
    float* m = v + kPoints * v_stride_;
    for (int64_t t = 0; t < count; t++) transform_tile(begin + t, v + t * channels_);
    const float* packed = static_cast<const float*>(call_.packed);
    for (int64_t first = 0, vectors; first < epilogue_.outputs(); first += vectors * kLanes) {
      vectors = next_block(epilogue_.outputs() - first);
      for_vectors(static_cast<int>(vectors),
                  [&](auto n) { block<decltype(n)::value>(begin, count, first, packed, v, m); });
      packed += kPoints * channels_ * vectors * kLanes;
    }
  }

 private:
  struct Place {
    int64_t n, y, x;
  };

  Place place(int64_t tile) const {
    return {tile / columns_ / rows_, tile / columns_ % rows_ * kTile, tile % columns_ * kTile};
  }

  // One tile of V: v points to its first channel at the first point.
  void transform_tile(int64_t tile, float* v) const {
    const Place at = place(tile);
    const Map& x = call_.x;
    const T* image = static_cast<const T*>(x.data) + at.n * x.h * x.w * channels_;
    const T* d[kPatch][kPatch];  // nullptr: outside, 0
    bool inside = true;
    for (int i = 0; i < kPatch; i++)
      for (int j = 0; j < kPatch; j++) {
        const int64_t row = at.y - 1 + i, column = at.x - 1 + j;
        const bool outside = row < 0 || row >= x.h || column < 0 || column >= x.w;
        d[i][j] = outside ? nullptr : image + (row * x.w + column) * channels_;
        inside &= !outside;
      }
    for_channels(channels_, [&](int64_t c, auto part) __attribute__((always_inline)) {
      if (inside)
        transform_channels([&](const T* p) { return load(p + c, part); }, d, v + c, part);
      else
        transform_channels([&](const T* p) { return p ? load(p + c, part) : Floats{}; }, d, v + c, part);
    });
  }

  template <typename Read, typename Part>
  SWIFTNET_INLINE void transform_channels(const Read& read, const T* const (&d)[kPatch][kPatch], float* v,
                                          Part part) const {
    Floats rows[kPatch][kPatch];  // of Bᵀ d, by columns
#pragma GCC unroll 6
    for (int j = 0; j < kPatch; j++) {
      const Floats column[kPatch] = {read(d[0][j]), read(d[1][j]), read(d[2][j]),
                                     read(d[3][j]), read(d[4][j]), read(d[5][j])};
      transform_input(column, rows[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < kPatch; i++) {
      const Floats row[kPatch] = {rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i], rows[5][i]};
      Floats transformed[kPatch];
      transform_input(row, transformed);
#pragma GCC unroll 6
      for (int j = 0; j < kPatch; j++) store(v + (i * kPatch + j) * v_stride_, transformed[j], part);
    }
  }

  template <int N>
  void block(int64_t begin, int64_t count, int64_t first, const float* packed, const float* v, float* m) const {
    constexpr int M = pixels_at_once(N), kWidth = N * kLanes;
    const int64_t m_stride = point_stride(group_, kWidth);
    for (int point = 0; point < kPoints; point++) {
      const float* rows = v + point * v_stride_;
      for (int64_t t = 0; t < count; t += M) {
        const float* a[1][M];
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) a[0][i] = rows + (t + i < count ? t + i : t) * channels_;
        // the last tiles' surplus goes over what the next point writes, or the margin of M
        multiply_to<M, N>(a, packed + point * channels_ * kWidth, 1, channels_, nullptr,
                          m + point * m_stride + t * kWidth);
      }
    }
    for (int64_t t = 0; t < count; t++) write_tile<N>(begin + t, first, m + t * kWidth);
  }

  template <int N>
  void write_tile(int64_t tile, int64_t first, const float* m) const {
    const Place at = place(tile);
    const int height = static_cast<int>(call_.x.h - at.y < kTile ? call_.x.h - at.y : kTile);
    const int width = static_cast<int>(call_.x.w - at.x < kTile ? call_.x.w - at.x : kTile);
    const int64_t corner = (at.n * call_.x.h + at.y) * call_.x.w + at.x;
    Corners<T> corners[kTile][kTile];
    for (int i = 0; epilogue_.resizes() && i < height; i++)
      for (int j = 0; j < width; j++) corners[i][j] = epilogue_.corners(at.n, at.y + i, at.x + j);
    for (int n = 0; n < N; n++) {
      Floats columns[kTile][kPatch];  // of Aᵀ M
#pragma GCC unroll 6
      for (int j = 0; j < kPatch; j++) {
        Floats column[kPatch], y[kTile];
#pragma GCC unroll 6
        for (int i = 0; i < kPatch; i++)
          column[i] = load(m + (i * kPatch + j) * point_stride(group_, N * kLanes) + n * kLanes);
        transform_output(column, y);
#pragma GCC unroll 4
        for (int i = 0; i < kTile; i++) columns[i][j] = y[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < kTile; i++) {
        if (i >= height) break;
        Floats y[kTile];
        transform_output(columns[i], y);
#pragma GCC unroll 4
        for (int j = 0; j < kTile; j++) {
          if (j >= width) break;
          epilogue_.template write<1>({y[j]}, corner + i * call_.x.w + j, corners[i][j], first + n * kLanes);
        }
      }
    }
  }

  const Conv2d call_;
  const Epilogue<T> epilogue_;
  const int64_t channels_, group_, v_stride_;
  int64_t rows_, columns_, tiles_;
};

template <typename T>
void run(const Conv2d& call) {
  const Winograd<T> convolution(call);
  parallel_parts(call.threads, convolution.groups(), [&](int64_t part, int64_t begin, int64_t end) {
    float* v = static_cast<float*>(call.workspace) + part * group_floats(call);
    for (int64_t group = begin; group < end; group++) convolution(group, v);
  });
}

}  // namespace

int64_t winograd_packed_bytes(int64_t outputs, int64_t channels) {
  return round_up(outputs, kLanes) * channels * kPoints * sizeof(float);
}

void pack_winograd(const float* weight, int64_t outputs, int64_t channels, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t first = 0, width; first < outputs; first += width) {
    width = next_block(outputs - first) * kLanes;
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < width; i++) {
        double u[kPoints] = {};
        if (first + i < outputs) transform_weight(weight + ((first + i) * channels + c) * 9, u);
        for (int point = 0; point < kPoints; point++)
          to[(point * channels + c) * width + i] = static_cast<float>(u[point]);
      }
    to += kPoints * channels * width;
  }
}

int64_t winograd_workspace(const Conv2d& call) { return call.threads * group_floats(call) * sizeof(float); }

void winograd(const Conv2d& call) {
  if (call.bf16) {
    run<bfloat16>(call);
  } else {
    run<float>(call);
  }
}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
