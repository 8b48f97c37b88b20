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
  int tile;      // 4 or 6: by Winograd's algorithm, a 3×3 of stride 1 and padding 1; 0: directly
  bool nearest;  // of up, else bilinear
  Activation activation;
  bool tap_relu;
  void* workspace;  // conv2d_workspace bytes, aligned to 64
  int threads;
};

// out = image - mean, of one image.
struct ImageToMap {
  bool bf16;             // of out
  const uint8_t* image;  // [H, W, 3]
  float mean[3];
  Map out;
  int threads;
};

// Kernel 3, stride 2, padding 1.
struct MaxPool3x3 {
  bool bf16;
  Map x, out;
  int threads;
};

// Padding 1: the windows of out's first row begin at row `top` of x, which is -1 but where x and out are bands of maps.
struct Depthwise3x3 {
  bool bf16;
  Map x, out;
  const float *weight, *bias;  // [9, C], [C] or absent
  int stride;                  // 1 or 2
  int64_t top;
  Activation activation;
  int threads;
};

// project(depthwise(expand(x))), the convolutions being 1×1. The maps in between have a size and no data; without
// expand, depthwise.x is the block's input.
struct InvertedResidual {
  bool expands;
  Conv2d expand;
  Depthwise3x3 depthwise;
  Conv2d project;
  void* workspace;  // inverted_residual_workspace bytes, aligned to 64
  int threads;
};

// out = [relu](scale·(resize(x) + skip) + shift); what is absent adds nothing.
struct UpsampleAdd {
  bool bf16;
  Map x, skip, out;
  const float *scale, *shift;  // [C]
  bool relu, nearest;
  int threads;
};

struct Grid {
  int64_t rows, columns;
};
constexpr int kMaxGrids = 8;

// The concatenation of x and of every level's resized level_weight·relu(level_scale·mean + level_shift), through
// relu(fuse_scale·… + fuse_shift) and the fusing 1×1. Absent affines are 1 and 0.
struct SpatialPyramidPool {
  bool bf16;
  Map x, out;
  const float *level_weight, *level_scale, *level_shift;           // [L, D, C], [L, C]
  const float *fuse_weight, *fuse_bias, *fuse_scale, *fuse_shift;  // [K, C + L·D], [K], [C + L·D]
  Grid grids[kMaxGrids];
  int levels;
  int64_t level_channels;
  bool nearest;
  void* workspace;  // spatial_pyramid_pool_workspace bytes, aligned to 64
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
  int64_t (*packed_bytes)(bool bf16, int tile, int64_t outputs, int64_t channels, int kernel);
  void (*pack_conv2d)(bool bf16, int tile, const float* weight, int64_t outputs, int64_t channels, int kernel,
                      void* packed);
  int64_t (*conv2d_workspace)(const Conv2d& call);  // in bytes
  void (*conv2d)(const Conv2d& call);
  void (*image_to_map)(const ImageToMap& call);
  void (*max_pool3x3)(const MaxPool3x3& call);
  void (*depthwise3x3)(const Depthwise3x3& call);
  int64_t (*inverted_residual_workspace)(const InvertedResidual& call);  // in bytes
  void (*inverted_residual)(const InvertedResidual& call);
  void (*upsample_add)(const UpsampleAdd& call);
  int64_t (*spatial_pyramid_pool_workspace)(const SpatialPyramidPool& call);  // in bytes
  void (*spatial_pyramid_pool)(const SpatialPyramidPool& call);
  int64_t (*multiscale_mean_workspace)(const MultiscaleMean& call);  // in bytes
  void (*multiscale_mean)(const MultiscaleMean& call);
};

// The kernels in use: the best that this CPU runs, or what use_level chose.
const Kernels& kernels();

}  // namespace cpu
}  // namespace swiftnet
