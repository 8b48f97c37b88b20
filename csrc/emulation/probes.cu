#include "probes.h"

#include <iterator>
#include <stdexcept>

#include "../kernels/common/mma.cuh"

namespace swiftnet {
namespace emulation {
namespace {

// Right: each reads its neighbour's value after a barrier.
__global__ void neighbour(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x, first = blockIdx.x * kThreads;
  values[t] = in[first + t];
  __syncthreads();
  out[first + t] = values[(t + 1) % kThreads];
}

__global__ void neighbour_without_barrier(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  out[t] = values[(t + kThreads / 2) % kThreads];
}

__global__ void read_then_overwritten(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  __syncthreads();
  const float v = values[(t + 32) % kThreads];
  values[t] = v + 1.f;
  __syncthreads();
  out[t] = values[t];
}

// All threads read one value, so the write after it conflicts with readers other than the last.
__global__ void read_by_all_then_overwritten(const float* in, float* out, int) {
  __shared__ float value[1];
  const int t = threadIdx.x;
  if (t == 0) value[0] = in[0];
  __syncthreads();
  out[t] = value[0];
  if (t == kThreads - 1) value[0] = 2.f;
}

__global__ void two_writes(const float* in, float* out, int) {
  __shared__ float value[1];
  value[0] = in[0];
  __syncthreads();
  out[threadIdx.x] = value[0];
}

__global__ void uninitialised(const float* in, float* out, int) {
  __shared__ float values[kThreads + 1];
  const int t = threadIdx.x;
  values[t] = in[t];
  __syncthreads();
  out[t] = values[t + 1];
}

// Right: lanes of a warp, ordered by a barrier of the warp.
__global__ void lanes_with_barrier(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  __syncwarp();
  const float v = values[t ^ 1];
  __syncwarp();
  values[t] = v;
  out[t] = v;
}

// Right: the neighbour's read is before the warp's barrier, so a lane may read again and write.
__global__ void lanes_read_again(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  __syncwarp();
  const float v = values[t & ~1];
  __syncwarp();
  if (t % 2 == 0) values[t] += v;
  out[t] = v;
}

__global__ void lanes_without_barrier(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  out[t] = values[t ^ 1];
}

// A shuffle brings lanes together, but orders no memory.
__global__ void lanes_with_shuffle(const float* in, float* out, int) {
  __shared__ float values[kThreads];
  const int t = threadIdx.x;
  values[t] = in[t];
  const float zero = __shfl_xor_sync(0xffffffffu, 0.f, 1);
  out[t] = values[t ^ 1] + zero;
}

__global__ void blocks_write_one_element(const float* in, float* out, int) {
  if (threadIdx.x == 0) out[0] = in[blockIdx.x];
}

__global__ void blocks_read_each_other(const float* in, float* out, int) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  out[i] = in[i];
  if (blockIdx.x == 1) out[i] += out[0];
}

__global__ void blocks_overwrite_what_was_read(const float* in, float* out, int) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const float v = out[0];
  out[i + 1] = v + in[i];
  if (blockIdx.x == 1 && threadIdx.x == 0) out[0] = 1.f;
}

// Right: neighbouring bytes, also of one word, belong to different threads.
__global__ void bytes(const float* in, float* out, int) {
  const int t = threadIdx.x;
  reinterpret_cast<unsigned char*>(out)[t] = static_cast<unsigned char>(in[t]);
}

__global__ void barrier_in_one_branch(const float* in, float* out, int) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void barriers_in_both_branches(const float* in, float* out, int) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void barrier_against_shuffle(const float* in, float* out, int) {
  float v = in[threadIdx.x];
  if (threadIdx.x % 2)
    __syncthreads();
  else
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}

// Right: a sum by shuffles, by all lanes and by groups of eight.
__global__ void sums(const float* in, float* out, int) {
  const int t = threadIdx.x;
  float all = in[t], group = in[t];
  for (int distance = 16; distance > 0; distance /= 2) all += __shfl_xor_sync(0xffffffffu, all, distance);
  for (int distance = 4; distance > 0; distance /= 2) group += __shfl_down_sync(0xffffffffu, group, distance, 8);
  out[t] = all + __shfl_sync(0xffffffffu, group, 0, 8);
}

// Right: only the lower half takes part, and its mask says so.
__global__ void half_warp(const float* in, float* out, int) {
  const int t = threadIdx.x;
  out[t] = t % 32 < 16 ? __shfl_xor_sync(0x0000ffffu, in[t], 8) : in[t];
}

// Right: a ballot of each whole warp, and of its lower half.
__global__ void ballots(const float* in, float* out, int) {
  const int t = threadIdx.x;
  const unsigned votes = __ballot_sync(0xffffffffu, in[t] > 0.f);
  unsigned half = 0;
  if (t % 32 < 16) half = __ballot_sync(0x0000ffffu, in[t] > 0.f);
  out[2 * t] = static_cast<float>(__popc(votes) * 100 + __ffs(votes));
  out[2 * t + 1] = static_cast<float>(half);
}

__global__ void mask_of_exited_lane(const float* in, float* out, int) {
  if (threadIdx.x % 32 == 31) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1);
}

