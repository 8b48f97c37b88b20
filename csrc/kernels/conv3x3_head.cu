#include "conv3x3_head.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"
#include "conv3x3.cuh"

namespace swiftnet {
namespace {

template <class T, bool kRows>
void launch(const TensorView& x, const TensorView& weight, const float* packed, const HiddenEpilogue& epilogue,
            const TensorView& head_weight, const Parameter& head_bias, const TensorView& out, Stream stream) {
  using Traits = HeadTraits;
  const Tiling tiles = tiling(out.shape[0], 1, out.shape[2], out.shape[3], 1, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> input = map_of<const T>(x), taps = map_of<const T>(weight);
  const Map<T> y = map_of<T>(out);
  const MatrixWeight<T> head = matrix_weight<T>(head_weight);
  const WindowSteps steps = window_steps(input);
  const int64_t group = winograd_packed_numel(1, x.shape[1]);
  const int outputs = static_cast<int>(weight.shape[0]);
  SWIFTNET_LAUNCH((conv3x3_head_kernel<T, kRows>), grid, block, 0, stream, input, taps, steps, packed, group, outputs,
                  epilogue, head, head_bias, y, tiles);
}

}  // namespace

void conv3x3_head(const TensorView& x, const TensorView& weight, const TensorView& packed, bool pack,
                  const TensorView& bias, const TensorView& scale, const TensorView& shift,
                  const TensorView& head_weight, const TensorView& head_bias, const TensorView& out, Stream stream) {
  check(x.ndim == 4, "x: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  check(head_weight.ndim == 4, "head_weight: expected [J, K, 1, 1]");
  const int64_t outputs = weight.shape[0], channels = x.shape[1], classes = head_weight.shape[0];
  check_tensor("weight", weight, {outputs, channels, 3, 3}, x.dtype, x.device);
  check_tensor("packed", packed, {winograd_packed_numel(outputs, channels)}, DType::kFloat32, x.device);
  check(reinterpret_cast<uintptr_t>(packed.data) % 16 == 0, "packed: expected memory aligned to 16 bytes");
  check_tensor("head_weight", head_weight, {classes, outputs, 1, 1}, x.dtype, x.device);
  check(classes >= 1 && classes <= HeadTraits::kHeadOutputs, "head_weight: expected 1 to 24 outputs");
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  check_parameter("scale", scale, {outputs}, x.dtype, x.device);
  check_parameter("shift", shift, {outputs}, x.dtype, x.device);
  check_parameter("head_bias", head_bias, {classes}, x.dtype, x.device);
  check_tensor("out", out, {x.shape[0], classes, x.shape[2], x.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  float* const weights = static_cast<float*>(packed.data);
  if (pack) pack_winograd(weight, weights, stream);
  const HiddenEpilogue epilogue{parameter_of(bias, 0.f), {parameter_of(scale, 1.f), parameter_of(shift, 0.f)}};
  const Parameter start = parameter_of(head_bias, 0.f);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (goes_along_rows(x))
      launch<T, true>(x, weight, weights, epilogue, head_weight, start, out, stream);
    else
      launch<T, false>(x, weight, weights, epilogue, head_weight, start, out, stream);
  });
}

}  // namespace swiftnet
