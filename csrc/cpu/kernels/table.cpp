#include "cpu/kernels.h"
#include "cpu/kernels/level.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {

extern const Kernels table;
const Kernels table = {
    SWIFTNET_CPU_LEVEL_NAME,
    packed_bytes,
    pack_conv2d,
    conv2d_workspace,
    conv2d,
    image_to_map,
    max_pool3x3,
    depthwise3x3,
    inverted_residual_workspace,
    inverted_residual,
    upsample_add,
    spatial_pyramid_pool_workspace,
    spatial_pyramid_pool,
    multiscale_mean_workspace,
    multiscale_mean,
};

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
