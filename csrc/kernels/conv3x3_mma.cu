#include "common/dispatch.cuh"
#ifdef SWIFTNET_TENSOR_CORES
#include "conv3x3_mma.cuh"
#else
#include "conv3x3.cuh"
#endif

namespace swiftnet {

#ifdef SWIFTNET_TENSOR_CORES

namespace {

const char kMisfit[] = "algorithm: tensor_cores takes channels_last maps with channels in eights, aligned to 16 bytes";

template <class T, class Traits, class Epilogue>
void launch(const TensorView& x, const float* packed, int64_t outputs, const Epilogue& epilogue, Stream stream) {
  const Tiling tiles =
      tiling(x.shape[0], outputs, x.shape[2], x.shape[3], Traits::kOutputs, Traits::kRows, Traits::kColumns);
  if (tiles.blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(tiles.blocks)), block(Traits::kThreads);
  const Map<const T> map = map_of<const T>(x);
  const Vector* const weights = reinterpret_cast<const Vector*>(packed);
  const int64_t group_vectors = mma_group_vectors(x.shape[1]);
  const int groups = static_cast<int>(ceil_div(outputs, Traits::kGroup));
  const size_t shared = mma_shared_bytes<Traits, Epilogue>(2);
  allow_shared(conv3x3_mma_kernel<T, Traits, Epilogue>);
  SWIFTNET_LAUNCH((conv3x3_mma_kernel<T, Traits, Epilogue>), grid, block, shared, stream, map, weights, group_vectors,
                  groups, epilogue, tiles);
}

}  // namespace

int64_t mma_packed_numel(int64_t outputs, int64_t channels) {
  return ceil_div(outputs, MmaTile::kGroup) * mma_group_vectors(channels) * 4;
}

void pack_mma(const TensorView& weight, float* packed, Stream stream) {
  const int64_t slices = mma_slices(weight.shape[1]), count = mma_packed_numel(weight.shape[0], weight.shape[1]) * 2;
  const int64_t blocks = ceil_div(count, 256);
  check(blocks <= 2147483647, "weight: packing it needs more than 2^31 - 1 blocks");
  const dim3 grid(static_cast<unsigned>(blocks)), block(256);
  const int outputs = static_cast<int>(weight.shape[0]);
  dispatch_half_dtype(weight.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Map<const T> map = map_of<const T>(weight);
    T* const to = reinterpret_cast<T*>(packed);
    SWIFTNET_LAUNCH((pack_mma_kernel<T>), grid, block, 0, stream, map, outputs, slices, to, count);
  });
}

void conv3x3_mma(const Conv3x3Call& call) {
  const TensorView& x = call.x;
  check(fits_tensor_cores(x) && fits_tensor_cores(call.residual) && fits_tensor_cores(call.sum) &&
            fits_tensor_cores(call.out),
        kMisfit);
  if (call.pack) pack_mma(call.weight, call.packed, call.stream);
  const int64_t outputs = call.out.shape[1];
  dispatch_half_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const MapEpilogue<T> epilogue{conv_epilogue<T>(call)};
    switch (mma_outputs(x.shape[0], outputs, x.shape[2], x.shape[3])) {
      case 128: return launch<T, MmaTraits<128, 3>>(x, call.packed, outputs, epilogue, call.stream);
      case 64: return launch<T, MmaTraits<64, 3>>(x, call.packed, outputs, epilogue, call.stream);
      default: return launch<T, MmaTraits<32, 3>>(x, call.packed, outputs, epilogue, call.stream);
    }
  });
}

void conv3x3_head_mma(const Conv3x3HeadCall& call) {
  const TensorView& x = call.x;
  const int64_t outputs = call.weight.shape[0];
  check(fits_tensor_cores(x), kMisfit);
  check_head(outputs, call.out.shape[1]);
  if (call.pack) pack_mma(call.weight, call.packed, call.stream);
  dispatch_half_dtype(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto epilogue =
        head_epilogue<T>(outputs, call.bias, call.scale, call.shift, call.head_weight, call.head_bias, call.out);
    launch<T, MmaTraits<128, 3>>(x, call.packed, outputs, epilogue, call.stream);
  });
}

#else

namespace {
[[noreturn]] void missing() {
  throw std::invalid_argument("algorithm: these kernels were built by CUDA 10, without tensor_cores; choose another");
}
}  // namespace

int64_t mma_packed_numel(int64_t, int64_t) { missing(); }
void pack_mma(const TensorView&, float*, Stream) { missing(); }
void conv3x3_mma(const Conv3x3Call&) { missing(); }
void conv3x3_head_mma(const Conv3x3HeadCall&) { missing(); }

#endif

}  // namespace swiftnet
