#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/ops.h"

namespace swiftnet {
namespace cpu {
namespace {

// All of a call but its parameters.
Conv2d call_of(const TensorView& x, const TensorView& out, const TensorView& tap, const Convolution& convolution,
               int threads) {
  Conv2d call{};
  call.bf16 = is_bf16(x.dtype);
  call.x = map_of("x", x, x.dtype);
  call.float_out = out.defined() && out.dtype == DType::kFloat32;
  call.out = map_of("out", out, call.float_out ? DType::kFloat32 : x.dtype);
  call.tap = map_of("tap", tap, x.dtype);
  check(out.defined() || tap.defined(), "out, tap: expected at least one of them");
  call.kernel = convolution.kernel, call.stride = convolution.stride, call.padding = convolution.padding;
  check(call.kernel <= kMaxKernel, "kernel: expected at most " + std::to_string(kMaxKernel));
  check(call.kernel > 0 && call.stride > 0 && call.padding >= 0 && call.padding < call.kernel,
        "kernel, stride, padding: expected positive ones, and less padding than kernel");
  call.tile = convolution.tile;
  check(call.x.c > 0, "x: expected at least one channel");
  check(call.tile == 0 || call.tile == 4 || call.tile == 6, "tile: expected 0, 4 or 6");
  check(!call.tile || (call.kernel == 3 && call.stride == 1 && call.padding == 1),
        "tile: expected kernel 3, stride 1 and padding 1, or 0");
  call.activation = activation_of(convolution.activation);
  call.threads = threads_of(threads);
  check(call.x.h + 2 * call.padding >= call.kernel && call.x.w + 2 * call.padding >= call.kernel,
        "x: expected at least the kernel's rows and columns, with the padding");
  const Map& y = out.defined() ? call.out : call.tap;
  const auto size = [&](int64_t n) { return (n + 2 * call.padding - call.kernel) / call.stride + 1; };
  check_size("out", out, call.x.n, y.c, size(call.x.h), size(call.x.w));
  check_size("tap", tap, call.x.n, y.c, size(call.x.h), size(call.x.w));
  return call;
}

}  // namespace

int64_t packed_bytes(DType dtype, int tile, int64_t outputs, int64_t channels, int kernel) {
  check(outputs > 0 && channels > 0 && kernel > 0, "outputs, channels, kernel: expected positive ones");
  check(tile == 0 || ((tile == 4 || tile == 6) && kernel == 3), "tile: expected 0, or 4 or 6 for a 3×3");
  return kernels().packed_bytes(is_bf16(dtype), tile, outputs, channels, kernel);
}

void pack_conv2d(const TensorView& weight, DType dtype, int tile, const TensorView& packed) {
  check(weight.ndim == 4 && weight.shape[2] == weight.shape[3], "weight: expected [outputs, channels, k, k]");
  const int64_t outputs = weight.shape[0], channels = weight.shape[1];
  const int kernel = static_cast<int>(weight.shape[2]);
  const float* values = parameter_of("weight", weight, {outputs, channels, kernel, kernel});
  void* bytes = bytes_of("packed", packed, packed_bytes(dtype, tile, outputs, channels, kernel));
  kernels().pack_conv2d(is_bf16(dtype), tile, values, outputs, channels, kernel, bytes);
}

int64_t conv2d_workspace(const TensorView& x, const TensorView& out_or_tap, const Convolution& convolution,
                         int threads) {
  return kernels().conv2d_workspace(call_of(x, out_or_tap, TensorView(), convolution, threads));
}

void conv2d(const TensorView& x, const TensorView& packed, const Convolution& convolution, const TensorView& bias,
            const TensorView& residual, const TensorView& up, bool nearest, const TensorView& out,
            const TensorView& tap, const TensorView& tap_scale, const TensorView& tap_shift, bool tap_relu,
            const TensorView& workspace, int threads) {
  Conv2d call = call_of(x, out, tap, convolution, threads);
  const Map& y = out.defined() ? call.out : call.tap;
  if (is_empty(y)) return;
  call.packed = bytes_of("packed", packed, packed_bytes(x.dtype, call.tile, y.c, call.x.c, call.kernel));
  call.bias = parameter_of("bias", bias, {y.c});
  call.tap_scale = parameter_of("tap_scale", tap_scale, {y.c});
  call.tap_shift = parameter_of("tap_shift", tap_shift, {y.c});
  call.tap_relu = tap_relu;
  call.residual = map_of("residual", residual, x.dtype);
  check_size("residual", residual, y.n, y.c, y.h, y.w);
  call.up = map_of("up", up, x.dtype);
  check(!up.defined() || (call.up.n == y.n && call.up.c == y.c && call.up.h > 0 && call.up.w > 0),
        "up: expected out's batch and channels, and at least one pixel");
  call.nearest = nearest;
  call.workspace = bytes_of("workspace", workspace, kernels().conv2d_workspace(call));
  kernels().conv2d(call);
}

}  // namespace cpu
}  // namespace swiftnet
