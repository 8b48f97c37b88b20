// Small kernels, right ones and wrong ones, by which the emulation's own tests know that it finds what it should.
#pragma once
#include <string>
#include <vector>

namespace swiftnet {
namespace emulation {

std::vector<std::string> probe_names();

// Runs a probe over `count` floats; `in` and `out` hold at least as many as the probe's comment says. Throws
// std::invalid_argument for an unknown name.
void run_probe(const std::string& name, const float* in, float* out, int count);

}  // namespace emulation
}  // namespace swiftnet
