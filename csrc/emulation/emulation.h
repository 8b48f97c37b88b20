// What runs a launch on the CPU, and what it found: the host's side of the emulation. Kernels see cuda_emulation.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace swiftnet {
namespace emulation {

enum class ThreadOrder { kForward, kReverse, kRandom };  // in which a block's ready threads run

struct Options {
  ThreadOrder order = ThreadOrder::kForward;
  unsigned seed = 1;  // of the random order
  // Of each launch only the first and the last blocks run, as many as these say: for tensors too large to run over.
  uint64_t first_blocks = ~uint64_t{0}, last_blocks = 0;
  bool count_sectors = false;  // needs the race build, which sees each access
};
Options& options();

// Bytes pass between memory and a multiprocessor in sectors of 32. `requested` counts, warp by warp and access by
// access, the sectors that the lanes touch together; `distinct` counts each sector of a launch once.
struct Sectors {
  uint64_t requested = 0, distinct = 0;
};

struct LaunchRecord {
  std::string kernel;
  uint64_t blocks = 0, threads = 0, barriers = 0;  // that ran; barriers are counted once a block
  Sectors read, written;
};
// The launches since the last call, oldest first; the last 1000 are kept.
std::vector<LaunchRecord> take_launches();

// Runs a kernel and returns when it has ended. Throws std::runtime_error with every finding, file and line.
void launch_threads(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(const void*),
                    const void* body);

// `body` calls the kernel; it stays on the caller's stack, as kernel parameters are no global memory either.
template <class Body>
void launch(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const Body& body) {
  launch_threads(kernel, grid, block, shared_bytes, [](const void* b) { (*static_cast<const Body*>(b))(); }, &body);
}

// Something is wrong with the kernel that runs; launch() will say so when it ends.
void report(const std::string& finding);

}  // namespace emulation
}  // namespace swiftnet
