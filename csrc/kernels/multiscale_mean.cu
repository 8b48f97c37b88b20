#include "multiscale_mean.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {
namespace {

// Labels [N, H, W] as a map of one channel.
TensorView with_channel(TensorView labels) {
  return {labels.data,
          labels.dtype,
          4,
          {labels.shape[0], 1, labels.shape[1], labels.shape[2]},
          {labels.strides[0], 0, labels.strides[1], labels.strides[2]},
          labels.device};
}

template <class T>
LogitMaps<T> logit_maps(const std::vector<TensorView>& logits, const float* normalisers) {
  LogitMaps<T> maps{};
  for (const TensorView& t : logits) {
    maps.normalisers[maps.count] = normalisers;
    maps.maps[maps.count++] = map_of<const T>(t);
    normalisers += t.shape[0] * t.shape[2] * t.shape[3];
  }
  return maps;
}

template <class T>
void launch_normalisers(const std::vector<TensorView>& logits, float* normalisers, Stream stream) {
  const int threads = 256;
  for (const TensorView& t : logits) {
    const int64_t pixels = t.shape[0] * t.shape[2] * t.shape[3], blocks = ceil_div(pixels, threads);
    check(blocks <= 2147483647, "logits: a map needs more than 2^31 - 1 blocks; split the batch");
    const Map<const T> map = map_of<const T>(t);
    SWIFTNET_LAUNCH((normaliser_kernel<T>), dim3(static_cast<unsigned>(blocks)), dim3(threads), 0, stream, map,
                    normalisers, pixels);
    normalisers += pixels;
  }
}

template <class T, MeanOf kOf, class Out>
void launch_mean(const LogitMaps<T>& maps, const TensorView& out, int classes, Stream stream) {
  using Traits = MeanTraits;
  const Tiling tiles = tiling(out.shape[0], 1, out.shape[2], out.shape[3], 1, Traits::kRows, Traits::kColumns);
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<Out> y = map_of<Out>(out);
  SWIFTNET_LAUNCH((multiscale_mean_kernel<T, kOf, Out>), grid, block, 0, stream, maps, y, classes, tiles);
}

}  // namespace

void multiscale_mean(const std::vector<TensorView>& logits, Order order, const TensorView& workspace,
                     const TensorView& out, Stream stream) {
  check(!logits.empty() && logits.size() <= MeanTraits::kMaxMaps, "logits: expected 1 to 32 maps");
  const TensorView& first = logits[0];
  int64_t pixels = 0;
  for (const TensorView& t : logits) {
    check(t.ndim == 4 && t.shape[2] > 0 && t.shape[3] > 0, "logits: expected [N, classes, h, w] with pixels");
    check_tensor("logits", t, {first.shape[0], first.shape[1], t.shape[2], t.shape[3]}, first.dtype, first.device);
    pixels += t.shape[0] * t.shape[2] * t.shape[3];
  }
  const bool labels = out.dtype == DType::kUInt8;
  const TensorView y = labels && out.ndim == 3 ? with_channel(out) : out;
  check(y.ndim == 4, "out: expected [N, classes, H, W], or [N, H, W] of uint8");
  check_tensor("out", y, {first.shape[0], labels ? 1 : first.shape[1], y.shape[2], y.shape[3]},
               labels ? DType::kUInt8 : first.dtype, first.device);
  check(!labels || first.shape[1] <= 255, "logits: uint8 labels name at most 255 classes");
  const bool normalised = order == Order::kSoftmaxThenResize;
  check(!normalised || (workspace.dtype == DType::kFloat32 && workspace.ndim == 1 && workspace.shape[0] >= pixels),
        "workspace: expected as many floats as the maps have pixels");
  if (y.numel() == 0) return;

  const int classes = static_cast<int>(first.shape[1]);
  float* const normalisers = normalised ? static_cast<float*>(workspace.data) : nullptr;
  const DeviceGuard guard(first.device);
  dispatch_dtype(first.dtype, [&](auto zero) {
    using T = decltype(zero);
    const LogitMaps<T> maps = logit_maps<T>(logits, normalisers);
    if (normalised) launch_normalisers<T>(logits, normalisers, stream);
    if (labels && normalised)
      launch_mean<T, MeanOf::kSoftmaxThenResize, uint8_t>(maps, y, classes, stream);
    else if (labels && maps.count == 1)
      launch_mean<T, MeanOf::kResizeOnly, uint8_t>(maps, y, classes, stream);
    else if (labels)
      launch_mean<T, MeanOf::kResizeThenSoftmax, uint8_t>(maps, y, classes, stream);
    else if (normalised)
      launch_mean<T, MeanOf::kSoftmaxThenResize, T>(maps, y, classes, stream);
    else
      launch_mean<T, MeanOf::kResizeThenSoftmax, T>(maps, y, classes, stream);
  });
}

}  // namespace swiftnet
