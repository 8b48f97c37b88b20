// What each file of a level defines; csrc/cpu/kernels.h says what the functions do.
#pragma once
#include "cpu/kernels.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {

int64_t packed_bytes(bool bf16, int tile, int64_t outputs, int64_t channels, int kernel);
void pack_conv2d(bool bf16, int tile, const float* weight, int64_t outputs, int64_t channels, int kernel, void* packed);
int64_t conv2d_workspace(const Conv2d& call);
void conv2d(const Conv2d& call);
void image_to_map(const ImageToMap& call);
void max_pool3x3(const MaxPool3x3& call);
void depthwise3x3(const Depthwise3x3& call);
int64_t inverted_residual_workspace(const InvertedResidual& call);
void inverted_residual(const InvertedResidual& call);
void upsample_add(const UpsampleAdd& call);
int64_t spatial_pyramid_pool_workspace(const SpatialPyramidPool& call);
void spatial_pyramid_pool(const SpatialPyramidPool& call);
int64_t multiscale_mean_workspace(const MultiscaleMean& call);
void multiscale_mean(const MultiscaleMean& call);

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
