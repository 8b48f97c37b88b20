// Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A over tiles of n×n outputs, from (n+2)×(n+2) of the input (Lavin and Gray, CVPR 2016):
// 36 products for 16 outputs instead of 144, or 64 for 36 instead of 324.
//
//   V [points][tiles][C]   the transformed input of a group of tiles
//   M [points][tiles][block of outputs] = V · U, U [block of outputs][points][C][outputs] being the packed weight
//
// A thread takes a group through all steps, in its cache; where a weight is so large that too few tiles fit beside it,
// all threads transform one large group, and then share its blocks of outputs.
#include "cpu/kernels/winograd.h"

#include "cpu/kernels/channels.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/winograd_transform.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int64_t kCacheBytes = 448 * 1024, kSharedBytes = 4096 * 1024;  // for V
constexpr int64_t kFewTiles = 12, kMostTiles = 48;
constexpr int64_t kTilesAtOnce = 6;  // by blocks of the usual width

int64_t tiles_within(int64_t bytes, int points, int64_t channels) {
  const int64_t fitting = bytes / (points * channels * 4) / kTilesAtOnce * kTilesAtOnce;
  return fitting < kTilesAtOnce ? kTilesAtOnce : fitting < kMostTiles ? fitting : kMostTiles;
}

// From one point to the next: a cache line more than the tiles take, so that the points of a tile, which are made
// together, do not fall on the same places of the cache.
int64_t point_stride(int64_t tiles, int64_t width) { return tiles * width + 16; }

// How the tiles of a call are grouped, and what the groups take of the workspace, in floats.
struct Groups {
  Groups(const Conv2d& call, int points) {
    const int64_t channels = call.x.c;
    tiles = tiles_within(kCacheBytes, points, channels);
    shared = tiles < kFewTiles;
    if (shared) tiles = tiles_within(kSharedBytes, points, channels);
    v_stride = point_stride(tiles, channels);
    v = points * v_stride;
    m = points * point_stride(tiles, kBlock) + kMostPixels * kBlock;
  }
  int64_t floats(int threads) const { return shared ? v + threads * m : threads * (v + m); }

  int64_t tiles, v_stride, v, m;
  bool shared;
};

template <typename T, int kTile>
class Winograd {
  using Transform = Transforms<kTile>;
  static constexpr int kPatch = Transform::kPatch, kPoints = Transform::kPoints;

 public:
  explicit Winograd(const Conv2d& call)
      : call_(call), epilogue_(call), groups_(call, kPoints), channels_(call.x.c), v_stride_(groups_.v_stride) {
    rows_ = (call.x.h + kTile - 1) / kTile, columns_ = (call.x.w + kTile - 1) / kTile;
    tiles_ = call.x.n * rows_ * columns_;
  }

  void run() const {
    float* workspace = static_cast<float*>(call_.workspace);
    const int64_t groups = (tiles_ + groups_.tiles - 1) / groups_.tiles;
    if (!groups_.shared) {
      parallel_parts(call_.threads, groups, [&](int64_t part, int64_t begin, int64_t end) {
        float* v = workspace + part * (groups_.v + groups_.m);
        for (int64_t group = begin; group < end; group++) {
          transform(group, 0, count_of(group), v);
          multiply_blocks(group, 0, blocks(), v, v + groups_.v);
        }
      });
      return;
    }
    for (int64_t group = 0; group < groups; group++) {
      parallel_for(call_.threads, count_of(group),
                   [&](int64_t begin, int64_t end) { transform(group, begin, end, workspace); });
      parallel_parts(call_.threads, blocks(), [&](int64_t part, int64_t begin, int64_t end) {
        multiply_blocks(group, begin, end, workspace, workspace + groups_.v + part * groups_.m);
      });
    }
  }

 private:
  struct Place {
    int64_t n, y, x;
  };

  Place place(int64_t tile) const {
    return {tile / columns_ / rows_, tile / columns_ % rows_ * kTile, tile % columns_ * kTile};
  }
  int64_t count_of(int64_t group) const {
    const int64_t left = tiles_ - group * groups_.tiles;
    return left < groups_.tiles ? left : groups_.tiles;
  }
  int64_t blocks() const { return count_blocks(round_up(epilogue_.outputs(), kLanes) / kLanes); }

  void transform(int64_t group, int64_t begin, int64_t end, float* v) const {
    for (int64_t t = begin; t < end; t++) transform_tile(group * groups_.tiles + t, v + t * channels_);
  }

