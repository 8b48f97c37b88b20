// One fault for each of compute-sanitizer's tools, named by the program's argument: the report's proof that a tool which
// says nothing of our kernels would have said something.
#include <cstdio>
#include <cstring>

__global__ void memcheck(int* data) { data[threadIdx.x + 1000000] = 1; }

__global__ void racecheck(int* data) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  data[threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void initcheck(int* data) { data[threadIdx.x] = data[threadIdx.x + 64] + 1; }

__global__ void synccheck(int* data) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  data[threadIdx.x] = 1;
}

int main(int argc, char** argv) {
  int* data = nullptr;
  cudaMalloc(&data, 256 * sizeof(int));
  const char* fault = argc == 2 ? argv[1] : "";
  if (!std::strcmp(fault, "memcheck")) memcheck<<<1, 64>>>(data);
  else if (!std::strcmp(fault, "racecheck")) racecheck<<<1, 64>>>(data);
  else if (!std::strcmp(fault, "initcheck")) initcheck<<<1, 64>>>(data);
  else if (!std::strcmp(fault, "synccheck")) synccheck<<<1, 64>>>(data);
  else return std::fprintf(stderr, "expected memcheck, racecheck, initcheck or synccheck\n"), 2;
  cudaDeviceSynchronize();
  return 0;
}
