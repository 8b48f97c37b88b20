#include "upsample_add_conv3x3.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {
namespace {

template <class T, Resize kMode>
void launch(const TensorView& x, const TensorView& skip, const AffineRelu& affine_relu, const TensorView& out,
            Stream stream) {
  using Traits = UpsampleAddTraits;
  const Tiling tiles = tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kChannels, Traits::kRows,
                              Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> coarse = map_of<const T>(x), fine = map_of<const T>(skip);
  const Map<T> y = map_of<T>(out);
  if (channels_inner(skip))
    SWIFTNET_LAUNCH((upsample_add_kernel<T, kMode, true>), grid, block, 0, stream, coarse, fine, affine_relu, y, tiles);
  else
    SWIFTNET_LAUNCH((upsample_add_kernel<T, kMode, false>), grid, block, 0, stream, coarse, fine, affine_relu, y,
                    tiles);
}

}  // namespace

void upsample_add_conv3x3(const TensorView& x, const TensorView& skip, const TensorView& weight,
                          ConvAlgorithm algorithm, const TensorView& packed, bool pack, const TensorView& bias,
                          const TensorView& scale, const TensorView& shift, Resize mode, const TensorView& activated,
                          const TensorView& out, Stream stream) {
  check(x.ndim == 4 && x.shape[2] > 0 && x.shape[3] > 0, "x: expected [N, C, h, w] with at least one pixel");
  check(skip.ndim == 4, "skip: expected [N, C, H, W]");
  const int64_t n = x.shape[0], channels = x.shape[1];
  check_tensor("skip", skip, {n, channels, skip.shape[2], skip.shape[3]}, x.dtype, x.device);
  check_parameter("scale", scale, {channels}, x.dtype, x.device);
  check_parameter("shift", shift, {channels}, x.dtype, x.device);
  check_tensor("activated", activated, {n, channels, skip.shape[2], skip.shape[3]}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_mode(mode, [&](auto m) {
      const AffineRelu affine_relu{parameter_of(scale, 1.f), parameter_of(shift, 0.f)};
      launch<T, decltype(m)::value>(x, skip, affine_relu, activated, stream);
    });
  });
  conv3x3(activated, weight, algorithm, packed, pack, bias, TensorView{}, false, TensorView{}, out, stream);
}

}  // namespace swiftnet
