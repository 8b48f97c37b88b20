// The decoder's whole block in one launch, for channels_last maps on tensor cores:
//
//   lateral[c] = lateral_bias[c] + Σ_t weight[c,t] · relu(scale[t] · tap[t] + shift[t])
//   y[c]       = relu(out_scale[c] · (lateral[c] + up(x)[c]) + out_shift[c])
//   sum        = conv3×3(y)
//
// A block of the tile of mma_tile.cuh first writes y for its halo to shared memory, all channels of it, and then
// multiplies these as conv3x3_mma.cuh does: y is made once and never leaves the multiprocessor.
//
// The lateral is a product as well, of 16 pixels of the halo by 64 channels a warp and pass. Its factors come from
// memory straight to registers, 16 bytes at a time: over which of 32 tap channels a lane sums, and which 16 of the
// channels c it ends, is free to choose, as long as both factors agree.
//
//   lane 4g + t   of the tap:    channels 8t … 8t+7 of pixels g and g+8
//                 of the weight: the same channels of row 16·(g / 2) + 2j + g % 2, for the j-th product of 8 columns
//                 of y:          channels 16t … 16t+15 of pixels g and g+8
#pragma once
#include "common/resize.cuh"
#include "conv3x3_mma.cuh"

namespace swiftnet {

constexpr int kHaloRows = MmaTile::kRows + 2, kHaloTaps = kHaloRows + MmaTile::kHaloColumns;  // a tap a row and column

struct BlendPass {
  static constexpr int kChannels = 64, kTapChannels = 32;    // of y; summed over at a time
  static constexpr int kTiles = (MmaTile::kHalo + 15) / 16;  // of 16 pixels
  static constexpr int kWarps = MmaTile::kThreads / 32, kOwn = (kTiles + kWarps - 1) / kWarps;  // tiles of a warp
};

template <class T>
struct Blend {
  Map<const T> tap, x;
  const T* lateral;  // [channels, tap.channels]
  int64_t lateral_stride;
  AffineRelu tap_affine;
  Parameter lateral_bias, out_scale, out_shift;
  bool nearest;

  __device__ int channels() const { return x.channels; }
  __device__ ResizeTap tap_of(int dst, int in, int out) const {
    return nearest ? resize_tap<Resize::kNearest>(dst, in, out) : bilinear_tap(dst, in, out);
  }
};

// Eight channels of x, resized to the tap's size, added to v.
template <class T>
__device__ inline void add_resized(const Blend<T>& blend, int n, int c, const ResizeTap& v, const ResizeTap& u,
                                   float (&y)[8]) {
  const Map<const T>& x = blend.x;
  const Vector8<T> first = load8(&x.at(n, c, v.lower, u.lower));
  if (blend.nearest || (x.height == blend.tap.height && x.width == blend.tap.width)) {
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] += to_float(first.v[i]);
    return;
  }
  const Vector8<T> right = load8(&x.at(n, c, v.lower, u.upper)), below = load8(&x.at(n, c, v.upper, u.lower)),
                   last = load8(&x.at(n, c, v.upper, u.upper));
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float upper = interpolate(to_float(first.v[i]), to_float(right.v[i]), u.weight);
    const float lower = interpolate(to_float(below.v[i]), to_float(last.v[i]), u.weight);
    y[i] += interpolate(upper, lower, v.weight);
  }
}

// A lane's pixel of the halo.
struct HaloPixel {
  int index, h, w;
  bool exists, inside;

  template <class T>
  __device__ HaloPixel(int tile_index, int own, const Tile& tile, const Map<T>& tap)
      : index(tile_index * 16 + own),
        h(tile.row + index / MmaTile::kHaloColumns - 1),
        w(tile.column + index % MmaTile::kHaloColumns - 1),
        exists(index < MmaTile::kHalo),
        inside(exists && h >= 0 && h < tap.height && w >= 0 && w < tap.width) {}
};

// relu(scale · tap + shift) of a lane's 8 tap channels, as pairs of T; zeros where the pixel or the channels end.
template <class T>
__device__ inline void activate_tap(const Blend<T>& blend, const HaloPixel& pixel, int n, int c, const float2* affine,
                                    uint32_t (&pairs)[4]) {
  const bool there = pixel.inside && c < blend.tap.channels;
  Vector8<T> v = {};
  if (there) v = load8(&blend.tap.at(n, c, pixel.h, pixel.w));
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float4 a = *reinterpret_cast<const float4*>(affine + (c < blend.tap.channels ? c : 0) + 2 * i);
    const float low = relu(fmaf(to_float(v.v[2 * i]), a.x, a.y)), high = relu(fmaf(to_float(v.v[2 * i + 1]), a.z, a.w));
    pairs[i] = there ? pack2<T>(low, high) : 0u;
  }
}

