// CUDA C++ on a CPU: what device code needs, so that g++ compiles the kernels' own source and a CPU runs it.
//
// A CUDA thread is a fiber; a barrier or a shuffle switches to the block's next fiber. Blocks run one after another and
// one launch runs at a time, so shared memory is static memory. Barriers that not all threads of a block reach,
// shuffles whose mask names lanes that don't take part, and deadlocks are errors: launch() throws std::runtime_error.
// x86-64 and GCC. It says nothing about speed or about the compiled GPU code.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Conversions round to nearest even, as the hardware's do.
struct __half {
  _Float16 value;
  __half() = default;
  explicit __half(float v) : value(static_cast<_Float16>(v)) {}
};
inline float __half2float(__half v) { return static_cast<float>(v.value); }
inline __half __float2half(float v) { return __half(v); }

using std::isinf;
using std::isnan;
using std::max;
using std::min;

namespace swiftnet {
namespace emulation {

enum class Order { kForward, kReverse, kRandom };  // in which a block's ready threads run

// Which of a launch's blocks run, and how. The last block is included.
struct Options {
  Order order = Order::kForward;
  unsigned seed = 1;
  uint64_t first_block = 0, last_block = ~uint64_t{0};
};
Options& options();

// What the running thread sees.
struct Thread {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern const Thread* current;

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread_body);
void* dynamic_shared();
void barrier(int line);
uint64_t shuffle(uint64_t value, unsigned mask, unsigned source_lane, int line);

template <class T>
T shuffle_value(T value, unsigned mask, unsigned source_lane, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(bits, mask, source_lane, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulation
}  // namespace swiftnet

#define threadIdx (::swiftnet::emulation::current->thread)
#define blockIdx (::swiftnet::emulation::current->block)
#define blockDim (::swiftnet::emulation::current->block_size)
#define gridDim (::swiftnet::emulation::current->grid_size)

inline void __syncthreads(int line = __builtin_LINE()) { swiftnet::emulation::barrier(line); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int = 32, int line = __builtin_LINE()) {
  return swiftnet::emulation::shuffle_value(value, mask, (threadIdx.x % 32) ^ lanes, line);
}