__global__ void lane_outside_its_mask(const float* in, float* out, int) {
  out[threadIdx.x] = __shfl_xor_sync(0x7fffffffu, in[threadIdx.x], 1);
}

__global__ void source_outside_the_mask(const float* in, float* out, int) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, in[threadIdx.x], 16);
}

__global__ void different_shuffles(const float* in, float* out, int) {
  float v = in[threadIdx.x];
  if (threadIdx.x % 2)
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  else
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}

// A product by whole warps but for a lane that leaves, or that is not there.
template <bool kLeaves>
__global__ void product_of_zeros(const float*, float* out, int) {
  if (kLeaves && threadIdx.x == 40) return;
  uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  mma_16x8x16<__half>(d, a, b);
  out[threadIdx.x] = d[0];
}

// The sanitize build's: `out` has exactly kThreads elements.
__global__ void write_past_a_tensor(const float* in, float* out, int) { out[threadIdx.x + 1] = in[threadIdx.x]; }
__global__ void read_before_a_tensor(const float* in, float* out, int) {
  out[threadIdx.x] = in[static_cast<int>(threadIdx.x) - 1];
}
__global__ void past_static_shared(const float* in, float* out, int) {
  __shared__ float values[2][kThreads];
  const int t = threadIdx.x;
  values[0][t] = values[1][t] = in[t];
  __syncthreads();
  out[t] = values[0][t + 1];
}
__global__ void past_dynamic_shared(const float* in, float* out, int) {
  SWIFTNET_DYNAMIC_SHARED(float, values);
  values[threadIdx.x + 1] = in[threadIdx.x];
  out[threadIdx.x] = 0.f;
}
__global__ void misaligned_vector(const float* in, float* out, int count) {
  const int i = threadIdx.x * 4;
  if (i + 4 < count) reinterpret_cast<float4*>(out)[threadIdx.x] = *reinterpret_cast<const float4*>(in + i + 1);
}
__global__ void overflowing_index(const float* in, float* out, int count) {
  const int i = (count + static_cast<int>(threadIdx.x)) * 0x2000000;
  out[threadIdx.x] = in[0] + static_cast<float>(i);
}

// Sectors: a stride of 1, 2 and 8 floats; 8 is one float a sector.
template <int kStride>
__global__ void strided(const float* in, float* out, int count) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i * kStride < count) out[i] = in[i * kStride];
}

// a + b, a·b, fma(a, b, c) in fp16 of triples; then the same by half2.
__global__ void half_arithmetic(const float* in, float* out, int count) {
  const int i = (blockIdx.x * kThreads + threadIdx.x) * 3;
  if (i >= count) return;
  const __half a = __float2half(in[i]), b = __float2half(in[i + 1]), c = __float2half(in[i + 2]);
  out[i] = __half2float(__hadd(a, b));
  out[i + 1] = __half2float(__hmul(a, b));
  out[i + 2] = __half2float(__hfma(a, b, c));
  const __half2 x = __halves2half2(a, b), y = __halves2half2(b, a), z = __floats2half2_rn(in[i + 2], in[i + 2]);
  const float2 sum = __half22float2(__hadd2(x, y)), fma = __half22float2(__hfma2(x, y, z));
  const float2 product = __half22float2(__hmul2(x, y)), difference = __half22float2(__hsub2(x, x));
  const bool equal = sum.x == out[i] && product.y == out[i + 1] && fma.x == out[i + 2] && fma.x == fma.y;
  if (!isnan(out[i + 2]) && !isinf(in[i]) && (!equal || difference.x != 0.f)) out[i] = NAN;
}

// Each thread's four values by its own copy, of which every third writes zeros, and its neighbour's.
template <bool kWait, bool kBarrier>
__global__ void copies(const float* in, float* out, int) {
  __align__(16) __shared__ float values[4 * kThreads];
  const int t = threadIdx.x;
  copy_async(values + 4 * t, in + 4 * t, t % 3 > 0);
  commit_copies();
  if (kWait) wait_for_copies<0>();
  if (kBarrier) __syncthreads();
  for (int i = 0; i < 4; i++) out[4 * t + i] = values[(4 * t + i + 4) % (4 * kThreads)];
}

