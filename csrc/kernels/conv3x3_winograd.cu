#include "conv3x3_winograd.cuh"

#include "common/dispatch.cuh"
#include "conv3x3.cuh"

namespace swiftnet {
namespace {

template <class T>
void launch_pack(const Conv3x3Call& call) {
  const int64_t outputs = call.weight.shape[0], channels = call.weight.shape[1];
  const int64_t count = winograd_packed_numel(outputs, channels) / WinogradTraits::kPoints;
  const int64_t blocks = ceil_div(count, 256);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const Map<const T> map = map_of<const T>(call.weight);
  const int k = static_cast<int>(outputs);
  const int64_t slices = winograd_slices(channels);
  SWIFTNET_LAUNCH((pack_winograd_kernel<T>), grid, block, 0, call.stream, map, k, slices, call.packed, count);
}

template <class T, bool kRows>
void launch(const Conv3x3Call& call, const ConvEpilogue<T>& epilogue) {
  using Traits = WinogradTraits;
  const TensorView& out = call.out;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> x = map_of<const T>(call.x), weight = map_of<const T>(call.weight);
  const int64_t size = sizeof(T);
  const WindowSteps steps{x.stride_w * size, x.stride_h * size, Traits::kChannels * x.stride_c * size};
  SWIFTNET_LAUNCH((conv3x3_winograd_kernel<T, kRows>), grid, block, 0, call.stream, x, weight, steps, call.packed,
                  epilogue, tiles);
}

}  // namespace

int64_t winograd_packed_numel(int64_t outputs, int64_t channels) {
  return ceil_div(outputs, WinogradTraits::kOutputs) * winograd_slices(channels) * WinogradTraits::kWeights;
}

void conv3x3_winograd(const Conv3x3Call& call) {
  const bool rows = call.x.strides[3] == 1 && !channels_inner(call.x);
  dispatch_dtype(call.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (call.pack) launch_pack<T>(call);
    const auto epilogue = conv_epilogue<T>(call);
    if (rows)
      launch<T, true>(call, epilogue);
    else
      launch<T, false>(call, epilogue);
  });
}

}  // namespace swiftnet
