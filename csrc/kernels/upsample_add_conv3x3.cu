#include "upsample_add_conv3x3.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {

void upsample_add_conv3x3(const TensorView& x, const TensorView& skip, const TensorView& weight, const TensorView& bias,
                          const TensorView& scale, const TensorView& shift, Resize mode, const TensorView& out,
                          Stream stream) {
  check(x.ndim == 4 && x.shape[2] > 0 && x.shape[3] > 0, "x: expected [N, C, h, w] with at least one pixel");
  check(skip.ndim == 4, "skip: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  const int64_t n = x.shape[0], channels = x.shape[1], outputs = weight.shape[0];
  check_tensor("skip", skip, {n, channels, skip.shape[2], skip.shape[3]}, x.dtype, x.device);
  check_tensor("weight", weight, {outputs, channels, 3, 3}, x.dtype, x.device);
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  check_parameter("scale", scale, {channels}, x.dtype, x.device);
  check_parameter("shift", shift, {channels}, x.dtype, x.device);
  check_tensor("out", out, {n, outputs, skip.shape[2], skip.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_mode(mode, [&](auto m) {
      const AffineRelu affine_relu{parameter_of(scale, 1.f), parameter_of(shift, 0.f)};
      const BlendSource<T, decltype(m)::value> source{map_of<const T>(x), map_of<const T>(skip), affine_relu};
      launch_conv3x3<T>(source, channels_inner(skip), weight, parameter_of(bias, 0.f), out, stream);
    });
  });
}

}  // namespace swiftnet
