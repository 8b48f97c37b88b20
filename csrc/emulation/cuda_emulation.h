// CUDA C++ on a CPU: what device code needs, so that g++ compiles the kernels' own source and a CPU runs it.
//
// A CUDA thread is a fiber; a barrier or a shuffle switches to the block's next fiber. Blocks run one after another and
// one launch runs at a time, so shared memory is static memory. docs/emulation.md says what is checked, and what not.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "emulation.h"
#include "fp16.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) alignas(n)

using std::isinf;
using std::isnan;
using std::max;
using std::min;

namespace swiftnet {
namespace emulation {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
unsigned lane_index();
void* dynamic_shared();

void block_barrier(const char* file, int line);
void warp_barrier(unsigned mask, const char* file, int line);
// What lane `source` of the running thread's warp offers; all lanes of the mask must call it.
uint64_t shuffle(uint64_t value, unsigned mask, unsigned source, const char* file, int line);

// What all lanes of the running thread's warp offer; all 32 must call it.
constexpr unsigned kExchangedWords = 6;
struct WarpWords {
  uint32_t words[32][kExchangedWords];
};
WarpWords exchange(const uint32_t (&words)[kExchangedWords], const char* file, int line);

// Tensor cores' instructions; all lanes of a warp must call them. D += A·B by the fragments of PTX's m16n8k16: products
// are exact, and added to D in fp32 in the order of k (the hardware's order and rounding are not specified).
void multiply_fragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const char* file,
                        int line);
// Lane 8·m + i offers row i of the m-th matrix of 8×8 halves; each lane gets two values of each matrix, as ldmatrix
// does.
void exchange_matrices(uint32_t* registers, unsigned count, bool transposed, const uint32_t (&row)[4], const char* file,
                       int line);

// Asynchronous copies of 16 bytes: they are made when the thread waits for their group.
struct PendingCopy {
  void* to;
  const void* from;  // nullptr: zeros
};
void start_copy(const PendingCopy& copy);
void end_group_of_copies();
bool next_copy(unsigned groups, PendingCopy& copy);

template <class T>
T shuffle_value(T value, unsigned mask, unsigned source, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(bits, mask, source, file, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulation
}  // namespace swiftnet

#define threadIdx (::swiftnet::emulation::thread_index())
#define blockIdx (::swiftnet::emulation::block_index())
#define blockDim (::swiftnet::emulation::block_size())
#define gridDim (::swiftnet::emulation::grid_size())

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  swiftnet::emulation::block_barrier(file, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  swiftnet::emulation::warp_barrier(mask, file, line);
}

// One access, as on the GPU: the compiler would take a struct's members one by one, and count as many requests.
template <class T>
T __ldg(const T* p) {
  typedef unsigned char Bits __attribute__((vector_size(sizeof(T)), may_alias));
  const Bits bits = *reinterpret_cast<const Bits*>(p);
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const unsigned lane = swiftnet::emulation::lane_index();
  return swiftnet::emulation::shuffle_value(value, mask, lane / width * width + source % width, file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const unsigned lane = swiftnet::emulation::lane_index(), source = lane ^ lanes;
  return swiftnet::emulation::shuffle_value(value, mask, source / width > lane / width ? lane : source, file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  const unsigned lane = swiftnet::emulation::lane_index();
  return swiftnet::emulation::shuffle_value(value, mask, lane % width + lanes < unsigned(width) ? lane + lanes : lane,
                                            file, line);
}

inline unsigned __ballot_sync(unsigned mask, bool predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1u)
      votes |= unsigned(swiftnet::emulation::shuffle_value(predicate, mask, lane, file, line)) << lane;
  return votes;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
