#include "lateral_add.cuh"

#include <climits>

#include "../ops.h"
#include "common/dispatch.cuh"
#include "lateral_add_wide.cuh"

namespace swiftnet {
namespace {

Tiling wide_tiling(const TensorView& out) {
  using Traits = WideTraits;
  return tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows,
                Traits::kColumns);
}

// How the wide kernel touches these maps, or kAny where conv1x1_kernel takes them. The wide tile pays where more than
// half of its outputs exist and each of a GTX 1080 Ti's 28 multiprocessors gets two blocks. It needs whole slices of
// channels, weights within the reach of 32 bits, and vectors, though of x only along channels.
Access wide_access(const TensorView& tap, const TensorView& weight, const TensorView& x, const TensorView& out) {
  using Traits = WideTraits;
  const int64_t channels = tap.shape[1], outputs = out.shape[1];
  const bool pays = outputs > Traits::kOutputs / 2 && wide_tiling(out).blocks >= 28 * Traits::kMinBlocks;
  const bool slices = channels > 0 && channels % Traits::kChannels == 0 && channels <= Traits::kMaxChannels;
  const bool near = outputs * std::abs(weight.strides[0]) <= INT_MAX;
  if (!pays || !slices || !near || !moves_by_vectors(weight, 1)) return Access::kAny;
  return access_of({&tap, &out}) == Access::kRows ? Access::kRows : access_of({&tap, &x, &out});
}

template <class T, Access kAccess, Resize kMode>
void launch_wide(const TensorView& tap, const AffineRelu& affine_relu, const TensorView& weight,
                 const LateralEpilogue<T, kMode>& epilogue, const TensorView& out, Stream stream) {
  const Tiling tiles = wide_tiling(out);
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(WideTraits::kThreads);
  const Map<const T> x = map_of<const T>(tap);
  const Map<T> y = map_of<T>(out);
  const MatrixWeight<T> matrix = matrix_weight<T>(weight);
  SWIFTNET_LAUNCH((lateral_add_wide_kernel<T, kAccess, kMode>), grid, block, 0, stream, x, affine_relu, matrix,
                  epilogue, y, tiles);
}

}  // namespace

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
  const Access wide = wide_access(tap, weight, x, out);
  dispatch_dtype(tap.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_mode(mode, [&](auto m) {
      const AffineRelu affine_relu{parameter_of(scale, 1.f), parameter_of(shift, 0.f)};
      const LateralEpilogue<T, decltype(m)::value> epilogue{parameter_of(bias, 0.f),
                                                            parameter_of(out_scale, 1.f),
                                                            parameter_of(out_shift, 0.f),
                                                            optional_map<const T>(x),
                                                            static_cast<int>(height),
                                                            static_cast<int>(width),
                                                            relu};
      if (wide == Access::kRows) return launch_wide<T, Access::kRows>(tap, affine_relu, weight, epilogue, out, stream);
      if (wide == Access::kChannels)
        return launch_wide<T, Access::kChannels>(tap, affine_relu, weight, epilogue, out, stream);
      const AffineSource<T> source{map_of<const T>(tap), affine_relu};
      launch_conv1x1<T>(source, channels_inner(tap), matrix_weight<T>(weight), channels, epilogue, out, stream);
    });
  });
}

}  // namespace swiftnet
