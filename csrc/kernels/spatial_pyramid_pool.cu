#include "spatial_pyramid_pool.cuh"

#include "../ops.h"
#include "common/dispatch.cuh"

namespace swiftnet {
namespace {

PyramidGrids pyramid_grids(const std::vector<std::pair<int, int>>& grids) {
  check(!grids.empty() && grids.size() <= PyramidGrids::kMaxLevels, "grids: expected 1 to 8 levels");
  PyramidGrids g{};
  for (const auto& grid : grids) {
    check(grid.first > 0 && grid.second > 0 && grid.first <= PoolTraits::kMaxCells &&
              grid.second <= PoolTraits::kMaxCells,
          "grids: expected positive rows and columns, at most 1024 cells in all");
    g.rows[g.levels] = grid.first;
    g.columns[g.levels] = grid.second;
    g.first[g.levels++] = g.cells;
    g.cells += grid.first * grid.second;
    check(g.cells <= PoolTraits::kMaxCells, "grids: expected at most 1024 cells in all");
  }
  return g;
}

unsigned block_count(int64_t blocks) {
  check(blocks <= 2147483647, "the batch needs more than 2^31 - 1 blocks; split it");
  return static_cast<unsigned>(blocks);
}

template <class T>
void launch_pool(const TensorView& x, const PyramidGrids& grids, float* cells, Stream stream) {
  using Traits = PoolTraits;
  const dim3 grid(block_count(x.shape[0] * ceil_div(x.shape[1], Traits::kChannels))), block(Traits::kThreads);
  const size_t shared_bytes = sizeof(float) * grids.cells * Traits::kChannels;
  const Map<const T> map = map_of<const T>(x);
  if (channels_inner(x))
    SWIFTNET_LAUNCH((pool_kernel<T, true>), grid, block, shared_bytes, stream, map, grids, cells);
  else
    SWIFTNET_LAUNCH((pool_kernel<T, false>), grid, block, shared_bytes, stream, map, grids, cells);
}

template <class T>
void launch_levels(const float* cells, const PyramidGrids& grids, const TensorView& x, const TensorView& weight,
                   const AffineRelu& affine_relu, float* levels, Stream stream) {
  const int channels = static_cast<int>(x.shape[1]), outputs = static_cast<int>(weight.shape[1]);
  const int64_t count = x.shape[0] * grids.cells * outputs;
  const dim3 grid(block_count(ceil_div(count, LevelTraits::kWarps))), block(LevelTraits::kThreads);
  SWIFTNET_LAUNCH((level_kernel<T>), grid, block, 0, stream, cells, grids, channels, outputs, affine_relu,
                  static_cast<const T*>(weight.data), weight.strides[0], weight.strides[1], weight.strides[2], levels,
                  count);
}

}  // namespace

void spatial_pyramid_pool(const TensorView& x, const TensorView& level_weight, const TensorView& fuse_weight,
                          const TensorView& fuse_bias, const TensorView& level_scale, const TensorView& level_shift,
                          const TensorView& fuse_scale, const TensorView& fuse_shift,
                          const std::vector<std::pair<int, int>>& grids, Resize mode, const TensorView& workspace,
                          const TensorView& out, Stream stream) {
  check(x.ndim == 4 && x.shape[2] > 0 && x.shape[3] > 0, "x: expected [N, C, H, W] with at least one pixel");
  check(level_weight.ndim == 3, "level_weight: expected [L, D, C]");
  check(fuse_weight.ndim == 2, "fuse_weight: expected [K, C + L·D]");
  const PyramidGrids pyramid = pyramid_grids(grids);
  const int64_t n = x.shape[0], channels = x.shape[1], levels = pyramid.levels;
  const int64_t level_outputs = level_weight.shape[1], outputs = fuse_weight.shape[0];
  const int64_t concatenated = channels + levels * level_outputs;
  check_tensor("level_weight", level_weight, {levels, level_outputs, channels}, x.dtype, x.device);
  check_tensor("fuse_weight", fuse_weight, {outputs, concatenated}, x.dtype, x.device);
  check_parameter("fuse_bias", fuse_bias, {outputs}, x.dtype, x.device);
  check_parameter("level_scale", level_scale, {levels, channels}, x.dtype, x.device);
  check_parameter("level_shift", level_shift, {levels, channels}, x.dtype, x.device);
  check_parameter("fuse_scale", fuse_scale, {concatenated}, x.dtype, x.device);
  check_parameter("fuse_shift", fuse_shift, {concatenated}, x.dtype, x.device);
  const int64_t floats = n * pyramid.cells * (channels + level_outputs);
  check(workspace.dtype == DType::kFloat32 && workspace.ndim == 1 && workspace.shape[0] >= floats,
        "workspace: expected N · cells · (C + D) floats");
  check_tensor("out", out, {n, outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  if (n == 0) return;

  float* const cells = static_cast<float*>(workspace.data);
  float* const level_maps = cells + n * pyramid.cells * channels;
  const AffineRelu level_affine{parameter_of(level_scale, 1.f), parameter_of(level_shift, 0.f)};
  const AffineRelu fuse_affine{parameter_of(fuse_scale, 1.f), parameter_of(fuse_shift, 0.f)};
  const DeviceGuard guard(x.device);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_pool<T>(x, pyramid, cells, stream);
    launch_levels<T>(cells, pyramid, x, level_weight, level_affine, level_maps, stream);
    dispatch_mode(mode, [&](auto m) {
      const PyramidSource<T, decltype(m)::value> source{map_of<const T>(x), level_maps, pyramid,
                                                        static_cast<int>(level_outputs), fuse_affine};
      launch_conv1x1<T>(source, channels_inner(x), matrix_weight<T>(fuse_weight), concatenated,
                        BiasEpilogue{parameter_of(fuse_bias, 0.f)}, out, stream);
    });
  });
}

}  // namespace swiftnet
