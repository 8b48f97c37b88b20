#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/ops.h"

namespace swiftnet {
namespace cpu {
namespace {

constexpr int64_t kMaxCells = 1024;  // of all grids; so products of sizes stay far from the end of int64_t

SpatialPyramidPool call_of(const PyramidPool& pool) {
  SpatialPyramidPool call{};
  call.bf16 = is_bf16(pool.x.dtype);
  call.x = map_of("x", pool.x, pool.x.dtype);
  check(call.x.c > 0 && call.x.h > 0 && call.x.w > 0, "x: expected [N, C, H, W] with at least one channel and pixel");
  check(!pool.sizes.empty() && pool.sizes.size() % 2 == 0 && pool.sizes.size() <= 2 * kMaxGrids,
        "sizes: expected rows and columns of 1 to 8 grids, one after the other");
  call.levels = static_cast<int>(pool.sizes.size() / 2);
  int64_t cells = 0;
  for (int i = 0; i < call.levels; i++) {
    const Grid grid{pool.sizes[2 * i], pool.sizes[2 * i + 1]};
    check(grid.rows > 0 && grid.columns > 0 && grid.rows <= kMaxCells && grid.columns <= kMaxCells,
          "sizes: expected positive numbers, at most 1024 cells in all");
    call.grids[i] = grid;
    cells += grid.rows * grid.columns;
    check(cells <= kMaxCells, "sizes: expected at most 1024 cells in all");
  }
  check(pool.level_weight.ndim == 3 && pool.level_weight.shape[1] > 0,
        "level_weight: expected [L, D, C] with at least one output");
  call.level_channels = pool.level_weight.shape[1];
  call.out = map_of("out", pool.out, pool.x.dtype);
  check(pool.out.defined(), "out: expected a tensor");
  check_size("out", pool.out, call.x.n, call.out.c, call.x.h, call.x.w);
  call.nearest = pool.nearest;
  call.threads = threads_of(pool.threads);
  return call;
}

}  // namespace

int64_t spatial_pyramid_pool_workspace(const PyramidPool& pool) {
  return kernels().spatial_pyramid_pool_workspace(call_of(pool));
}

void spatial_pyramid_pool(const PyramidPool& pool, const TensorView& workspace) {
  SpatialPyramidPool call = call_of(pool);
  const int64_t levels = call.levels, channels = call.x.c, outputs = call.out.c;
  const int64_t concatenated = channels + levels * call.level_channels;
  call.level_weight = parameter_of("level_weight", pool.level_weight, {levels, call.level_channels, channels});
  call.level_scale = parameter_of("level_scale", pool.level_scale, {levels, channels});
  call.level_shift = parameter_of("level_shift", pool.level_shift, {levels, channels});
  check(pool.fuse_weight.defined(), "fuse_weight: expected a tensor");
  call.fuse_weight = parameter_of("fuse_weight", pool.fuse_weight, {outputs, concatenated});
  call.fuse_bias = parameter_of("fuse_bias", pool.fuse_bias, {outputs});
  call.fuse_scale = parameter_of("fuse_scale", pool.fuse_scale, {concatenated});
  call.fuse_shift = parameter_of("fuse_shift", pool.fuse_shift, {concatenated});
  if (call.x.n == 0 || outputs == 0) return;
  call.workspace = bytes_of("workspace", workspace, kernels().spatial_pyramid_pool_workspace(call));
  kernels().spatial_pyramid_pool(call);
}

}  // namespace cpu
}  // namespace swiftnet
