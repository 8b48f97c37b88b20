// Checks of the kernels that map pixels to pixels and have no weights but a few for each channel.
#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/ops.h"

namespace swiftnet {
namespace cpu {
namespace {

Map present_map_of(const char* name, const TensorView& t, DType dtype) {
  check(t.defined(), std::string(name) + ": expected a tensor");
  return map_of(name, t, dtype);
}

// A map without elements has no address, so that `map` looks absent.
void check_resizable(const TensorView& x, const Map& map, const Map& out) {
  check(!x.defined() || (map.n == out.n && map.c == out.c && (is_empty(out) || !is_empty(map))),
        "x: expected out's batch and channels, and at least one pixel");
}

}  // namespace

void image_to_map(const TensorView& image, const std::vector<float>& mean, const TensorView& out, int threads) {
  ImageToMap call{};
  call.bf16 = is_bf16(out.dtype);
  call.out = present_map_of("out", out, out.dtype);
  check(call.out.n == 1 && call.out.c == 3, "out: expected [1, 3, H, W]");
  check_tensor("image", image, {call.out.h, call.out.w, 3}, DType::kUInt8, -1);
  check_contiguous("image", image);
  check(mean.size() == 3, "mean: expected 3 numbers");
  call.image = static_cast<const uint8_t*>(image.data);
  for (int c = 0; c < 3; c++) call.mean[c] = mean[c];
  call.threads = threads_of(threads);
  if (!is_empty(call.out)) kernels().image_to_map(call);
}

void max_pool3x3(const TensorView& x, const TensorView& out, int threads) {
  MaxPool3x3 call{};
  call.bf16 = is_bf16(x.dtype);
  call.x = present_map_of("x", x, x.dtype);
  call.out = present_map_of("out", out, x.dtype);
  check_size("out", out, call.x.n, call.x.c, (call.x.h + 1) / 2, (call.x.w + 1) / 2);
  call.threads = threads_of(threads);
  if (!is_empty(call.out)) kernels().max_pool3x3(call);
}

void depthwise3x3(const TensorView& x, const TensorView& weight, const TensorView& bias, int stride,
                  const std::string& activation, const TensorView& out, int threads) {
  Depthwise3x3 call{};
  call.bf16 = is_bf16(x.dtype);
  call.x = present_map_of("x", x, x.dtype);
  call.out = present_map_of("out", out, x.dtype);
  check(stride == 1 || stride == 2, "stride: expected 1 or 2");
  call.stride = stride, call.top = -1;
  const auto size = [&](int64_t n) { return (n + stride - 1) / stride; };
  check_size("out", out, call.x.n, call.x.c, size(call.x.h), size(call.x.w));
  call.weight = parameter_of("weight", weight, {9, call.x.c});
  check(call.weight != nullptr || call.x.c == 0, "weight: expected a tensor");
  call.bias = parameter_of("bias", bias, {call.x.c});
  call.activation = activation_of(activation);
  call.threads = threads_of(threads);
  if (!is_empty(call.out)) kernels().depthwise3x3(call);
}

void upsample_add(const TensorView& x, const TensorView& skip, const TensorView& scale, const TensorView& shift,
                  bool relu, bool nearest, const TensorView& out, int threads) {
  UpsampleAdd call{};
  call.bf16 = is_bf16(out.dtype);
  call.out = present_map_of("out", out, out.dtype);
  call.x = map_of("x", x, out.dtype);
  check_resizable(x, call.x, call.out);
  call.skip = present_map_of("skip", skip, out.dtype);
  check_size("skip", skip, call.out.n, call.out.c, call.out.h, call.out.w);
  call.scale = parameter_of("scale", scale, {call.out.c});
  call.shift = parameter_of("shift", shift, {call.out.c});
  call.relu = relu, call.nearest = nearest;
  call.threads = threads_of(threads);
  if (!is_empty(call.out)) kernels().upsample_add(call);
}

void resize(const TensorView& x, bool nearest, const TensorView& out, int threads) {
  UpsampleAdd call{};
  call.bf16 = is_bf16(out.dtype);
  call.out = present_map_of("out", out, out.dtype);
  call.x = present_map_of("x", x, out.dtype);
  check_resizable(x, call.x, call.out);
  call.nearest = nearest;
  call.threads = threads_of(threads);
  if (!is_empty(call.out)) kernels().upsample_add(call);
}

}  // namespace cpu
}  // namespace swiftnet
