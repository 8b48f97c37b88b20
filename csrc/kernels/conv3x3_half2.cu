#include "conv3x3_half2.cuh"

#include "common/dispatch.cuh"

namespace swiftnet {
namespace {

template <Access kAccess>
void launch(const Conv3x3Call& call) {
  const Tiling tiles = tap_tiling(call.out);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Half2Traits::kThreads);
  const Map<const __half> map = map_of<const __half>(call.x);
  const int64_t group = half2_packed_numel(1, call.x.shape[1]);
  const auto epilogue = conv_epilogue<__half>(call);
  SWIFTNET_LAUNCH((conv3x3_half2_kernel<kAccess>), grid, block, 0, call.stream, map, call.packed, group, epilogue,
                  tiles);
}

}  // namespace

int64_t half2_packed_numel(int64_t outputs, int64_t channels) {
  return ceil_div(outputs, Half2Traits::kOutputs) * packed_channels(channels) * 9 * Half2Traits::kOutputs / 2;
}

void conv3x3_half2(const Conv3x3Call& call) {
  check(call.x.dtype == DType::kFloat16, "algorithm: half2 takes float16 maps");
  if (call.pack) pack_taps<__half, __half>(call.weight, call.packed, call.stream);
  dispatch_access(tap_access(call), [&](auto access) { launch<decltype(access)::value>(call); });
}

}  // namespace swiftnet