  void multiply_blocks(int64_t group, int64_t begin, int64_t end, const float* v, float* m) const {
    int64_t first = 0;
    for (int64_t block = 0, vectors; block < end; block++, first += vectors * kLanes) {
      vectors = next_block(epilogue_.outputs() - first);
      if (block < begin) continue;
      const float* packed = static_cast<const float*>(call_.packed) + kPoints * channels_ * first;
      for_vectors(static_cast<int>(vectors), [&](auto n) {
        multiply_block<decltype(n)::value>(group * groups_.tiles, count_of(group), first, packed, v, m);
      });
    }
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
#pragma GCC unroll 8
    for (int j = 0; j < kPatch; j++) {
      Floats column[kPatch];
#pragma GCC unroll 8
      for (int i = 0; i < kPatch; i++) column[i] = read(d[i][j]);
      Transform::input(column, rows[j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPatch; i++) {
      Floats row[kPatch], transformed[kPatch];
#pragma GCC unroll 8
      for (int j = 0; j < kPatch; j++) row[j] = rows[j][i];
      Transform::input(row, transformed);
#pragma GCC unroll 8
      for (int j = 0; j < kPatch; j++) store(v + (i * kPatch + j) * v_stride_, transformed[j], part);
    }
  }

  template <int N>
  void multiply_block(int64_t begin, int64_t count, int64_t first, const float* packed, const float* v,
                      float* m) const {
    constexpr int M = pixels_at_once(N), kWidth = N * kLanes;
    const int64_t m_stride = point_stride(groups_.tiles, kWidth);
    for (int point = 0; point < kPoints; point++) {
      const float* rows = v + point * v_stride_;
      for (int64_t t = 0; t < count; t += M) {
        const float* a[M];
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) a[i] = rows + (t + i < count ? t + i : t) * channels_;
        // the last tiles' surplus goes over what the next point writes, or the margin of M
        multiply_to<M, N>(a, packed + point * channels_ * kWidth, channels_, nullptr,
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
    Floats columns[kTile][N][kPatch];  // of Aᵀ M
    for (int n = 0; n < N; n++) {
#pragma GCC unroll 8
      for (int j = 0; j < kPatch; j++) {
        Floats column[kPatch], y[kTile];
#pragma GCC unroll 8
        for (int i = 0; i < kPatch; i++)
          column[i] = load(m + (i * kPatch + j) * point_stride(groups_.tiles, N * kLanes) + n * kLanes);
        Transform::output(column, y);
#pragma GCC unroll 8
        for (int i = 0; i < kTile; i++) columns[i][n][j] = y[i];
      }
    }
    for (int i = 0; i < height; i++) {
      Floats y[N][kTile];
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) Transform::output(columns[i][n], y[n]);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; j++) {
        if (j >= width) break;
        Floats values[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) values[n] = y[n][j] + (y[n][j] - y[n][j]);  // NaN for Inf, which a ReLU would hide
        epilogue_.write(values, corner + i * call_.x.w + j, corners[i][j], first);
      }
    }
  }

  const Conv2d call_;
  const Epilogue<T> epilogue_;
  const Groups groups_;
  const int64_t channels_, v_stride_;
  int64_t rows_, columns_, tiles_;
};

template <int kTile>
void pack(const float* weight, int64_t outputs, int64_t channels, float* to) {
  constexpr int kPoints = Transforms<kTile>::kPoints;
  for (int64_t first = 0, width; first < outputs; first += width) {
    width = next_block(outputs - first) * kLanes;
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < width; i++) {
        double u[kPoints] = {};
        if (first + i < outputs) Transforms<kTile>::weight(weight + ((first + i) * channels + c) * 9, u);
        for (int point = 0; point < kPoints; point++)
          to[(point * channels + c) * width + i] = static_cast<float>(u[point]);
      }
    to += kPoints * channels * width;
  }
}

template <typename T>
void run(const Conv2d& call) {
  if (call.tile == 4) {
    Winograd<T, 4>(call).run();
  } else {
    Winograd<T, 6>(call).run();
  }
}

int points_of(int tile) { return (tile + 2) * (tile + 2); }

}  // namespace

int64_t winograd_packed_bytes(int tile, int64_t outputs, int64_t channels) {
  return round_up(outputs, kLanes) * channels * points_of(tile) * sizeof(float);
}

void pack_winograd(int tile, const float* weight, int64_t outputs, int64_t channels, void* packed) {
  if (tile == 4) {
    pack<4>(weight, outputs, channels, static_cast<float*>(packed));
  } else {
    pack<6>(weight, outputs, channels, static_cast<float*>(packed));
  }
}

int64_t winograd_workspace(const Conv2d& call) {
  return Groups(call, points_of(call.tile)).floats(call.threads) * sizeof(float);
}

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
