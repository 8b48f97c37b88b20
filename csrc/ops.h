// The whole C++ API: what `libswiftnet_kernels` offers, with and without Python.
//
// Formulas, shapes and dtypes are those of swiftnet_ext/ops (same names). Maps may have any strides; parameters (bias,
// scale, shift) are contiguous, in fp32 or the maps' dtype, and may be absent (a default TensorView). The caller
// allocates outputs and workspaces. Calls launch on `stream` of the output's device and return without waiting.
// Errors: std::invalid_argument for arguments, std::runtime_error with the CUDA call's name for the rest.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "tensor.h"

namespace swiftnet {

enum class Resize { kBilinear, kNearest };
enum class Order { kSoftmaxThenResize, kResizeThenSoftmax };
// kHalf2 takes fp16; kTensorCores fp16, and bf16, where kernel_architecture is at least 75, and 80: below it writes
// nothing.
enum class ConvAlgorithm { kDirect, kWinograd, kHalf2, kTensorCores };

using Stream = void*;  // a cudaStream_t; ignored by the emulation

// `packed` [conv3x3_packed_numel(algorithm, K, C)] fp32 holds the weight as the kernel reads it, or takes it where
// `pack`. `sum` takes what the ReLU is applied to, or is absent.
int64_t conv3x3_packed_numel(ConvAlgorithm algorithm, int64_t outputs, int64_t channels);
void conv3x3(const TensorView& x, const TensorView& weight, ConvAlgorithm algorithm, const TensorView& packed,
             bool pack, const TensorView& bias, const TensorView& residual, bool relu, const TensorView& sum,
             const TensorView& out, Stream stream);

// kWinograd or kTensorCores; the head has up to 24 outputs, above kTensorCores' up to 128.
void conv3x3_head(const TensorView& x, const TensorView& weight, ConvAlgorithm algorithm, const TensorView& packed,
                  bool pack, const TensorView& bias, const TensorView& scale, const TensorView& shift,
                  const TensorView& head_weight, const TensorView& head_bias, const TensorView& out, Stream stream);

// The decoder's block in one launch on tensor cores: `packed` is that of kTensorCores. Where there is a head_weight,
// `out` takes the head's outputs, and head_scale and head_shift are the affine between the two convolutions.
void upsample_blend(const TensorView& tap, const TensorView& lateral_weight, const TensorView& x,
                    const TensorView& weight, const TensorView& packed, bool pack, const TensorView& lateral_bias,
                    const TensorView& scale, const TensorView& shift, const TensorView& out_scale,
                    const TensorView& out_shift, const TensorView& bias, const TensorView& head_weight,
                    const TensorView& head_bias, const TensorView& head_scale, const TensorView& head_shift,
                    Resize mode, const TensorView& out, Stream stream);

// Empty if one launch makes such a block, of this many outputs and, above them, classes (0: no head), else why not.
std::string why_not_upsample_blend(const TensorView& tap, const TensorView& lateral_weight, const TensorView& x,
                                   int64_t outputs, int64_t classes);

// Whether a block of threads makes all outputs, so that what the 3×3 reads is made once.
bool upsample_blend_pays(const TensorView& tap, int64_t outputs);

// `activated`, like `skip`, takes what is convolved: relu(scale·(up(x) + skip) + shift).
void upsample_add_conv3x3(const TensorView& x, const TensorView& skip, const TensorView& weight,
                          ConvAlgorithm algorithm, const TensorView& packed, bool pack, const TensorView& bias,
                          const TensorView& scale, const TensorView& shift, Resize mode, const TensorView& activated,
                          const TensorView& out, Stream stream);

void lateral_add(const TensorView& tap, const TensorView& weight, const TensorView& x, const TensorView& bias,
                 const TensorView& scale, const TensorView& shift, const TensorView& out_scale,
                 const TensorView& out_shift, bool relu, Resize mode, const TensorView& out, Stream stream);

// `grids` are (rows, columns); `workspace`, aligned to 16 bytes, holds at least N · (H · columns · C + cells · D)
// floats, with the columns and cells of all grids and C rounded up to fours.
void spatial_pyramid_pool(const TensorView& x, const TensorView& level_weight, const TensorView& fuse_weight,
                          const TensorView& fuse_bias, const TensorView& level_scale, const TensorView& level_shift,
                          const TensorView& fuse_scale, const TensorView& fuse_shift,
                          const std::vector<std::pair<int, int>>& grids, Resize mode, const TensorView& workspace,
                          const TensorView& out, Stream stream);

// `out` [N, classes, H, W] takes the mean, an `out` [N, H, W] of uint8 the labels.
void multiscale_mean(const std::vector<TensorView>& logits, Order order, const TensorView& out, Stream stream);

// Empty if the kernel makes height × width of these maps, else the reason why not.
std::string why_not_multiscale_mean(const std::vector<TensorView>& logits, int64_t height, int64_t width);

// Empty if the compiled kernels run on this CUDA device, else the reason why not.
std::string why_not_on_device(int device);

// The architecture that the kernels which run on this CUDA device were compiled for, e.g. 61; of PTX, its own.
int kernel_architecture(int device);

}  // namespace swiftnet
