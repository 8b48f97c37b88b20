// Tensor cores: products of small matrices, of which a warp's lanes hold fragments, and what brings these there.
//
// mma_16x8x16 multiplies A [16×16] and B [16×8] and adds to D [16×8] in fp32. By PTX's m16n8k16, with g = lane / 4 and
// t = lane % 4, a lane holds
//
//   A: a[0] row g, columns 2t and 2t+1;  a[1] row g+8;  a[2] and a[3] the same, 8 columns further
//   B: b[0] rows 2t and 2t+1, column g;  b[1] 8 rows further
//   D: d[0], d[1] row g, columns 2t and 2t+1;  d[2], d[3] row g+8
//
// Needs CUDA 11. Below sm_75, and for bfloat16 below sm_80, products and loads of matrices compile and do nothing
// (`tensor_cores_take`); copies are asynchronous from sm_80 on.
#pragma once
#include <cstdint>
#include <type_traits>

#include "cuda.cuh"

namespace swiftnet {

// Whether this architecture multiplies matrices of T; the rest of a kernel where it does not is left out.
template <class T>
__device__ constexpr bool tensor_cores_take() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return __CUDA_ARCH__ >= 750 && std::is_same<T, __half>::value;
#else
  return true;
#endif
}

#ifdef SWIFTNET_EMULATED

template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  emulation::multiply_fragments(d, a, b, std::is_same<T, __nv_bfloat16>::value, file, line);
}

template <int kMatrices, bool kTransposed>
void load_matrices(uint32_t (&registers)[kMatrices], const void* row, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  uint32_t words[4] = {};
  if (emulation::lane_index() < 8 * kMatrices) {
    const float4 bits = *static_cast<const float4*>(row);
    memcpy(words, &bits, sizeof words);
  }
  emulation::exchange_matrices(registers, kMatrices, kTransposed, words, file, line);
}

// What is to be overwritten is poisoned at once: who still reads it, or reads too early, finds NaN, or a race.
inline void copy_async(void* shared, const void* global, bool there) {
  const uint32_t poison[4] = {~0u, ~0u, ~0u, ~0u};
  memcpy(shared, poison, sizeof poison);
  emulation::start_copy({shared, there ? global : nullptr});
}
inline void commit_copies() { emulation::end_group_of_copies(); }
template <int kGroups>
void wait_for_copies() {
  emulation::PendingCopy copy;
  while (emulation::next_copy(kGroups, copy))
    *static_cast<float4*>(copy.to) = copy.from == nullptr ? float4{} : *static_cast<const float4*>(copy.from);
}

#else

// T: __half or __nv_bfloat16.
template <class T>
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if (std::is_same<T, __half>::value)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750
#pragma unroll
  for (int half = 0; half < 2; half++)  // of the 16 columns of A
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

__device__ inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Up to four matrices of 8×8 elements of 16 bits from shared memory: lane 8·m + i gives the address of row i of the
// m-th, aligned to 16 bytes; of each a lane gets columns 2t and 2t+1 of row g, transposed rows 2t and 2t+1 of column g.
template <int kMatrices, bool kTransposed>
__device__ inline void load_matrices(uint32_t (&registers)[kMatrices], const void* row) {
  static_assert(kMatrices == 2 || kMatrices == 4, "ldmatrix loads one, two or four");
#if __CUDA_ARCH__ >= 750
  if (kMatrices == 4 && !kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[kMatrices - 2]),
                   "=r"(registers[kMatrices - 1])
                 : "r"(shared_address(row)));
  else if (kMatrices == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[kMatrices - 2]),
                   "=r"(registers[kMatrices - 1])
                 : "r"(shared_address(row)));
  else if (!kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(shared_address(row)));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(shared_address(row)));
#endif
}

// Copies 16 bytes, aligned to as many, from global to shared memory, or writes zeros; done once its group has been
// waited for. Below sm_80 it is done at once.
__device__ inline void copy_async(void* shared, const void* global, bool there) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
#else
  *static_cast<float4*>(shared) = there ? *static_cast<const float4*>(global) : float4{0.f, 0.f, 0.f, 0.f};
#endif
}

// Ends a group of copies.
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for the thread's own copies, but for those of the last kGroups groups; others see them after a barrier.
template <int kGroups>
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

#endif

}  // namespace swiftnet
