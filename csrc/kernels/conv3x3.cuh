// What the algorithms of conv3x3 and conv3x3_head share: the arguments of a call, and who takes it.
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

struct Conv3x3HeadCall {
  const TensorView &x, &weight;
  float* packed;
  bool pack;
  const TensorView &bias, &scale, &shift, &head_weight, &head_bias, &out;
  Stream stream;
};

void conv3x3_direct(const Conv3x3Call& call);
void conv3x3_winograd(const Conv3x3Call& call);
void conv3x3_half2(const Conv3x3Call& call);
void conv3x3_mma(const Conv3x3Call& call);
void conv3x3_head_winograd(const Conv3x3HeadCall& call);
void conv3x3_head_mma(const Conv3x3HeadCall& call);

int64_t direct_packed_numel(int64_t outputs, int64_t channels);
int64_t winograd_packed_numel(int64_t outputs, int64_t channels);
int64_t half2_packed_numel(int64_t outputs, int64_t channels);
int64_t mma_packed_numel(int64_t outputs, int64_t channels);
void pack_winograd(const TensorView& weight, float* packed, Stream stream);
void pack_mma(const TensorView& weight, float* packed, Stream stream);

}  // namespace swiftnet
