// Which instruction sets the CPU kernels were compiled for and this CPU runs.
#pragma once
#include <string>
#include <vector>

namespace swiftnet {
namespace cpu {

// Names, the best first: amx, avx512_bf16, avx512, avx2, portable; tiles_emulated in the emulated module. Asking makes
// Linux let this process use AMX, where there is one.
std::vector<std::string> levels();

// For tests and comparisons; for the whole process. std::invalid_argument for a level that is not among levels().
void use_level(const std::string& name);

}  // namespace cpu
}  // namespace swiftnet
