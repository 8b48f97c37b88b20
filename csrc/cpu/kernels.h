// The native CPU kernels of one instruction set, as a table of functions; compiled once for each instruction set.
//
// They trust their arguments: csrc/cpu/*.cpp, which fill these structs, check. Maps are dense channels_last,
// [N, H, W, C] in memory; `bf16` says that they are bfloat16 instead of float; parameters are float.
#pragma once
#include <cstdint>

namespace swiftnet {
namespace cpu {

struct Map {
  void* data = nullptr;  // nullptr: absent
  int64_t n = 0, h = 0, w = 0, c = 0;
};

constexpr int kMaxKernel = 7;

enum class Activation { kNone, kRelu, kRelu6 };

// y = convolution(x) + bias + residual + resize(up); out = activation(y), and tap = [relu](tap_scale·y + tap_shift).
// Both may be absent. Packed weights are made by pack_conv2d for the same level.
struct Conv2d {
  bool bf16, float_out;  // float_out: out is float, whatever x is
  Map x, residual, up, out, tap;
  const void* packed;
  const float *bias, *tap_scale, *tap_shift;  // [outputs]
  int kernel, stride, padding;
  bool winograd;  // a 3×3 of stride 1 and padding 1 alone
  bool nearest;   // of up, else bilinear
  Activation activation;
  bool tap_relu;
  void* workspace;  // conv2d_workspace bytes, aligned to 64
  int threads;
};

// Logits [n, classes, h, w], dense channels_last or contiguous.
struct LogitMap {
  const void* data;
  int64_t h, w;
  bool channels_last;
};

// The mean over maps of the class probabilities, resized bilinearly to [n, classes, h, w], or its labels [n, h, w].
struct MultiscaleMean {
  enum class Order { kSoftmaxThenResize, kResizeThenSoftmax, kResizeOnly };  // the last for one map's labels
  enum class Out { kLabels, kFloat, kBFloat16 };

  bool bf16;  // the maps
  const LogitMap* maps;
  int count;
  Order order;
  int64_t n, classes, h, w;
  Out out_type;
  void* out;
  bool out_channels_last;
  void* workspace;  // multiscale_mean_workspace bytes, aligned to 64
  int threads;
};

struct Kernels {
  const char* level;
  // of a weight [outputs, channels, kernel, kernel], in bytes
  int64_t (*packed_bytes)(bool bf16, bool winograd, int64_t outputs, int64_t channels, int kernel);
  void (*pack_conv2d)(bool bf16, bool winograd, const float* weight, int64_t outputs, int64_t channels, int kernel,
                      void* packed);
  int64_t (*conv2d_workspace)(const Conv2d& call);  // in bytes
  void (*conv2d)(const Conv2d& call);
  int64_t (*multiscale_mean_workspace)(const MultiscaleMean& call);  // in bytes
  void (*multiscale_mean)(const MultiscaleMean& call);
};

// The kernels in use: the best that this CPU runs, or what use_level chose.
const Kernels& kernels();

}  // namespace cpu
}  // namespace swiftnet
