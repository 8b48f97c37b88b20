// The fp32 peak of a GPU, measured: chains of multiply-adds that don't wait for each other, and nothing else. Prints the
// most TFLOP/s of its runs, each the whole GPU for some milliseconds.
#include <algorithm>
#include <cstdio>

constexpr int kChains = 16, kThreads = 256, kSteps = 65536, kRuns = 30;

__global__ void __launch_bounds__(kThreads) multiply_add(float* sums, float factor, float summand) {
  float chains[kChains];
  for (int i = 0; i < kChains; i++) chains[i] = static_cast<float>(i);
#pragma unroll 16
  for (int step = 0; step < kSteps; step++)
#pragma unroll
    for (int i = 0; i < kChains; i++) chains[i] = fmaf(chains[i], factor, summand);
  float sum = 0;
  for (int i = 0; i < kChains; i++) sum += chains[i];
  sums[blockIdx.x * kThreads + threadIdx.x] = sum;
}

int main() {
  cudaDeviceProp properties;
  cudaEvent_t start, end;
  float* sums = nullptr;
  cudaGetDeviceProperties(&properties, 0);
  const int blocks = properties.multiProcessorCount * (properties.maxThreadsPerMultiProcessor / kThreads);
  cudaMalloc(&sums, sizeof(float) * blocks * kThreads);
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  double most = 0;
  for (int run = 0; run < kRuns; run++) {
    float ms = 0, last = 0;
    cudaEventRecord(start);
    multiply_add<<<blocks, kThreads>>>(sums, 1, 1);  // whole numbers: every step adds exactly 1
    cudaEventRecord(end);
    cudaMemcpy(&last, sums + blocks * kThreads - 1, sizeof(float), cudaMemcpyDeviceToHost);
    cudaEventElapsedTime(&ms, start, end);
    if (cudaGetLastError() != cudaSuccess || last != kChains * kSteps + kChains * (kChains - 1) / 2)
      return std::fprintf(stderr, "the multiply-adds did not run: sum %.0f\n", last), 1;
    most = std::max(most, 2.0 * kChains * kSteps * blocks * kThreads / (ms * 1e9));
  }
  std::printf("%.3f\n", most);
  return 0;
}
