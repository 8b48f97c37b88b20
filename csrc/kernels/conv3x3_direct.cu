#include "conv3x3_direct.cuh"

#include "common/dispatch.cuh"

namespace swiftnet {
namespace {

template <class T, Access kAccess>
void launch(const Conv3x3Call& call, const ConvEpilogue<T>& epilogue) {
  const Tiling tiles = tap_tiling(call.out);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(DirectTraits::kThreads);
  const Map<const T> map = map_of<const T>(call.x);
  const int64_t group = direct_packed_numel(1, call.x.shape[1]);
  SWIFTNET_LAUNCH((conv3x3_direct_kernel<T, kAccess>), grid, block, 0, call.stream, map, call.packed, group, epilogue,
                  tiles);
}

}  // namespace

int64_t direct_packed_numel(int64_t outputs, int64_t channels) {
  return ceil_div(outputs, DirectTraits::kOutputs) * packed_channels(channels) * 9 * DirectTraits::kOutputs;
}

void conv3x3_direct(const Conv3x3Call& call) {
  dispatch_dtype(call.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (call.pack) pack_taps<T, float>(call.weight, call.packed, call.stream);
    const auto epilogue = conv_epilogue<T>(call);
    dispatch_access(tap_access(call), [&](auto access) { launch<T, decltype(access)::value>(call, epilogue); });
  });
}

}  // namespace swiftnet
