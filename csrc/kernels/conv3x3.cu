#include "../ops.h"
#include "common/dispatch.cuh"
#include "conv3x3_direct.cuh"

namespace swiftnet {
namespace {

template <class T>
void launch_pack(const TensorView& weight, float* packed, Stream stream) {
  const int64_t outputs = weight.shape[0], channels = weight.shape[1], count = packed_numel(outputs, channels);
  const int64_t blocks = ceil_div(count, 256);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const Map<const T> map = map_of<const T>(weight);
  const int k = static_cast<int>(outputs);
  const int64_t c = packed_channels(channels);
  SWIFTNET_LAUNCH((pack_conv3x3_kernel<T>), grid, block, 0, stream, map, k, c, packed, count);
}

template <class T, Access kAccess>
void launch_direct(const TensorView& x, const float* packed, const ConvEpilogue<T>& epilogue, const TensorView& out,
                   Stream stream) {
  using Traits = DirectTraits;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> map = map_of<const T>(x);
  const int64_t group = packed_numel(1, x.shape[1]);
  SWIFTNET_LAUNCH((conv3x3_direct_kernel<T, kAccess>), grid, block, 0, stream, map, packed, group, epilogue, tiles);
}

}  // namespace

int64_t conv3x3_packed_numel(int64_t outputs, int64_t channels) { return packed_numel(outputs, channels); }

void conv3x3(const TensorView& x, const TensorView& weight, const TensorView& packed, bool pack, const TensorView& bias,
             const TensorView& residual, bool relu, const TensorView& out, Stream stream) {
  check(x.ndim == 4, "x: expected [N, C, H, W]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  const int64_t outputs = weight.shape[0], channels = x.shape[1];
  check_tensor("weight", weight, {outputs, channels, 3, 3}, x.dtype, x.device);
  check_tensor("packed", packed, {packed_numel(outputs, channels)}, DType::kFloat32, x.device);
  check(reinterpret_cast<uintptr_t>(packed.data) % 16 == 0, "packed: expected memory aligned to 16 bytes");
  check_parameter("bias", bias, {outputs}, x.dtype, x.device);
  if (residual.defined())
    check_tensor("residual", residual, {x.shape[0], outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  check_tensor("out", out, {x.shape[0], outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  // a slice of whole vectors has whole channels too
  const Access access = channels % DirectTraits::kChannels == 0 ? access_of({&x, &residual, &out}) : Access::kAny;
  float* const weights = static_cast<float*>(packed.data);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (pack) launch_pack<T>(weight, weights, stream);
    const ConvEpilogue<T> epilogue{parameter_of(bias, 0.f), optional_map<const T>(residual), map_of<T>(out), relu};
    switch (access) {
      case Access::kRows: return launch_direct<T, Access::kRows>(x, weights, epilogue, out, stream);
      case Access::kChannels: return launch_direct<T, Access::kChannels>(x, weights, epilogue, out, stream);
      case Access::kAny: return launch_direct<T, Access::kAny>(x, weights, epilogue, out, stream);
    }
  });
}

}  // namespace swiftnet
