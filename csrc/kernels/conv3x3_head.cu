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

void conv3x3_head_winograd(const Conv3x3HeadCall& call) {
  check(call.out.shape[1] <= HeadTraits::kHeadOutputs, "head_weight: expected 1 to 24 outputs");
  if (call.pack) pack_winograd(call.weight, call.packed, call.stream);
  const HiddenEpilogue epilogue{parameter_of(call.bias, 0.f),
                                {parameter_of(call.scale, 1.f), parameter_of(call.shift, 0.f)}};
  const Parameter start = parameter_of(call.head_bias, 0.f);
  dispatch_dtype(call.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (goes_along_rows(call.x))
      launch<T, true>(call.x, call.weight, call.packed, epilogue, call.head_weight, start, call.out, call.stream);
    else
      launch<T, false>(call.x, call.weight, call.packed, epilogue, call.head_weight, start, call.out, call.stream);
  });
}

void conv3x3_head(const TensorView& x, const TensorView& weight, ConvAlgorithm algorithm, const TensorView& packed,
                  bool pack, const TensorView& bias, const TensorView& scale, const TensorView& shift,
                  const TensorView& head_weight, const TensorView& head_bias, const TensorView& out, Stream stream) {
  check(x.ndim == 4, "x: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  check(head_weight.ndim == 4, "head_weight: expected [J, K, 1, 1]");
  const int64_t outputs = weight.shape[0], channels = x.shape[1], classes = head_weight.shape[0];
  check_tensor("weight", weight, {outputs, channels, 3, 3}, x.dtype, x.device);
  check_tensor("packed", packed, {conv3x3_packed_numel(algorithm, outputs, channels)}, DType::kFloat32, x.device);
  check(reinterpret_cast<uintptr_t>(packed.data) % 16 == 0, "packed: expected memory aligned to 16 bytes");
  check_tensor("head_weight", head_weight, {classes, outputs, 1, 1}, x.dtype, x.device);
  check(classes >= 1, "head_weight: expected at least one output");
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  check_parameter("scale", scale, {outputs}, x.dtype, x.device);
  check_parameter("shift", shift, {outputs}, x.dtype, x.device);
  check_parameter("head_bias", head_bias, {classes}, x.dtype, x.device);
  check_tensor("out", out, {x.shape[0], classes, x.shape[2], x.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  const Conv3x3HeadCall call{
      x, weight, static_cast<float*>(packed.data), pack, bias, scale, shift, head_weight, head_bias, out, stream};
  switch (algorithm) {
    case ConvAlgorithm::kWinograd: return conv3x3_head_winograd(call);
    case ConvAlgorithm::kTensorCores: return conv3x3_head_mma(call);
    default: throw std::invalid_argument("algorithm: expected winograd or tensor_cores");
  }
}

}  // namespace swiftnet
