#include "lateral_add.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {

void lateral_add(const TensorView& tap, const TensorView& weight, const TensorView& x, const TensorView& bias,
                 const TensorView& scale, const TensorView& shift, const TensorView& out_scale,
                 const TensorView& out_shift, bool relu, Resize mode, const TensorView& out, Stream stream) {
  check(tap.ndim == 4, "tap: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 1, 1]");
  const int64_t n = tap.shape[0], channels = tap.shape[1], height = tap.shape[2], width = tap.shape[3];
  const int64_t outputs = weight.shape[0];
  check_tensor("weight", weight, {outputs, channels, 1, 1}, tap.dtype, tap.device);
  if (x.defined()) {
    check(x.ndim == 4 && x.shape[2] > 0 && x.shape[3] > 0, "x: expected [N, K, h, w] with at least one pixel");
    check_tensor("x", x, {n, outputs, x.shape[2], x.shape[3]}, tap.dtype, tap.device);
  }
  check_parameter("bias", bias, {outputs}, tap.dtype, tap.device);
  check_parameter("scale", scale, {channels}, tap.dtype, tap.device);
  check_parameter("shift", shift, {channels}, tap.dtype, tap.device);
  check_parameter("out_scale", out_scale, {outputs}, tap.dtype, tap.device);
  check_parameter("out_shift", out_shift, {outputs}, tap.dtype, tap.device);
  check_tensor("out", out, {n, outputs, height, width}, tap.dtype, tap.device);
  const DeviceGuard guard(tap.device);
  dispatch_dtype(tap.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_mode(mode, [&](auto m) {
      const AffineRelu affine_relu{parameter_of(scale, 1.f), parameter_of(shift, 0.f)};
      const AffineSource<T> source{map_of<const T>(tap), affine_relu};
      const LateralEpilogue<T, decltype(m)::value> epilogue{parameter_of(bias, 0.f),
                                                            parameter_of(out_scale, 1.f),
                                                            parameter_of(out_shift, 0.f),
                                                            optional_map<const T>(x),
                                                            static_cast<int>(height),
                                                            static_cast<int>(width),
                                                            relu};
      launch_conv1x1<T>(source, channels_inner(tap), matrix_weight<T>(weight), channels, epilogue, out, stream);
    });
  });
}

}  // namespace swiftnet
