#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/ops.h"

namespace swiftnet {
namespace cpu {
namespace {

Conv2d conv1x1(const Map& x, const Map& out, bool bf16) {
  Conv2d call{};
  call.bf16 = bf16;
  call.x = x, call.out = out;
  call.kernel = call.stride = 1;
  return call;
}

// All of a call but its parameters.
InvertedResidual call_of(const TensorView& x, bool expands, int64_t hidden, int stride, const TensorView& out,
                         const TensorView& tap, int threads) {
  check(x.defined() && x.ndim == 4, "x: expected [N, C, H, W]");
  check(out.defined() || tap.defined(), "out, tap: expected at least one of them");
  check(stride == 1 || stride == 2, "stride: expected 1 or 2");
  const bool bf16 = is_bf16(x.dtype);
  const Map map = map_of("x", x, x.dtype);
  check(map.c > 0 && hidden > 0 && (expands || hidden == map.c),
        "x, depthwise: expected channels, and without expand as many in both");
  const auto size = [&](int64_t n) { return (n + stride - 1) / stride; };
  const Map wide = {nullptr, map.n, map.h, map.w, hidden}, strided = {nullptr, map.n, size(map.h), size(map.w), hidden};
  InvertedResidual call{};
  call.expands = expands;
  call.expand = conv1x1(map, wide, bf16);
  call.depthwise.bf16 = bf16;
  call.depthwise.x = expands ? wide : map, call.depthwise.out = strided;
  call.depthwise.stride = stride;
  call.project = conv1x1(strided, map_of("out", out, x.dtype), bf16);
  call.project.tap = map_of("tap", tap, x.dtype);
  const int64_t outputs = out.defined() ? call.project.out.c : call.project.tap.c;
  check(outputs > 0, "out, tap: expected at least one channel");
  check_size("out", out, strided.n, outputs, strided.h, strided.w);
  check_size("tap", tap, strided.n, outputs, strided.h, strided.w);
  call.threads = threads_of(threads);
  return call;
}

}  // namespace

int64_t inverted_residual_workspace(const TensorView& x, bool expands, int64_t hidden, int stride,
                                    const TensorView& out_or_tap, int threads) {
  const InvertedResidual call = call_of(x, expands, hidden, stride, out_or_tap, {}, threads);
  return is_empty(call.expand.x) ? 0 : kernels().inverted_residual_workspace(call);
}

void inverted_residual(const InvertedResidualBlock& block, const TensorView& workspace) {
  check(block.depthwise.defined() && block.depthwise.ndim == 2, "depthwise: expected [9, hidden channels]");
  const int64_t hidden = block.depthwise.shape[1];
  InvertedResidual call =
      call_of(block.x, block.expand.defined(), hidden, block.stride, block.out, block.tap, block.threads);
  const DType dtype = block.x.dtype;
  if (call.expands) {
    call.expand.packed = bytes_of("expand", block.expand, packed_bytes(dtype, 0, hidden, call.expand.x.c, 1));
    call.expand.bias = parameter_of("expand_bias", block.expand_bias, {hidden});
  }
  call.depthwise.weight = parameter_of("depthwise", block.depthwise, {9, hidden});
  call.depthwise.bias = parameter_of("depthwise_bias", block.depthwise_bias, {hidden});
  call.expand.activation = call.depthwise.activation = activation_of(block.activation);
  Conv2d& project = call.project;
  const Map& y = block.out.defined() ? project.out : project.tap;
  project.packed = bytes_of("project", block.project, packed_bytes(dtype, 0, y.c, hidden, 1));
  project.bias = parameter_of("project_bias", block.project_bias, {y.c});
  project.activation = activation_of(block.project_activation);
  project.residual = map_of("residual", block.residual, dtype);
  check_size("residual", block.residual, y.n, y.c, y.h, y.w);
  project.tap_scale = parameter_of("tap_scale", block.tap_scale, {y.c});
  project.tap_shift = parameter_of("tap_shift", block.tap_shift, {y.c});
  project.tap_relu = block.tap_relu;
  if (is_empty(call.expand.x)) return;
  call.workspace = bytes_of("workspace", workspace, kernels().inverted_residual_workspace(call));
  kernels().inverted_residual(call);
}

}  // namespace cpu
}  // namespace swiftnet
