// Small kernels, right ones and wrong ones, by which the emulation's own tests know that it finds what it should.
#pragma once
#include <string>
#include <vector>

namespace swiftnet {
namespace emulation {

constexpr int kThreads = 64;  // of a block, where a probe names no others

struct Probe {
  const char* name;
  void (*kernel)(const float*, float*, int);
  int blocks, threads = kThreads;
};

// Products of matrices and the loads of their operands, with right results: tensor_core_probes.cu.
std::vector<Probe> tensor_core_probes();

// Of these and of those in probes.cu.
std::vector<std::string> probe_names();

// Runs a probe over `count` floats; `in` and `out` hold at least as many as the probe's comment says. Throws
// std::invalid_argument for an unknown name.
void run_probe(const std::string& name, const float* in, float* out, int count);

}  // namespace emulation
}  // namespace swiftnet
