#include "cpu/kernels.h"
#include "cpu/kernels/level.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {

extern const Kernels table;
const Kernels table = {SWIFTNET_CPU_LEVEL_NAME,   packed_bytes,   pack_conv2d, conv2d_workspace, conv2d,
                       multiscale_mean_workspace, multiscale_mean};

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
