// Convolutions of any kernel and stride: chunks of pixels, for each all outputs, by vectors or tiles. 3×3s by
// Winograd's algorithm are in winograd.cpp.
#include "cpu/kernels/conv2d_tiles.h"
#include "cpu/kernels/conv2d_vectors.h"
#include "cpu/kernels/level.h"
#include "cpu/kernels/winograd.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

template <typename T>
struct Direct : ByVectors<T> {
  using ByVectors<T>::ByVectors;
};
#ifdef SWIFTNET_TILES
template <>
struct Direct<bfloat16> : ByTiles {
  using ByTiles::ByTiles;
};
#endif

template <typename T>
int64_t workspace_of_thread(const Conv2d& call) {
  return round_up(Direct<T>::copies_bytes(call), 64);
}

template <typename T>
void direct(const Conv2d& call) {
  const Epilogue<T> epilogue(call);
  const Windows<T> windows(call, epilogue, Direct<T>::at_once(epilogue.outputs()));
  const Direct<T> convolution(call, epilogue, windows);
  parallel_parts(call.threads, windows.chunks(), [&](int64_t part, int64_t begin, int64_t end) {
    Chunk<T> chunk;
    T* copies = reinterpret_cast<T*>(static_cast<char*>(call.workspace) + part * workspace_of_thread<T>(call));
    for (int64_t i = begin; i < end; i++) {
      windows.fill(i, chunk);
      convolution(chunk, copies);
    }
  });
}

}  // namespace

int64_t packed_bytes(bool bf16, int tile, int64_t outputs, int64_t channels, int kernel) {
  if (tile) return winograd_packed_bytes(tile, outputs, channels);
  return bf16 ? Direct<bfloat16>::packed_bytes(outputs, channels, kernel)
              : Direct<float>::packed_bytes(outputs, channels, kernel);
}

void pack_conv2d(bool bf16, int tile, const float* weight, int64_t outputs, int64_t channels, int kernel,
                 void* packed) {
  if (tile) {
    pack_winograd(tile, weight, outputs, channels, packed);
  } else if (bf16) {
    Direct<bfloat16>::pack(weight, outputs, channels, kernel, packed);
  } else {
    Direct<float>::pack(weight, outputs, channels, kernel, packed);
  }
}

int64_t conv2d_workspace(const Conv2d& call) {
  if (call.tile) return winograd_workspace(call);
  return call.threads * (call.bf16 ? workspace_of_thread<bfloat16>(call) : workspace_of_thread<float>(call));
}

void conv2d(const Conv2d& call) {
  if (call.tile) {
    winograd(call);
  } else if (call.bf16) {
    direct<bfloat16>(call);
  } else {
    direct<float>(call);
  }
}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
