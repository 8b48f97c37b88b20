// Loops over PyTorch's own threads.
#pragma once
#include <cstdint>

namespace swiftnet {
namespace cpu {

// body(context, begin, end) over [0, count) in up to `threads` contiguous parts of about equal size. The threads are
// those of the OpenMP run time that PyTorch has loaded; where there is none, the caller does all.
void parallel_for(int threads, int64_t count, void (*body)(const void* context, int64_t begin, int64_t end),
                  const void* context);

// The file of that OpenMP run time, or nothing.
const char* thread_pool();

// The same for a lambda (begin, end); internal to each file, so that no two instruction sets share its code.
template <typename Body>
static inline void parallel_for(int threads, int64_t count, const Body& body) {
  parallel_for(
      threads, count,
      [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); }, &body);
}

}  // namespace cpu
}  // namespace swiftnet
