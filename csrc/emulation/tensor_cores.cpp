// Tensor cores' instructions: a warp's lanes exchange what they hold, and each computes its own part.
#include "cuda_emulation.h"

namespace swiftnet {
namespace emulation {
namespace {

// The k-th of the values of 16 bits that lie in pairs in words.
float value_of(uint32_t word, unsigned k, bool bf16) {
  const uint16_t bits = static_cast<uint16_t>(word >> (k % 2 * 16));
  if (bf16) return __bfloat162float({bits});
  __half value;
  std::memcpy(&value, &bits, sizeof value);
  return __half2float(value);
}

}  // namespace

void multiply_fragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16, const char* file,
                        int line) {
  const WarpWords lanes = exchange({a[0], a[1], a[2], a[3], b[0], b[1]}, file, line);
  const unsigned lane = lane_index();
  for (unsigned i = 0; i < 4; i++) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; k++) {
      const uint32_t of_a = lanes.words[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
      const uint32_t of_b = lanes.words[column * 4 + k % 8 / 2][4 + k / 8];
      d[i] = std::fmaf(value_of(of_a, k, bf16), value_of(of_b, k, bf16), d[i]);
    }
  }
}

void exchange_matrices(uint32_t* registers, unsigned count, bool transposed, const uint32_t (&row)[4], const char* file,
                       int line) {
  const WarpWords lanes = exchange({row[0], row[1], row[2], row[3], 0, 0}, file, line);
  const unsigned g = lane_index() / 4, t = lane_index() % 4;
  for (unsigned m = 0; m < count; m++) {
    const auto rows = lanes.words + 8 * m;
    if (!transposed) {
      registers[m] = rows[g][t];
      continue;
    }
    const unsigned shift = g % 2 * 16;  // of column g in its word
    registers[m] = (rows[2 * t][g / 2] >> shift & 0xffffu) | (rows[2 * t + 1][g / 2] >> shift & 0xffffu) << 16;
  }
}

}  // namespace emulation
}  // namespace swiftnet
