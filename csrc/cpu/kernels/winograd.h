// 3×3 convolutions of stride 1 by Winograd's algorithm F(n×n, 3×3), in fp32 also for bfloat16 maps:
// csrc/cpu/kernels/winograd.cpp.
#pragma once
#include "cpu/kernels.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {

int64_t winograd_packed_bytes(int tile, int64_t outputs, int64_t channels);
void pack_winograd(int tile, const float* weight, int64_t outputs, int64_t channels, void* packed);
int64_t winograd_workspace(const Conv2d& call);
void winograd(const Conv2d& call);

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
