// MobileNetV2's block, 1×1, depthwise 3×3, 1×1, a band of rows at a time: the hidden maps, six times as wide as the
// block's input, stay in a thread's cache. A thread goes down through its bands and keeps the rows that the next one
// reads too.
#include "cpu/kernels/level.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

constexpr int64_t kBandBytes = 512 * 1024;  // for the expanded rows of a band

int64_t bytes_of_row(const Map& map, bool bf16) { return map.w * map.c * (bf16 ? 2 : 4); }

// `count` rows of image n from `first` on; an absent map stays so.
Map rows_of(const Map& map, bool bf16, int64_t n, int64_t first, int64_t count) {
  if (!map.data) return map;
  char* data = static_cast<char*>(map.data) + (n * map.h + first) * bytes_of_row(map, bf16);
  return {data, 1, count, map.w, map.c};
}

class Bands {
 public:
  explicit Bands(const InvertedResidual& call) : call_(call), stride_(call.depthwise.stride) {
    const Map &x = call.depthwise.x, &y = call.depthwise.out;
    row_bytes_ = bytes_of_row(x, bf16()), out_row_bytes_ = bytes_of_row(y, bf16());
    rows_ = (kBandBytes / row_bytes_ - 3) / stride_ + 1;
    if (rows_ > y.h) rows_ = y.h;
    if (rows_ < 1) rows_ = 1;
    expanded_bytes_ = expands() ? round_up((stride_ * (rows_ - 1) + 3) * row_bytes_, 64) : 0;
    hidden_bytes_ = round_up(rows_ * out_row_bytes_, 64);
    convolution_bytes_ = workspace_of(call.project);
    if (expands() && workspace_of(call.expand) > convolution_bytes_) convolution_bytes_ = workspace_of(call.expand);
  }

  int64_t bytes() const { return call_.threads * bytes_of_thread(); }

  void run() const {
    const int64_t height = call_.depthwise.out.h;
    parallel_parts(call_.threads, call_.depthwise.out.n * height, [&](int64_t part, int64_t begin, int64_t end) {
      char* memory = static_cast<char*>(call_.workspace) + part * bytes_of_thread();
      while (begin < end) {
        const int64_t n = begin / height, first = begin % height;
        const int64_t count = end - begin < height - first ? end - begin : height - first;
        go_down(n, first, first + count, memory);
        begin += count;
      }
    });
  }

 private:
  bool bf16() const { return call_.depthwise.bf16; }
  bool expands() const { return call_.expands; }
  int64_t bytes_of_thread() const { return expanded_bytes_ + hidden_bytes_ + convolution_bytes_; }
  static int64_t workspace_of(Conv2d convolution) {
    convolution.threads = 1;
    return round_up(conv2d_workspace(convolution), 64);
  }

  // Rows [first, last) of image n of the block's output.
  void go_down(int64_t n, int64_t first, int64_t last, char* memory) const {
    const Map& x = call_.depthwise.x;
    char *expanded = memory, *hidden = memory + expanded_bytes_;
    int64_t kept = 0, end = 0;  // the expanded rows are [kept, end) of x
    for (int64_t h = first; h < last; h += rows_) {
      const int64_t count = last - h < rows_ ? last - h : rows_;
      const int64_t top = stride_ * h - 1, bottom = top + stride_ * (count - 1) + 3;
      const int64_t from = top < 0 ? 0 : top, to = bottom < x.h ? bottom : x.h;
      Depthwise3x3 depthwise = call_.depthwise;
      depthwise.threads = 1;
      if (expands()) {
        if (end <= from) end = kept = from;
        std::memmove(expanded, expanded + (from - kept) * row_bytes_, (end - from) * row_bytes_);
        kept = from;
        expand(n, end, to, expanded + (end - kept) * row_bytes_, memory);
        end = to;
        depthwise.x = {expanded, 1, to - from, x.w, x.c};
        depthwise.top = top - from;
      } else {
        depthwise.x = rows_of(x, bf16(), n, 0, x.h);
        depthwise.top = top;
      }
      depthwise.out = {hidden, 1, count, call_.depthwise.out.w, x.c};
      depthwise3x3(depthwise);
      project(n, h, count, depthwise.out, memory);
    }
  }

  void expand(int64_t n, int64_t from, int64_t to, char* expanded, char* memory) const {
    if (from == to) return;
    Conv2d convolution = call_.expand;
    convolution.x = rows_of(convolution.x, bf16(), n, from, to - from);
    convolution.out = {expanded, 1, to - from, call_.depthwise.x.w, call_.depthwise.x.c};
    run(convolution, memory);
  }

  void project(int64_t n, int64_t first, int64_t count, const Map& hidden, char* memory) const {
    Conv2d convolution = call_.project;
    convolution.x = hidden;
    convolution.residual = rows_of(convolution.residual, bf16(), n, first, count);
    convolution.out = rows_of(convolution.out, bf16(), n, first, count);
    convolution.tap = rows_of(convolution.tap, bf16(), n, first, count);
    run(convolution, memory);
  }

  void run(Conv2d& convolution, char* memory) const {
    convolution.threads = 1;
    convolution.workspace = memory + expanded_bytes_ + hidden_bytes_;
    conv2d(convolution);
  }

  const InvertedResidual call_;
  const int64_t stride_;
  int64_t rows_, row_bytes_, out_row_bytes_, expanded_bytes_, hidden_bytes_, convolution_bytes_;
};

}  // namespace

int64_t inverted_residual_workspace(const InvertedResidual& call) { return Bands(call).bytes(); }

void inverted_residual(const InvertedResidual& call) { Bands(call).run(); }

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
