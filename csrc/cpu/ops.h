// The C++ API of the native CPU kernels. Maps are dense channels_last, float or bfloat16; parameters are contiguous and
// float, and may be absent (a default TensorView). The caller brings outputs and workspaces.
// std::invalid_argument tells what does not fit. `threads` of PyTorch's pool work; calls return when all is done.
#pragma once
#include <string>
#include <vector>

#include "tensor.h"

namespace swiftnet {
namespace cpu {

// A weight [outputs, channels, kernel, kernel] as conv2d reads it at the level in use, in bytes; float in, for maps of
// `dtype`.
int64_t packed_bytes(DType dtype, int tile, int64_t outputs, int64_t channels, int kernel);
void pack_conv2d(const TensorView& weight, DType dtype, int tile, const TensorView& packed);

struct Convolution {
  int kernel, stride, padding;
  int tile;                // 4 or 6 by Winograd's algorithm, for kernel 3, stride 1 and padding 1; 0 directly
  std::string activation;  // none, relu or relu6
};

// y = convolution(x) + bias + residual + resize(up); out = activation(y), and tap = [relu](tap_scale·y + tap_shift)
// where there is one. `out` may be absent too, and may be float for bfloat16 maps. `workspace` holds conv2d_workspace()
// bytes.
int64_t conv2d_workspace(const TensorView& x, const TensorView& out_or_tap, const Convolution& convolution,
                         int threads);
void conv2d(const TensorView& x, const TensorView& packed, const Convolution& convolution, const TensorView& bias,
            const TensorView& residual, const TensorView& up, bool nearest, const TensorView& out,
            const TensorView& tap, const TensorView& tap_scale, const TensorView& tap_shift, bool tap_relu,
            const TensorView& workspace, int threads);

// uint8 `image` [H, W, 3], contiguous, less the three of `mean`, to `out` [1, 3, H, W].
void image_to_map(const TensorView& image, const std::vector<float>& mean, const TensorView& out, int threads);

// Kernel 3, stride 2, padding 1.
void max_pool3x3(const TensorView& x, const TensorView& out, int threads);

// A 3×3 of each channel alone, with padding 1; weight [9, C], stride 1 or 2; activation none, relu or relu6.
void depthwise3x3(const TensorView& x, const TensorView& weight, const TensorView& bias, int stride,
                  const std::string& activation, const TensorView& out, int threads);

// MobileNetV2's block, project(depthwise(expand(x))) with padding 1, in bands whose hidden maps stay in the cache.
struct InvertedResidualBlock {
  TensorView x, expand, expand_bias;     // expand: packed, of [hidden, C, 1, 1]; may be absent
  TensorView depthwise, depthwise_bias;  // [9, hidden]
  int stride;                            // 1 or 2
  std::string activation;                // of expand and depthwise
  TensorView project, project_bias;      // packed, of [K, hidden, 1, 1]
  std::string project_activation;
  TensorView residual, out, tap, tap_scale, tap_shift;  // as conv2d's
  bool tap_relu;
  int threads;
};
int64_t inverted_residual_workspace(const TensorView& x, bool expands, int64_t hidden, int stride,
                                    const TensorView& out_or_tap, int threads);
void inverted_residual(const InvertedResidualBlock& block, const TensorView& workspace);

// out = [relu](scale·(resize(x to out's size) + skip) + shift); x may be absent.
void upsample_add(const TensorView& x, const TensorView& skip, const TensorView& scale, const TensorView& shift,
                  bool relu, bool nearest, const TensorView& out, int threads);

// x to out's size: bilinear with align_corners=False, or nearest.
void resize(const TensorView& x, bool nearest, const TensorView& out, int threads);

// As swiftnet::spatial_pyramid_pool of csrc/ops.h; `sizes` are each grid's rows and columns, one after the other.
struct PyramidPool {
  TensorView x, level_weight, fuse_weight, fuse_bias, level_scale, level_shift, fuse_scale, fuse_shift;
  std::vector<int64_t> sizes;
  bool nearest;
  TensorView out;
  int threads;
};
int64_t spatial_pyramid_pool_workspace(const PyramidPool& pool);
void spatial_pyramid_pool(const PyramidPool& pool, const TensorView& workspace);

// The mean over maps of the class probabilities at one size: `out` [N, classes, H, W] in float or bfloat16 takes the
// mean, an `out` [N, H, W] of uint8 the labels. The maps and `out` may be contiguous too. `order` is
// softmax_then_resize or resize_then_softmax; `workspace` holds multiscale_mean_workspace() bytes.
int64_t multiscale_mean_workspace(const std::vector<TensorView>& logits, const std::string& order,
                                  const TensorView& out, int threads);
void multiscale_mean(const std::vector<TensorView>& logits, const std::string& order, const TensorView& out,
                     const TensorView& workspace, int threads);

}  // namespace cpu
}  // namespace swiftnet
