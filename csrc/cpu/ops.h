// The C++ API of the native CPU kernels. Maps are dense channels_last, float or bfloat16; parameters are contiguous and
// float, and may be absent (a default TensorView). Nothing is allocated: the caller brings outputs and workspaces.
// std::invalid_argument tells what does not fit. `threads` of PyTorch's pool work; calls return when all is done.
#pragma once
#include <string>
#include <vector>

#include "tensor.h"

namespace swiftnet {
namespace cpu {

// A weight [outputs, channels, kernel, kernel] as conv2d reads it at the level in use, in bytes; float in, for maps of
// `dtype`.
int64_t packed_bytes(DType dtype, bool winograd, int64_t outputs, int64_t channels, int kernel);
void pack_conv2d(const TensorView& weight, DType dtype, bool winograd, const TensorView& packed);

struct Convolution {
  int kernel, stride, padding;
  bool winograd;           // for kernel 3, stride 1 and padding 1
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

// The mean over maps of the class probabilities at one size: `out` [N, classes, H, W] in float or bfloat16 takes the
// mean, an `out` [N, H, W] of uint8 the labels. The maps and `out` may be contiguous too. `order` is
// softmax_then_resize or resize_then_softmax; `workspace` holds multiscale_mean_workspace() bytes.
int64_t multiscale_mean_workspace(const std::vector<TensorView>& logits, const std::string& order,
                                  const TensorView& out, int threads);
void multiscale_mean(const std::vector<TensorView>& logits, const std::string& order, const TensorView& out,
                     const TensorView& workspace, int threads);

}  // namespace cpu
}  // namespace swiftnet
