// Checks at the C++ boundary. Python has checked the arguments with full sentences; what is checked again here is what
// memory safety needs, so that a direct call can't read or write out of bounds.
#pragma once
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace swiftnet {

inline void check(bool fits, const std::string& sentence) {
  if (!fits) throw std::invalid_argument(sentence);
}

inline std::string shape_text(std::initializer_list<int64_t> shape) {
  std::string text = "[";
  for (int64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

inline std::string dtype_text(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat16: return "float16";
    case DType::kBFloat16: return "bfloat16";
    default: return "uint8";
  }
}

// `t` has exactly this shape, dtype and device.
inline void check_tensor(const char* name, const TensorView& t, std::initializer_list<int64_t> shape, DType dtype,
                         int device) {
  bool fits = t.ndim == static_cast<int>(shape.size());
  int i = 0;
  for (int64_t n : shape) fits = fits && t.shape[i++] == n;
  check(fits, std::string(name) + ": expected shape " + shape_text(shape));
  check(t.dtype == dtype, std::string(name) + ": expected dtype " + dtype_text(dtype));
  check(t.device == device, std::string(name) + ": is on another device than the operator's first tensor");
}

inline void check_contiguous(const char* name, const TensorView& t) {
  if (t.numel() == 0) return;
  int64_t stride = 1;
  for (int i = t.ndim - 1; i >= 0; stride *= t.shape[i--])
    check(t.shape[i] == 1 || t.strides[i] == stride, std::string(name) + ": expected a contiguous tensor");
}

// `t` is absent, or a contiguous parameter of this shape in fp32 or, beside maps of fp16, in fp16.
inline void check_parameter(const char* name, const TensorView& t, std::initializer_list<int64_t> shape, DType maps,
                            int device) {
  if (!t.defined()) return;
  const bool half = t.dtype == DType::kFloat16 && maps == DType::kFloat16;
  check_tensor(name, t, shape, half ? DType::kFloat16 : DType::kFloat32, device);
  check_contiguous(name, t);
}

}  // namespace swiftnet
