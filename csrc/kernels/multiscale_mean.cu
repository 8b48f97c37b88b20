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

struct MeanTile {
  int rows, columns, threads;
};
constexpr MeanTile kMeanTiles[] = {{16, 32, 256}, {8, 16, 128}, {4, 8, 32}};

// Of one map's region and, summed over maps, of a row of `staged`.
int64_t region_pixels(const TensorView& map, int64_t height, int64_t width, const MeanTile& tile) {
  return staged_extent(map.shape[2], height, tile.rows) * staged_extent(map.shape[3], width, tile.columns);
}

int64_t staged_pitch(const std::vector<TensorView>& logits, int64_t height, int64_t width, const MeanTile& tile) {
  int64_t pitch = 0;
  for (const TensorView& map : logits) pitch += region_pixels(map, height, width, tile);
  return pitch | 1;
}

// The staged pixels, the tables of taps, and the maps' normalisers or the warps' bounds of classes.
int64_t shared_bytes(const std::vector<TensorView>& logits, int64_t height, int64_t width, const MeanTile& tile) {
  const int64_t maps = static_cast<int64_t>(logits.size()), classes = logits[0].shape[1];
  const int64_t normalisers = maps * tile.threads, bounds = tile.threads / 32 * ceil_div(classes, 32) * 32;
  const int64_t floats =
      classes * staged_pitch(logits, height, width, tile) + (normalisers > bounds ? normalisers : bounds);
  return floats * static_cast<int64_t>(sizeof(float)) +
         maps * (tile.rows + tile.columns) * static_cast<int64_t>(sizeof(ResizeTap));
}

// The largest tile that leaves room for several blocks on a multiprocessor, else the largest that fits at all, or null.
const MeanTile* mean_tile(const std::vector<TensorView>& logits, int64_t height, int64_t width) {
  for (const int64_t limit : {MeanTraits::kPreferredBytes, MeanTraits::kSharedBytes})
    for (const MeanTile& tile : kMeanTiles)
      if (shared_bytes(logits, height, width, tile) <= limit) return &tile;
  return nullptr;
}

template <class T>
LogitMaps<T> logit_maps(const std::vector<TensorView>& logits, int64_t height, int64_t width, const MeanTile& tile) {
  LogitMaps<T> maps{};
  maps.pitch = static_cast<int>(staged_pitch(logits, height, width, tile));
  int64_t first = 0;
  for (const TensorView& t : logits) {
    maps.maps[maps.count] = map_of<const T>(t);
    maps.first[maps.count] = static_cast<int>(first);
    maps.columns[maps.count] = static_cast<int>(staged_extent(t.shape[3], width, tile.columns));
    maps.channels_inner[maps.count++] = channels_inner(t);
    first += region_pixels(t, height, width, tile);
  }
  return maps;
}

template <class T, MeanOf kOf, class Out>
void launch_mean(const std::vector<TensorView>& logits, const TensorView& out, const MeanTile& tile, Stream stream) {
  const int64_t height = out.shape[2], width = out.shape[3];
  const Tiling tiles = tiling(out.shape[0], 1, height, width, 1, tile.rows, tile.columns);
  const LogitMaps<T> maps = logit_maps<T>(logits, height, width, tile);
  const Map<Out> y = map_of<Out>(out);
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(tile.threads);
  const size_t shared = static_cast<size_t>(shared_bytes(logits, height, width, tile));
  const int classes = static_cast<int>(logits[0].shape[1]);
  SWIFTNET_LAUNCH((multiscale_mean_kernel<T, kOf, Out>), grid, block, shared, stream, maps, y, classes, tiles);
}

}  // namespace

std::string why_not_multiscale_mean(const std::vector<TensorView>& logits, int64_t height, int64_t width) {
  if (logits.empty() || logits.size() > MeanTraits::kMaxMaps)
    return std::to_string(logits.size()) + " maps, at most " + std::to_string(MeanTraits::kMaxMaps);
  if (height == 0 || width == 0 || mean_tile(logits, height, width) != nullptr) return "";
  const MeanTile& smallest = kMeanTiles[sizeof(kMeanTiles) / sizeof(kMeanTiles[0]) - 1];
  return std::to_string(logits[0].shape[1]) + " classes and maps of these sizes need " +
         std::to_string(shared_bytes(logits, height, width, smallest)) + " bytes of shared memory for " +
         std::to_string(smallest.rows) + " × " + std::to_string(smallest.columns) + " pixels, at most " +
         std::to_string(MeanTraits::kSharedBytes);
}

void multiscale_mean(const std::vector<TensorView>& logits, Order order, const TensorView& out, Stream stream) {
  check(!logits.empty() && logits.size() <= MeanTraits::kMaxMaps, "logits: expected 1 to 32 maps");
  const TensorView& first = logits[0];
  for (const TensorView& t : logits) {
    check(t.ndim == 4 && t.shape[2] > 0 && t.shape[3] > 0, "logits: expected [N, classes, h, w] with pixels");
    check_tensor("logits", t, {first.shape[0], first.shape[1], t.shape[2], t.shape[3]}, first.dtype, first.device);
  }
  const bool labels = out.dtype == DType::kUInt8;
  const TensorView y = labels && out.ndim == 3 ? with_channel(out) : out;
  check(y.ndim == 4, "out: expected [N, classes, H, W], or [N, H, W] of uint8");
  check_tensor("out", y, {first.shape[0], labels ? 1 : first.shape[1], y.shape[2], y.shape[3]},
               labels ? DType::kUInt8 : first.dtype, first.device);
  check(!labels || first.shape[1] <= 255, "logits: uint8 labels name at most 255 classes");
  const bool normalised = order == Order::kSoftmaxThenResize;
  if (y.numel() == 0) return;

  const std::string reason = why_not_multiscale_mean(logits, y.shape[2], y.shape[3]);
  check(reason.empty(), "logits: " + reason);
  const MeanTile& tile = *mean_tile(logits, y.shape[2], y.shape[3]);
  const DeviceGuard guard(first.device);
  dispatch_dtype(first.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (labels && normalised)
      launch_mean<T, MeanOf::kSoftmaxThenResize, uint8_t>(logits, y, tile, stream);
    else if (labels && logits.size() == 1)
      launch_mean<T, MeanOf::kResizeOnly, uint8_t>(logits, y, tile, stream);
    else if (labels)
      launch_mean<T, MeanOf::kResizeThenSoftmax, uint8_t>(logits, y, tile, stream);
    else if (normalised)
      launch_mean<T, MeanOf::kSoftmaxThenResize, T>(logits, y, tile, stream);
    else
      launch_mean<T, MeanOf::kResizeThenSoftmax, T>(logits, y, tile, stream);
  });
}

}  // namespace swiftnet
