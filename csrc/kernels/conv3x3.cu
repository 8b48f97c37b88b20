#include "conv3x3.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {

void conv3x3(const TensorView& x, const TensorView& weight, const TensorView& bias, const TensorView& residual,
             bool relu, const TensorView& out, Stream stream) {
  check(x.ndim == 4, "x: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  const int64_t outputs = weight.shape[0];
  check_tensor("weight", weight, {outputs, x.shape[1], 3, 3}, x.dtype, x.device);
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  if (residual.defined())
    check_tensor("residual", residual, {x.shape[0], outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  check_tensor("out", out, {x.shape[0], outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Conv3x3Epilogue<T> epilogue{parameter_of(bias, 0.f), optional_map<const T>(residual), relu};
    launch_conv3x3<T>(PlainSource<T>{map_of<const T>(x)}, channels_inner(x), weight, epilogue, out, stream);
  });
}

}  // namespace swiftnet
