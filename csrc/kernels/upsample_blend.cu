#include "common/dispatch.cuh"
#ifdef SWIFTNET_TENSOR_CORES
#include "upsample_blend.cuh"
#else
#include "conv3x3.cuh"
#endif

namespace swiftnet {

#ifdef SWIFTNET_TENSOR_CORES

namespace {

template <class T, class Traits, class Epilogue>
void launch(const Blend<T>& blend, const float* packed, int64_t outputs, const Epilogue& epilogue, int64_t n,
            Stream stream) {
  const Tiling tiles =
      tiling(n, outputs, blend.tap.height, blend.tap.width, Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Vector* const weights = reinterpret_cast<const Vector*>(packed);
  const int64_t group_vectors = mma_group_vectors(blend.x.channels);
  const int groups = static_cast<int>(ceil_div(outputs, Traits::kGroup));
  const size_t shared = blend_shared_bytes<Traits, Epilogue>(blend.x.channels, blend.tap.channels);
  allow_shared(upsample_blend_kernel<T, Traits, Epilogue>);
  SWIFTNET_LAUNCH((upsample_blend_kernel<T, Traits, Epilogue>), grid, block, shared, stream, blend, weights,
                  group_vectors, groups, epilogue, tiles);
}

template <int kOutputs>
using BlendTraits = MmaTraits<kOutputs, 1>;

}  // namespace

std::string why_not_upsample_blend(const TensorView& tap, const TensorView& lateral_weight, const TensorView& x,
                                   int64_t outputs, int64_t classes) {
  if (tap.dtype != DType::kFloat16 && tap.dtype != DType::kBFloat16) return "it takes float16 and bfloat16 maps";
  if (!fits_tensor_cores(tap) || !fits_tensor_cores(x) || !moves_by_vectors(lateral_weight, 1, 8) || outputs % 8 != 0)
    return "it takes channels_last maps with channels in eights, aligned to 16 bytes";
  if (classes > HeadEpilogue<__half>::kHeadOutputs || (classes > 0 && outputs > 128))
    return "it takes heads of up to 24 outputs on up to 128";
  const size_t needed = blend_shared_bytes<BlendTraits<128>, MapEpilogue<__half>>(x.shape[1], tap.shape[1]);
  const DeviceGuard guard(tap.device);
  if (needed + kHaloTaps * sizeof(ResizeTap) > max_shared_bytes())
    return "its tile of " + std::to_string(x.shape[1]) + " channels, and the affine of " +
           std::to_string(tap.shape[1]) + ", need more shared memory than this GPU has";
  return "";
}

bool upsample_blend_pays(const TensorView& tap, int64_t outputs) {
  const DeviceGuard guard(tap.device);
  return outputs <= mma_outputs(tap.shape[0], outputs, tap.shape[2], tap.shape[3]);
}

void upsample_blend(const TensorView& tap, const TensorView& lateral_weight, const TensorView& x,
                    const TensorView& weight, const TensorView& packed, bool pack, const TensorView& lateral_bias,
                    const TensorView& scale, const TensorView& shift, const TensorView& out_scale,
                    const TensorView& out_shift, const TensorView& bias, const TensorView& head_weight,
                    const TensorView& head_bias, const TensorView& head_scale, const TensorView& head_shift,
                    Resize mode, const TensorView& out, Stream stream) {
  check(tap.ndim == 4, "tap: expected [N, T, H, W]");
  check(lateral_weight.ndim == 4, "lateral_weight: expected [C, T, 1, 1]");
  check(weight.ndim == 4, "weight: expected [K, C, 3, 3]");
  check(x.ndim == 4 && x.shape[2] > 0 && x.shape[3] > 0, "x: expected [N, C, h, w] with at least one pixel");
  const int64_t n = tap.shape[0], tap_channels = tap.shape[1], channels = x.shape[1], outputs = weight.shape[0];
  const int64_t classes = head_weight.defined() ? head_weight.shape[0] : 0;
  check_tensor("x", x, {n, channels, x.shape[2], x.shape[3]}, tap.dtype, tap.device);
  check_tensor("lateral_weight", lateral_weight, {channels, tap_channels, 1, 1}, tap.dtype, tap.device);
  check_tensor("weight", weight, {outputs, channels, 3, 3}, tap.dtype, tap.device);
  check_tensor("packed", packed, {mma_packed_numel(outputs, channels)}, DType::kFloat32, tap.device);
  check(reinterpret_cast<uintptr_t>(packed.data) % 16 == 0, "packed: expected memory aligned to 16 bytes");
  check_parameter("scale", scale, {tap_channels}, tap.dtype, tap.device);
  check_parameter("shift", shift, {tap_channels}, tap.dtype, tap.device);
  for (const TensorView* parameter : {&lateral_bias, &out_scale, &out_shift})
    check_parameter("lateral_bias, out_scale, out_shift", *parameter, {channels}, tap.dtype, tap.device);
  for (const TensorView* parameter : {&bias, &head_scale, &head_shift})
    check_parameter("bias, head_scale, head_shift", *parameter, {outputs}, tap.dtype, tap.device);
  if (classes > 0) {
    check_tensor("head_weight", head_weight, {classes, outputs, 1, 1}, tap.dtype, tap.device);
    check_parameter("head_bias", head_bias, {classes}, tap.dtype, tap.device);
  }
  check_tensor("out", out, {n, classes > 0 ? classes : outputs, tap.shape[2], tap.shape[3]}, tap.dtype, tap.device);
  const std::string why_not = why_not_upsample_blend(tap, lateral_weight, x, outputs, classes);
  check(why_not.empty(), "upsample_blend: one launch does not make this block: " + why_not);
  check(classes > 0 || fits_tensor_cores(out), "out: expected a channels_last map, aligned to 16 bytes");

  const DeviceGuard guard(tap.device);
  float* const weights = static_cast<float*>(packed.data);
  if (pack) pack_mma(weight, weights, stream);
  dispatch_half_dtype(tap.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Blend<T> blend{map_of<const T>(tap),
                         map_of<const T>(x),
                         static_cast<const T*>(lateral_weight.data),
                         lateral_weight.strides[0],
                         {parameter_of(scale, 1.f), parameter_of(shift, 0.f)},
                         parameter_of(lateral_bias, 0.f),
                         parameter_of(out_scale, 1.f),
                         parameter_of(out_shift, 0.f),
                         mode == Resize::kNearest};
    if (classes > 0) {
      const auto epilogue = head_epilogue<T>(outputs, bias, head_scale, head_shift, head_weight, head_bias, out);
      return launch<T, BlendTraits<128>>(blend, weights, outputs, epilogue, n, stream);
    }
    const MapEpilogue<T> epilogue{{parameter_of(bias, 0.f), {}, {}, map_of<T>(out), false}};
    if (mma_outputs(n, outputs, tap.shape[2], tap.shape[3]) == 128)
      return launch<T, BlendTraits<128>>(blend, weights, outputs, epilogue, n, stream);
    launch<T, BlendTraits<64>>(blend, weights, outputs, epilogue, n, stream);
  });
}

#else

std::string why_not_upsample_blend(const TensorView&, const TensorView&, const TensorView&, int64_t, int64_t) {
  return "these kernels were built by CUDA 10";
}

bool upsample_blend_pays(const TensorView&, int64_t) { return false; }

void upsample_blend(const TensorView&, const TensorView&, const TensorView&, const TensorView&, const TensorView&, bool,
                    const TensorView&, const TensorView&, const TensorView&, const TensorView&, const TensorView&,
                    const TensorView&, const TensorView&, const TensorView&, const TensorView&, const TensorView&,
                    Resize, const TensorView&, Stream) {
  throw std::invalid_argument("upsample_blend: these kernels were built by CUDA 10, without tensor cores");
}

#endif

}  // namespace swiftnet
