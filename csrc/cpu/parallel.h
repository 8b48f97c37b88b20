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

// body(part, begin, end) over [0, count) in at most `threads` parts, numbered so that each can have memory of its own.
template <typename Body>
static inline void parallel_parts(int threads, int64_t count, const Body& body) {
  const int64_t parts = threads < count ? threads : count;
  parallel_for(threads, parts, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; part++) body(part, count * part / parts, count * (part + 1) / parts);
  });
}

}  // namespace cpu
}  // namespace swiftnet
