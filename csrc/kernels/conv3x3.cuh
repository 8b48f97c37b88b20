// What conv3x3's algorithms share: the arguments of a call, and who takes it.
#pragma once
#include "../ops.h"

namespace swiftnet {

struct Conv3x3Call {
  const TensorView &x, &weight;
  float* packed;
  bool pack;
  const TensorView &bias, &residual;
  bool relu;
  const TensorView &sum, &out;
  Stream stream;
};

void conv3x3_direct(const Conv3x3Call& call);
void conv3x3_winograd(const Conv3x3Call& call);
void conv3x3_half2(const Conv3x3Call& call);

int64_t direct_packed_numel(int64_t outputs, int64_t channels);
int64_t winograd_packed_numel(int64_t outputs, int64_t channels);
int64_t half2_packed_numel(int64_t outputs, int64_t channels);
void pack_winograd(const TensorView& weight, float* packed, Stream stream);

}  // namespace swiftnet
