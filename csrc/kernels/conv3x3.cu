#include "conv3x3.cuh"

#include "../check.h"
#include "common/cuda.cuh"

namespace swiftnet {

int64_t conv3x3_packed_numel(ConvAlgorithm algorithm, int64_t outputs, int64_t channels) {
  switch (algorithm) {
    case ConvAlgorithm::kDirect: return direct_packed_numel(outputs, channels);
    case ConvAlgorithm::kWinograd: return winograd_packed_numel(outputs, channels);
    case ConvAlgorithm::kHalf2: return half2_packed_numel(outputs, channels);
    case ConvAlgorithm::kTensorCores: return mma_packed_numel(outputs, channels);
  }
  throw std::invalid_argument("algorithm: expected direct, winograd, half2 or tensor_cores");
}

void conv3x3(const TensorView& x, const TensorView& weight, ConvAlgorithm algorithm, const TensorView& packed,
             bool pack, const TensorView& bias, const TensorView& residual, bool relu, const TensorView& sum,
             const TensorView& out, Stream stream) {
  check(x.ndim == 4, "x: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  const int64_t outputs = weight.shape[0], channels = x.shape[1];
  check_tensor("weight", weight, {outputs, channels, 3, 3}, x.dtype, x.device);
  check_tensor("packed", packed, {conv3x3_packed_numel(algorithm, outputs, channels)}, DType::kFloat32, x.device);
  check(reinterpret_cast<uintptr_t>(packed.data) % 16 == 0, "packed: expected memory aligned to 16 bytes");
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  const std::initializer_list<int64_t> shape{x.shape[0], outputs, x.shape[2], x.shape[3]};
  if (residual.defined()) check_tensor("residual", residual, shape, x.dtype, x.device);
  if (sum.defined()) check_tensor("sum", sum, shape, x.dtype, x.device);
  check_tensor("out", out, shape, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  const Conv3x3Call call{x, weight, static_cast<float*>(packed.data), pack, bias, residual, relu, sum, out, stream};
  switch (algorithm) {
    case ConvAlgorithm::kDirect: return conv3x3_direct(call);
    case ConvAlgorithm::kWinograd: return conv3x3_winograd(call);
    case ConvAlgorithm::kHalf2: return conv3x3_half2(call);
    case ConvAlgorithm::kTensorCores: return conv3x3_mma(call);
  }
}

}  // namespace swiftnet
