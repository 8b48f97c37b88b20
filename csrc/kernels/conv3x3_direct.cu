#include "conv3x3_direct.cuh"

#include "common/dispatch.cuh"
#include "conv3x3.cuh"

namespace swiftnet {
namespace {

template <class T>
void launch_pack(const Conv3x3Call& call) {
  const int64_t outputs = call.weight.shape[0], channels = call.weight.shape[1];
  const int64_t count = direct_packed_numel(outputs, channels), blocks = ceil_div(count, 256);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const Map<const T> map = map_of<const T>(call.weight);
  const int k = static_cast<int>(outputs);
  const int64_t c = packed_channels(channels);
  SWIFTNET_LAUNCH((pack_direct_kernel<T>), grid, block, 0, call.stream, map, k, c, call.packed, count);
}

template <class T, Access kAccess>
void launch(const Conv3x3Call& call, const ConvEpilogue<T>& epilogue) {
  using Traits = DirectTraits;
  const TensorView& out = call.out;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
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
  // a slice of whole vectors has whole channels too
  const Access access = call.x.shape[1] % DirectTraits::kChannels == 0
                            ? access_of({&call.x, &call.residual, &call.sum, &call.out})
                            : Access::kAny;
  dispatch_dtype(call.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (call.pack) launch_pack<T>(call);
    const auto epilogue = conv_epilogue<T>(call);
    switch (access) {
      case Access::kRows: return launch<T, Access::kRows>(call, epilogue);
      case Access::kChannels: return launch<T, Access::kChannels>(call, epilogue);
      case Access::kAny: return launch<T, Access::kAny>(call, epilogue);
    }
  });
}

}  // namespace swiftnet
