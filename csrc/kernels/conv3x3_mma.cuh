// The 3×3 convolution of channels_last maps on tensor cores, stride 1, zero padding 1, with fp32 sums:
//
//   sum[pixel,k] = Σ_tap Σ_c x[pixel + tap, c] · weight[k, c, tap]
//
// One block of 8 warps makes 8×32 pixels of up to 128 outputs. A warp makes 2 rows of pixels of half of the outputs: 4
// by up to 8 products of 16 pixels × 8 outputs, the sums of which stay in its registers.
//
//        ┌─ 34 ─┐                                              ┌─ kOutputs ─┐
//     10 │ halo │ × [2][8 channels] of a slice of 16        16 │  weights   │ of a step of kTaps taps
//        └──────┘                                              └────────────┘
//
// In shared memory eight channels of a pixel, or of an output, are one vector of 16 bytes, and neighbouring pixels or
// outputs follow one another: a tap is a constant distance, and the eight vectors that a matrix of ldmatrix consists of
// lie in different banks. Weights are packed so once, [K / 32][slice][tap][2][32][8], zeros where K and C end, and come
// by asynchronous copies two steps ahead.
#pragma once
#include "conv3x3.cuh"
#include "mma_epilogue.cuh"

namespace swiftnet {

// The packed weights of a block's outputs, a step at a time: a thread brings vectors of one output.
template <class Traits>
struct MmaWeights {
  static constexpr int kPlanes = Traits::kThreads / Traits::kOutputs;  // that all threads bring at a time
  static_assert(Traits::kThreads % Traits::kOutputs == 0, "one output a thread");

  const Vector* next;  // of the thread, in the next step
  bool there;

  // group_vectors: of the packed weights of kGroup outputs, of which there are `groups`.
  __device__ MmaWeights(const Vector* packed, int64_t group_vectors, int groups, int first_output) {
    const int thread = static_cast<int>(threadIdx.x), output = first_output + thread % Traits::kOutputs;
    const int group = output / Traits::kGroup;
    there = group < groups;
    next = packed;
    if (there) next += group * group_vectors + thread / Traits::kOutputs * Traits::kGroup + output % Traits::kGroup;
  }

  __device__ void load(Vector* stage) {
#pragma unroll
    for (int i = 0; i < (Traits::kStage + Traits::kThreads - 1) / Traits::kThreads; i++) {
      const int item = static_cast<int>(threadIdx.x) + i * Traits::kThreads;
      if (Traits::kStage % Traits::kThreads != 0 && item >= Traits::kStage) break;
      copy_async(stage + item, next + (there ? i * kPlanes * Traits::kGroup : 0), there);
    }
    if (there) next += Traits::kTaps * 2 * Traits::kGroup;
  }
};

// The halo of x, a slice at a time, in two buffers: one is multiplied while the other is filled.
template <class T, class Traits>
struct CopiedHalo {
  static constexpr int kItems = 2 * Traits::kHalo, kSlots = (kItems + Traits::kThreads - 1) / Traits::kThreads;

  const Map<const T>& x;
  const Tile& tile;

  __device__ const Vector* slice(const Vector* halos, int slice) const { return halos + slice % 2 * Traits::kSlice; }

  __device__ void load(int slice, Vector* halos) const {
    const int thread = static_cast<int>(opaque(threadIdx.x));  // addresses are found anew: they would take registers
#pragma unroll
    for (int slot = 0; slot < kSlots; slot++) {
      const int item = thread + slot * Traits::kThreads, pixel = item / 2;
      if (item >= kItems) break;
      const int h = tile.row + pixel / Traits::kHaloColumns - 1, w = tile.column + pixel % Traits::kHaloColumns - 1;
      const int channel = slice * Traits::kChannels + item % 2 * 8;
      const bool there = h >= 0 && h < x.height && w >= 0 && w < x.width && channel < x.channels;
      copy_async(halos + slice % 2 * Traits::kSlice + item % 2 * Traits::kPlane + pixel,
                 there ? &x.at(tile.n, channel, h, w) : x.data, there);
    }
  }
};

// One step: a tap's, or a row of taps', products of a slice's channels.
template <class T, class Traits>
__device__ inline void multiply_step(const Vector* halo, const Vector* weights, int step,
                                     float (&sums)[4][Traits::kTiles][4]) {
  const MmaWarp warp;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int r = step * Traits::kTaps / 3, first = step * Traits::kTaps % 3;
  // the vector whose address each lane gives: of pixel lane % 16, and of output lane % 8 or eight further
  const Vector* const pixels =
      halo + lane / 16 * Traits::kPlane + (warp.row + r) * Traits::kHaloColumns + first + lane % 16;
  const Vector* const outputs =
      weights + lane / 8 % 2 * Traits::kOutputs + warp.half * (Traits::kOutputs / 2) + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int tap = 0; tap < Traits::kTaps; tap++) {
    uint32_t a[4][4];
#pragma unroll
    for (int m = 0; m < 4; m++)
      load_matrices<4, false>(a[m], pixels + MmaWarp::row_of(m) * Traits::kHaloColumns + MmaWarp::column_of(m) + tap);
#pragma unroll
    for (int pair = 0; pair < Traits::kTiles / 2; pair++) {
      uint32_t b[4];
      load_matrices<4, false>(b, outputs + tap * 2 * Traits::kOutputs + pair * 16);
      const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < 4; m++) {
        mma_16x8x16<T>(sums[m][2 * pair], a[m], even);
        mma_16x8x16<T>(sums[m][2 * pair + 1], a[m], odd);
      }
    }
  }
}

