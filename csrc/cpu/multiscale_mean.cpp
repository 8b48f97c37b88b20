#include "cpu/kernels.h"
#include "cpu/map.h"
#include "cpu/ops.h"

namespace swiftnet {
namespace cpu {
namespace {

// Whether [N, C, H, W] is dense in channels_last rather than contiguous.
bool is_channels_last(const char* name, const TensorView& t) {
  if (is_dense(t, kContiguous)) return false;
  check(is_dense(t, kChannelsLast), std::string(name) + ": expected a contiguous or a dense channels_last tensor");
  return true;
}

// All of a call but its workspace; `maps` are what it points to.
MultiscaleMean call_of(const std::vector<TensorView>& logits, const std::string& order, const TensorView& out,
                       int threads, std::vector<LogitMap>& maps) {
  check(!logits.empty(), "logits: expected at least one map");
  check(order == "softmax_then_resize" || order == "resize_then_softmax",
        "order: expected softmax_then_resize or resize_then_softmax, got " + order);
  const TensorView& first = logits[0];
  check(is_map_dtype(first.dtype), "logits: expected float32 or bfloat16");
  for (const TensorView& t : logits) {
    check(t.ndim == 4 && t.shape[1] > 0 && t.shape[2] > 0 && t.shape[3] > 0,
          "logits: expected [N, classes, h, w] with classes and pixels");
    check_tensor("logits", t, {first.shape[0], first.shape[1], t.shape[2], t.shape[3]}, first.dtype, -1);
    check(t.shape[2] < (1 << 28) && t.shape[3] < (1 << 28), "logits: expected fewer than 2^28 rows and columns");
    maps.push_back({t.data, t.shape[2], t.shape[3], is_channels_last("logits", t)});
  }
  const bool labels = out.dtype == DType::kUInt8;
  check(labels || is_map_dtype(out.dtype), "out: expected float32, bfloat16 or uint8");
  check(out.ndim == (labels ? 3 : 4), "out: expected [N, classes, H, W], or [N, H, W] of uint8");
  check(!labels || first.shape[1] <= 255, "logits: uint8 labels name at most 255 classes");

  MultiscaleMean call{};
  call.bf16 = first.dtype == DType::kBFloat16;
  call.maps = maps.data(), call.count = static_cast<int>(maps.size());
  call.order = order == "softmax_then_resize" ? MultiscaleMean::Order::kSoftmaxThenResize
               : labels && maps.size() == 1   ? MultiscaleMean::Order::kResizeOnly
                                              : MultiscaleMean::Order::kResizeThenSoftmax;
  call.n = first.shape[0], call.classes = first.shape[1];
  call.h = out.shape[out.ndim - 2], call.w = out.shape[out.ndim - 1];
  check(call.h < (1 << 28) && call.w < (1 << 28), "out: expected fewer than 2^28 rows and columns");
  if (labels) {
    check_tensor("out", out, {call.n, call.h, call.w}, out.dtype, -1);
    check(is_dense({out.data,
                    out.dtype,
                    4,
                    {call.n, 1, call.h, call.w},
                    {out.strides[0], 1, out.strides[1], out.strides[2]},
                    -1},
                   kContiguous),
          "out: expected contiguous labels");
  } else {
    check_tensor("out", out, {call.n, call.classes, call.h, call.w}, out.dtype, -1);
    call.out_channels_last = is_channels_last("out", out);
  }
  call.out_type = labels                         ? MultiscaleMean::Out::kLabels
                  : out.dtype == DType::kFloat32 ? MultiscaleMean::Out::kFloat
                                                 : MultiscaleMean::Out::kBFloat16;
  call.out = out.data;
  call.threads = threads_of(threads);
  return call;
}

}  // namespace

int64_t multiscale_mean_workspace(const std::vector<TensorView>& logits, const std::string& order,
                                  const TensorView& out, int threads) {
  std::vector<LogitMap> maps;
  const MultiscaleMean call = call_of(logits, order, out, threads, maps);
  return out.numel() == 0 ? 0 : kernels().multiscale_mean_workspace(call);
}

void multiscale_mean(const std::vector<TensorView>& logits, const std::string& order, const TensorView& out,
                     const TensorView& workspace, int threads) {
  std::vector<LogitMap> maps;
  MultiscaleMean call = call_of(logits, order, out, threads, maps);
  if (out.numel() == 0) return;
  call.workspace = bytes_of("workspace", workspace, kernels().multiscale_mean_workspace(call));
  kernels().multiscale_mean(call);
}

}  // namespace cpu
}  // namespace swiftnet
