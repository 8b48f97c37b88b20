#include "../kernels/common/mma.cuh"
#include "probes.h"

namespace swiftnet {
namespace emulation {
namespace {

template <class T>
T narrow(float v);
template <>
__half narrow<__half>(float v) {
  return __float2half(v);
}
template <>
__nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16(v);
}

// Two values as a register holds them.
template <class T>
uint32_t packed(float low, float high) {
  const T values[2] = {narrow<T>(low), narrow<T>(high)};
  uint32_t bits;
  memcpy(&bits, values, sizeof bits);
  return bits;
}

// For each warp A [16][16], B [16][8] and D [16][8] in, D + A·B out, by the documented places of a lane's values.
template <class T>
__global__ void product(const float* in, float* out, int) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const float *A = in + warp * 512, *B = A + 256, *D = B + 128;
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; i++) {
    const float* const at = A + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    a[i] = packed<T>(at[0], at[1]);
    d[i] = D[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  }
  for (int i = 0; i < 2; i++) b[i] = packed<T>(B[(2 * t + i * 8) * 8 + g], B[(2 * t + 1 + i * 8) * 8 + g]);
  mma_16x8x16<T>(d, a, b);
  for (int i = 0; i < 4; i++) out[warp * 128 + (g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

// 256 numbers through shared memory as four matrices [8][8]; out are each lane's two values of each.
template <int kMatrices, bool kTransposed>
__global__ void matrices(const float* in, float* out, int) {
  __align__(16) __shared__ unsigned bits[128];  // shared memory takes no constructors
  __half* const values = reinterpret_cast<__half*>(bits);
  for (int i = threadIdx.x; i < 256; i += kThreads) values[i] = __float2half(in[i]);
  __syncthreads();
  uint32_t registers[kMatrices];
  load_matrices<kMatrices, kTransposed>(registers, values + threadIdx.x % (8 * kMatrices) * 8);
  for (int m = 0; m < kMatrices; m++) {
    __half two[2];
    memcpy(two, &registers[m], sizeof two);
    out[(threadIdx.x * kMatrices + m) * 2] = __half2float(two[0]);
    out[(threadIdx.x * kMatrices + m) * 2 + 1] = __half2float(two[1]);
  }
}

}  // namespace

std::vector<Probe> tensor_core_probes() {
  return {
      {"product_half", product<__half>, 1},  {"product_bfloat16", product<__nv_bfloat16>, 1},
      {"matrices_4", matrices<4, false>, 1}, {"matrices_4_transposed", matrices<4, true>, 1},
      {"matrices_2", matrices<2, false>, 1}, {"matrices_2_transposed", matrices<2, true>, 1},
  };
}

}  // namespace emulation
}  // namespace swiftnet
