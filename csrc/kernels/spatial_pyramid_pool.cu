#include "spatial_pyramid_pool.cuh"

#include <climits>

#include "../ops.h"
#include "common/dispatch.cuh"
#include "spatial_pyramid_pool_fuse.cuh"

namespace swiftnet {
namespace {

PyramidGrids pyramid_grids(const std::vector<std::pair<int, int>>& grids) {
  check(!grids.empty() && grids.size() <= PyramidGrids::kMaxLevels, "grids: expected 1 to 8 levels");
  PyramidGrids g{};
  for (const auto& grid : grids) {
    check(grid.first > 0 && grid.second > 0 && grid.first <= PyramidGrids::kMaxCells &&
              grid.second <= PyramidGrids::kMaxCells,
          "grids: expected positive rows and columns, at most 1024 cells in all");
    g.levels[g.count++] = {grid.first, grid.second, g.cells, g.columns};
    g.cells += grid.first * grid.second;
    g.columns += grid.second;
    check(g.cells <= PyramidGrids::kMaxCells, "grids: expected at most 1024 cells in all");
  }
  return g;
}

dim3 blocks_of(int64_t count) {
  check(count <= 2147483647, "the batch needs more than 2^31 - 1 blocks; split it");
  return dim3(static_cast<unsigned>(count));
}

template <class T, Access kAccess>
void launch_pool(const TensorView& x, const PyramidGrids& grids, float* strips, Stream stream) {
  const dim3 grid = blocks_of(x.shape[0] * x.shape[2] * ceil_div(x.shape[1], PoolTraits::kChannels));
  const Map<const T> map = map_of<const T>(x);
  SWIFTNET_LAUNCH((pool_kernel<T, kAccess>), grid, dim3(PoolTraits::kThreads), 0, stream, map, grids, strips);
}

template <class T, bool kWhole>
void launch_levels(const float* strips, const PyramidGrids& grids, const TensorView& x, const TensorView& weight,
                   const AffineRelu& affine_relu, float* levels, Stream stream) {
  const int channels = static_cast<int>(x.shape[1]), outputs = static_cast<int>(weight.shape[1]);
  const int height = static_cast<int>(x.shape[2]), width = static_cast<int>(x.shape[3]);
  const dim3 grid = blocks_of(x.shape[0] * grids.cells * ceil_div(outputs, LevelTraits::kOutputs));
  const LevelWeight<T> matrices{static_cast<const T*>(weight.data), weight.strides[0], weight.strides[1],
                                weight.strides[2]};
  SWIFTNET_LAUNCH((level_kernel<T, kWhole>), grid, dim3(LevelTraits::kThreads), 0, stream, strips, grids, channels,
                  height, width, outputs, affine_relu, matrices, levels);
}

template <class T, Access kAccess, bool kWhole>
void launch_fuse(const PyramidSource<T>& source, Resize mode, const TensorView& weight, const Parameter& bias,
                 const TensorView& out, Stream stream) {
  using Traits = FuseTraits;
  const Tiling tiles =
      tiling(out.shape[0], out.shape[1], out.shape[2], out.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const FuseWeight<T> matrix{static_cast<const T*>(weight.data), weight.strides[0], weight.strides[1]};
  const Map<T> y = map_of<T>(out);
  SWIFTNET_LAUNCH((fuse_kernel<T, kAccess, kWhole>), grid, block, 0, stream, source, mode, matrix, bias, y, tiles);
}

}  // namespace

void spatial_pyramid_pool(const TensorView& x, const TensorView& level_weight, const TensorView& fuse_weight,
                          const TensorView& fuse_bias, const TensorView& level_scale, const TensorView& level_shift,
                          const TensorView& fuse_scale, const TensorView& fuse_shift,
                          const std::vector<std::pair<int, int>>& grids, Resize mode, const TensorView& workspace,
                          const TensorView& out, Stream stream) {
  check(x.ndim == 4 && x.shape[1] > 0 && x.shape[2] > 0 && x.shape[3] > 0,
        "x: expected [N, C, H, W] with at least one channel and pixel");
  check(level_weight.ndim == 3 && level_weight.shape[1] > 0,
        "level_weight: expected [L, D, C] with at least one output");
  check(fuse_weight.ndim == 2, "fuse_weight: expected [K, C + L·D]");
  const PyramidGrids pyramid = pyramid_grids(grids);
  const int64_t n = x.shape[0], channels = x.shape[1], levels = pyramid.count;
  const int64_t level_outputs = level_weight.shape[1], outputs = fuse_weight.shape[0];
  const int64_t concatenated = channels + levels * level_outputs;
  check(pyramid.cells * level_outputs <= INT_MAX,
        "level_weight: expected at most 2^31 - 1 elements of an image's levels");
  check_tensor("level_weight", level_weight, {levels, level_outputs, channels}, x.dtype, x.device);
  check_tensor("fuse_weight", fuse_weight, {outputs, concatenated}, x.dtype, x.device);
  check_parameter("fuse_bias", fuse_bias, {outputs}, x.dtype, x.device);
  check_parameter("level_scale", level_scale, {levels, channels}, x.dtype, x.device);
  check_parameter("level_shift", level_shift, {levels, channels}, x.dtype, x.device);
  check_parameter("fuse_scale", fuse_scale, {concatenated}, x.dtype, x.device);
  check_parameter("fuse_shift", fuse_shift, {concatenated}, x.dtype, x.device);
  const int64_t strips_size = n * x.shape[2] * pyramid.columns * strip_pitch(channels);
  const int64_t floats = strips_size + n * pyramid.cells * level_outputs;
  check(workspace.dtype == DType::kFloat32 && workspace.ndim == 1 && workspace.shape[0] >= floats,
        "workspace: expected N · (H · columns · C + cells · D) floats, with C rounded up to fours");
  check(reinterpret_cast<uintptr_t>(workspace.data) % 16 == 0, "workspace: expected memory aligned to 16 bytes");
  check_tensor("out", out, {n, outputs, x.shape[2], x.shape[3]}, x.dtype, x.device);
  if (n == 0) return;

  float* const strips = static_cast<float*>(workspace.data);
  float* const level_maps = strips + strips_size;
  const AffineRelu level_affine{parameter_of(level_scale, 1.f), parameter_of(level_shift, 0.f)};
  const AffineRelu fuse_affine{parameter_of(fuse_scale, 1.f), parameter_of(fuse_shift, 0.f)};
  const Parameter bias = parameter_of(fuse_bias, 0.f);
  const DeviceGuard guard(x.device);
  dispatch_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    dispatch_access(access_of({&x}), [&](auto a) { launch_pool<T, decltype(a)::value>(x, pyramid, strips, stream); });
    dispatch_bool(moves_by_vectors(level_weight, 2), [&](auto whole) {
      launch_levels<T, decltype(whole)::value>(strips, pyramid, x, level_weight, level_affine, level_maps, stream);
    });
    const PyramidSource<T> source{map_of<const T>(x), level_maps, pyramid, static_cast<int>(level_outputs),
                                  fuse_affine};
    dispatch_access(access_of({&x, &out}), [&](auto a) {
      dispatch_bool(moves_by_vectors(fuse_weight, 1) && channels % 4 == 0, [&](auto whole) {
        launch_fuse<T, decltype(a)::value, decltype(whole)::value>(source, mode, fuse_weight, bias, out, stream);
      });
    });
  });
}

}  // namespace swiftnet
