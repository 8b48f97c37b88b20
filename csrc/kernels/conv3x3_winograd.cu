#include "conv3x3_winograd.cuh"

#include "common/dispatch.cuh"
#include "conv3x3.cuh"

namespace swiftnet {
namespace {

template <class T, bool kRows>
void launch(const Conv3x3Call& call, const ConvEpilogue<T>& epilogue) {
  using Traits = WinogradTraits;
  const TensorView& out = call.out;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> x = map_of<const T>(call.x), weight = map_of<const T>(call.weight);
  const WindowSteps steps = window_steps(x);
  const int64_t group = winograd_packed_numel(1, call.x.shape[1]);
  SWIFTNET_LAUNCH((conv3x3_winograd_kernel<T, kRows>), grid, block, 0, call.stream, x, weight, steps, call.packed,
                  group, epilogue, tiles);
}

}  // namespace

int64_t winograd_packed_numel(int64_t outputs, int64_t channels) {
  return ceil_div(outputs, WinogradTraits::kOutputs) * winograd_slices(channels) * WinogradTraits::kWeights;
}

void pack_winograd(const TensorView& weight, float* packed, Stream stream) {
  const int64_t count = winograd_packed_numel(weight.shape[0], weight.shape[1]) / WinogradTraits::kPoints;
  const int64_t blocks = ceil_div(count, 256), slices = winograd_slices(weight.shape[1]);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const int outputs = static_cast<int>(weight.shape[0]);
  dispatch_dtype(weight.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Map<const T> map = map_of<const T>(weight);
    SWIFTNET_LAUNCH((pack_winograd_kernel<T>), grid, block, 0, stream, map, outputs, slices, packed, count);
  });
}

void conv3x3_winograd(const Conv3x3Call& call) {
  if (call.pack) pack_winograd(call.weight, call.packed, call.stream);
  dispatch_dtype(call.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto epilogue = conv_epilogue<T>(call);
    if (goes_along_rows(call.x))
      launch<T, true>(call, epilogue);
    else
      launch<T, false>(call, epilogue);
  });
}

}  // namespace swiftnet
