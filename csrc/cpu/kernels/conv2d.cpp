#include "cpu/kernels/level.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {

int64_t packed_bytes(bool, bool, int64_t, int64_t, int) { return 0; }
void pack_conv2d(bool, bool, const float*, int64_t, int64_t, int, void*) {}
int64_t conv2d_workspace(const Conv2d&) { return 0; }
void conv2d(const Conv2d&) {}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