// Two groups, the first of which has been waited for when its own values are read: NaN where kGroups is too many.
template <int kGroups>
__global__ void groups(const float* in, float* out, int) {
  __align__(16) __shared__ float values[2][4 * kThreads];
  const int t = threadIdx.x;
  for (int i = 0; i < 2; i++) {
    copy_async(values[i] + 4 * t, in + 4 * t, true);
    commit_copies();
  }
  wait_for_copies<kGroups>();
  for (int i = 0; i < 4; i++) out[4 * t + i] = values[0][4 * t + i];
  wait_for_copies<0>();
}

// The next copies start while others may still read the last.
__global__ void copies_over_what_is_read(const float* in, float* out, int) {
  __align__(16) __shared__ float values[4 * kThreads];
  const int t = threadIdx.x;
  for (int round = 0; round < 2; round++) {
    copy_async(values + 4 * t, in + 4 * t, true);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    out[t] = values[(4 * t + 4) % (4 * kThreads)];
  }
}

#define SWIFTNET_PROBE(name, blocks) {#name, name, blocks}
constexpr int kMany = 0;  // as many blocks as there are elements for
const Probe kProbes[] = {
    SWIFTNET_PROBE(neighbour, 3),
    SWIFTNET_PROBE(neighbour_without_barrier, 1),
    SWIFTNET_PROBE(read_then_overwritten, 1),
    SWIFTNET_PROBE(read_by_all_then_overwritten, 1),
    SWIFTNET_PROBE(two_writes, 1),
    SWIFTNET_PROBE(uninitialised, 1),
    SWIFTNET_PROBE(lanes_with_barrier, 1),
    SWIFTNET_PROBE(lanes_read_again, 1),
    SWIFTNET_PROBE(lanes_without_barrier, 1),
    SWIFTNET_PROBE(lanes_with_shuffle, 1),
    SWIFTNET_PROBE(blocks_write_one_element, 2),
    SWIFTNET_PROBE(blocks_read_each_other, 2),
    SWIFTNET_PROBE(blocks_overwrite_what_was_read, 2),
    SWIFTNET_PROBE(bytes, 1),
    SWIFTNET_PROBE(barrier_in_one_branch, 1),
    SWIFTNET_PROBE(barriers_in_both_branches, 1),
    SWIFTNET_PROBE(barrier_against_shuffle, 1),
    SWIFTNET_PROBE(sums, 1),
    SWIFTNET_PROBE(half_warp, 1),
    SWIFTNET_PROBE(ballots, 1),
    SWIFTNET_PROBE(mask_of_exited_lane, 1),
    SWIFTNET_PROBE(lane_outside_its_mask, 1),
    SWIFTNET_PROBE(source_outside_the_mask, 1),
    SWIFTNET_PROBE(different_shuffles, 1),
    {"product_without_a_lane", product_of_zeros<true>, 1},
    {"product_of_half_a_warp", product_of_zeros<false>, 1, 48},
    SWIFTNET_PROBE(write_past_a_tensor, 1),
    SWIFTNET_PROBE(read_before_a_tensor, 1),
    SWIFTNET_PROBE(past_static_shared, 1),
    SWIFTNET_PROBE(past_dynamic_shared, 1),
    SWIFTNET_PROBE(misaligned_vector, 1),
    SWIFTNET_PROBE(overflowing_index, 1),
    SWIFTNET_PROBE(half_arithmetic, kMany),
    {"copies", copies<true, true>, 1},
    {"copies_without_barrier", copies<true, false>, 1},
    {"copies_not_awaited", copies<false, true>, 1},
    {"groups_awaited", groups<1>, 1},
    {"groups_not_awaited", groups<2>, 1},
    SWIFTNET_PROBE(copies_over_what_is_read, 1),
    {"strided_1", strided<1>, kMany},
    {"strided_2", strided<2>, kMany},
    {"strided_8", strided<8>, kMany},
};

std::vector<Probe> probes() {
  std::vector<Probe> all(std::begin(kProbes), std::end(kProbes));
  for (const Probe& probe : tensor_core_probes()) all.push_back(probe);
  return all;
}

}  // namespace

std::vector<std::string> probe_names() {
  std::vector<std::string> names;
  for (const Probe& probe : probes()) names.push_back(probe.name);
  return names;
}

void run_probe(const std::string& name, const float* in, float* out, int count) {
  for (const Probe& probe : probes()) {
    if (name != probe.name) continue;
    const int blocks = probe.blocks == kMany ? (count + kThreads - 1) / kThreads : probe.blocks;
    const auto kernel = probe.kernel;
    launch(probe.name, dim3(blocks), dim3(probe.threads), kThreads * sizeof(float), [&] { kernel(in, out, count); });
    return;
  }
  throw std::invalid_argument("probe: there is none of the name '" + name + "'");
}

}  // namespace emulation
}  // namespace swiftnet