// y for the halo, [channels / 8][kPlane] vectors. `affine` holds the tap's scale and shift, (x, y), `taps` those of the
// halo's rows and after them of its columns.
template <class T>
__device__ inline void make_halo(const Blend<T>& blend, const Tile& tile, const float2* affine, const ResizeTap* taps,
                                 Vector* halo) {
  using Pass = BlendPass;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const int planes = 2 * static_cast<int>((blend.channels() + MmaTile::kChannels - 1) / MmaTile::kChannels);

#pragma unroll 1
  for (int first = 0; first < 8 * planes; first += Pass::kChannels) {
    float sums[Pass::kOwn][8][4];
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int c = first + 16 * t + 2 * j + i;
        const float bias = c < blend.channels() ? blend.lateral_bias[c] : 0.f;
#pragma unroll
        for (int own = 0; own < Pass::kOwn; own++) sums[own][j][i] = sums[own][j][i + 2] = bias;
      }

#pragma unroll 1
    for (int from = 0; from < blend.tap.channels; from += Pass::kTapChannels) {
      const int c = from + 8 * t;
      uint32_t a[Pass::kOwn][2][4];
#pragma unroll
      for (int own = 0; own < Pass::kOwn; own++)
#pragma unroll
        for (int below = 0; below < 2; below++) {
          const HaloPixel pixel(warp + own * Pass::kWarps, g + 8 * below, tile, blend.tap);
          activate_tap(blend, pixel, tile.n, c, affine, a[own][below]);
        }
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int k = first + 16 * (g / 2) + 2 * j + g % 2;
        Vector8<T> row = {};
        if (k < blend.channels() && c < blend.tap.channels) row = load8(blend.lateral + k * blend.lateral_stride + c);
        uint32_t b[4];
        memcpy(b, &row, sizeof b);
#pragma unroll
        for (int own = 0; own < Pass::kOwn; own++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const uint32_t left[4] = {a[own][0][2 * half], a[own][1][2 * half], a[own][0][2 * half + 1],
                                      a[own][1][2 * half + 1]};
            const uint32_t right[2] = {b[2 * half], b[2 * half + 1]};
            mma_16x8x16<T>(sums[own][j], left, right);
          }
      }
    }

    float out_scale[16], out_shift[16];  // of the lane's channels
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int c = first + 16 * t + i;
      out_scale[i] = c < blend.channels() ? blend.out_scale[c] : 0.f;
      out_shift[i] = c < blend.channels() ? blend.out_shift[c] : 0.f;
    }
#pragma unroll
    for (int own = 0; own < Pass::kOwn; own++)
#pragma unroll
      for (int below = 0; below < 2; below++) {
        const HaloPixel pixel(warp + own * Pass::kWarps, g + 8 * below, tile, blend.tap);
        if (!pixel.exists) continue;
        const ResizeTap v = taps[pixel.h - tile.row + 1];
        const ResizeTap u = taps[kHaloRows + pixel.w - tile.column + 1];
#pragma unroll
        for (int eight = 0; eight < 2; eight++) {
          const int c = first + 16 * t + 8 * eight;
          if (c / 8 >= planes) continue;
          Vector bits = {0.f, 0.f, 0.f, 0.f};
          if (pixel.inside && c < blend.channels()) {
            float y[8];
#pragma unroll
            for (int i = 0; i < 8; i++) y[i] = sums[own][4 * eight + i / 2][2 * below + i % 2];
            add_resized(blend, tile.n, c, v, u, y);
            Vector8<T> packed;
#pragma unroll
            for (int i = 0; i < 8; i++)
              packed.v[i] = from_float<T>(relu(fmaf(y[i], out_scale[8 * eight + i], out_shift[8 * eight + i])));
            memcpy(&bits, &packed, sizeof bits);
          }
          halo[c / 8 * MmaTile::kPlane + pixel.index] = bits;
        }
      }
  }
}

// The halo that has been made: all slices stay.
struct ResidentHalo {
  __device__ const Vector* slice(const Vector* halos, int slice) const { return halos + slice * MmaTile::kSlice; }
  __device__ void load(int, Vector*) const {}
};

template <class T, class Traits, class Epilogue>
__global__ void __launch_bounds__(Traits::kThreads, 1) upsample_blend_kernel(Blend<T> blend, const Vector* packed,
                                                                             int64_t group_vectors, int groups,
                                                                             Epilogue epilogue, Tiling tiling) {
  if (!tensor_cores_take<T>()) return;
  SWIFTNET_DYNAMIC_SHARED(Vector, shared);
  const int slices = (blend.channels() + Traits::kChannels - 1) / Traits::kChannels;
  Vector* const stages = shared + slices * Traits::kSlice;
  float2* const affine = reinterpret_cast<float2*>(stages + Traits::kStages * Traits::kStage);  // [tap channels]
  __shared__ ResizeTap taps[kHaloTaps];
  const Tile tile = tiling.tile(blockIdx.x);
  MmaWeights<Traits> weights(packed, group_vectors, groups, tile.channel);
  start_weights(weights, stages);
  for (int i = static_cast<int>(threadIdx.x); i < kHaloTaps; i += Traits::kThreads)
    taps[i] = i < kHaloRows ? blend.tap_of(tile.row + i - 1, blend.x.height, blend.tap.height)
                            : blend.tap_of(tile.column + i - kHaloRows - 1, blend.x.width, blend.tap.width);
  for (int c = static_cast<int>(threadIdx.x); c < blend.tap.channels; c += Traits::kThreads)
    affine[c] = {blend.tap_affine.scale[c], blend.tap_affine.shift[c]};
  __syncthreads();
  make_halo(blend, tile, affine, taps, shared);
  float sums[4][Traits::kTiles][4];
  multiply_slices<T, Traits>(ResidentHalo{}, shared, weights, stages, slices, sums);
  epilogue.template finish<Traits>(sums, tile, reinterpret_cast<float*>(shared));
}

// Dynamic shared memory of a block with this many channels of y and of the tap.
template <class Traits, class Epilogue>
size_t blend_shared_bytes(int64_t channels, int64_t tap_channels) {
  return mma_shared_bytes<Traits, Epilogue>(mma_slices(channels)) + tap_channels * sizeof(float2);
}

}  // namespace swiftnet
