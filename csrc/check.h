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

// `t` has exactly this shape, dtype and device.
inline void check_tensor(const char* name, const TensorView& t, std::initializer_list<int64_t> shape, DType dtype,
                         int device) {
  bool fits = t.ndim == static_cast<int>(shape.size());
  int i = 0;
  for (int64_t n : shape) fits = fits && t.shape[i++] == n;
  check(fits, std::string(name) + ": expected shape " + shape_text(shape));
  check(t.dtype == dtype, std::string(name) + ": has another dtype than the operator's first tensor");
  check(t.device == device, std::string(name) + ": is on another device than the operator's first tensor");
}

// `t` is absent, or a contiguous parameter of this shape in fp32 or in `dtype`.
inline void check_parameter(const char* name, const TensorView& t, std::initializer_list<int64_t> shape, DType dtype,
                            int device) {
  if (!t.defined()) return;
  check_tensor(name, t, shape, t.dtype == DType::kFloat32 ? DType::kFloat32 : dtype, device);
  int64_t stride = 1;
  for (int i = t.ndim - 1; i >= 0; stride *= t.shape[i--])
    check(t.shape[i] == 1 || t.strides[i] == stride, std::string(name) + ": expected a contiguous tensor");
}

}  // namespace swiftnet