// All steps of all slices. The first stages of weights are under way, each as a group of copies of its own.
template <class T, class Traits, class Halo>
__device__ inline void multiply_slices(const Halo& halo, Vector* halos, MmaWeights<Traits>& weights, Vector* stages,
                                       int slices, float (&sums)[4][Traits::kTiles][4]) {
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int j = 0; j < Traits::kTiles; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[m][j][i] = 0.f;

  int stage = 0, slice = 0, step = 0;  // of the slice
  const int steps = slices * Traits::kSteps;
#pragma unroll 1
  for (int q = 0; q < steps; q++) {
    wait_for_copies<Traits::kStages - 2>();
    __syncthreads();  // all copies of this step have arrived; the last step has been multiplied
    const int free = stage == 0 ? Traits::kStages - 1 : stage - 1;  // that of the last step
    if (q + Traits::kStages - 1 < steps) weights.load(stages + free * Traits::kStage);
    if (step == 0 && slice + 1 < slices) halo.load(slice + 1, halos);
    commit_copies();
    multiply_step<T, Traits>(halo.slice(halos, slice), stages + stage * Traits::kStage, step, sums);
    stage = stage == Traits::kStages - 1 ? 0 : stage + 1;
    if (++step == Traits::kSteps) step = 0, slice++;
  }
  wait_for_copies<0>();
  __syncthreads();  // the shared memory is free
}

// The first stages of weights, one group of copies each; what else has been started joins the first.
template <class Traits>
__device__ inline void start_weights(MmaWeights<Traits>& weights, Vector* stages) {
  static_assert(Traits::kStages - 1 <= Traits::kSteps, "every slice has as many steps");
#pragma unroll
  for (int q = 0; q < Traits::kStages - 1; q++) {
    weights.load(stages + q * Traits::kStage);
    commit_copies();
  }
}

// Of a block, with this many slices of its halo; the epilogue comes after the pipeline, in the same memory.
template <class Traits, class Epilogue>
constexpr size_t mma_shared_bytes(int64_t slices) {
  const size_t pipeline = (slices * Traits::kSlice + Traits::kStages * Traits::kStage) * sizeof(Vector);
  const size_t epilogue = Epilogue::template shared_bytes<Traits>();
  return pipeline > epilogue ? pipeline : epilogue;
}

template <class T, class Traits, class Epilogue>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks) conv3x3_mma_kernel(
    Map<const T> x, const Vector* packed, int64_t group_vectors, int groups, Epilogue epilogue, Tiling tiling) {
  if (!tensor_cores_take<T>()) return;
  SWIFTNET_DYNAMIC_SHARED(Vector, shared);
  Vector* const stages = shared + 2 * Traits::kSlice;
  const Tile tile = tiling.tile(blockIdx.x);
  const int slices = (x.channels + Traits::kChannels - 1) / Traits::kChannels;
  const CopiedHalo<T, Traits> halo{x, tile};
  MmaWeights<Traits> weights(packed, group_vectors, groups, tile.channel);
  halo.load(0, shared);
  start_weights(weights, stages);
  float sums[4][Traits::kTiles][4];
  multiply_slices<T, Traits>(halo, shared, weights, stages, slices, sums);
  epilogue.template finish<Traits>(sums, tile, reinterpret_cast<float*>(shared));
}

inline int64_t mma_slices(int64_t channels) { return ceil_div(channels, MmaTile::kChannels); }
inline int64_t mma_group_vectors(int64_t channels) { return mma_slices(channels) * 9 * 2 * MmaTile::kGroup; }

// A thread packs one element: [K / 32][slice][tap][2][32][8].
template <class T>
__global__ void __launch_bounds__(256) pack_mma_kernel(Map<const T> weight, int outputs, int64_t slices, T* packed,
                                                       int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t vector = i / 8, slice = vector / (9 * 2 * MmaTile::kGroup) % slices;
  const int64_t k = vector / (slices * 9 * 2 * MmaTile::kGroup) * MmaTile::kGroup + vector % MmaTile::kGroup;
  const int plane = static_cast<int>(vector / MmaTile::kGroup % 2),
            tap = static_cast<int>(vector / (2 * MmaTile::kGroup) % 9);
  const int64_t c = slice * MmaTile::kChannels + plane * 8 + i % 8;
  const bool inside = k < outputs && c < weight.channels;
  packed[i] = from_float<T>(inside ? weight.load(static_cast<int>(k), static_cast<int>(c), tap / 3, tap % 3) : 0.f);
}

// How many outputs a block makes: as many as leave most multiprocessors a block, and no more than half of them in vain.
inline int mma_outputs(int64_t n, int64_t outputs, int64_t height, int64_t width) {
  const int64_t tiles = n * ceil_div(height, MmaTile::kRows) * ceil_div(width, MmaTile::kColumns);
  for (const int wide : {128, 64})
    if (outputs > wide / 2 && 4 * tiles * ceil_div(outputs, wide) >= 3 * multiprocessors()) return wide;
  return 32;
}

}  // namespace swiftnet
