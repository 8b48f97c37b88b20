#include "cpu/parallel.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string>

namespace swiftnet {
namespace cpu {
namespace {

// What GCC's OpenMP run time exports for a parallel region, and Intel's and LLVM's for its sake.
using Parallel = void (*)(void (*region)(void*), void* data, unsigned threads, unsigned flags);
using Number = int (*)();

struct Pool {
  std::string file;
  Parallel parallel = nullptr;
  Number thread = nullptr, threads = nullptr;
};

int consider(dl_phdr_info* info, size_t, void* found) {
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash ? slash + 1 : info->dlpi_name;
  for (const char* stem : {"libgomp", "libiomp5", "libomp"}) {
    if (std::strncmp(name, stem, std::strlen(stem)) != 0) continue;
    *static_cast<std::string*>(found) = info->dlpi_name;
    return 1;
  }
  return 0;
}

// Found among what is loaded rather than linked: PyTorch's wheels bring their own under names of their own, and a
// second one would have a second set of threads.
Pool find_pool() {
  Pool pool;
  dl_iterate_phdr(consider, &pool.file);
  void* library = pool.file.empty() ? nullptr : dlopen(pool.file.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return Pool();
  pool.parallel = reinterpret_cast<Parallel>(dlsym(library, "GOMP_parallel"));
  pool.thread = reinterpret_cast<Number>(dlsym(library, "omp_get_thread_num"));
  pool.threads = reinterpret_cast<Number>(dlsym(library, "omp_get_num_threads"));
  return pool.parallel && pool.thread && pool.threads ? pool : Pool();
}

const Pool& pool() {
  static const Pool found = find_pool();
  return found;
}

struct Loop {
  int64_t count;
  void (*body)(const void*, int64_t, int64_t);
  const void* context;
};

void region(void* data) {
  const Loop& loop = *static_cast<const Loop*>(data);
  const int64_t i = pool().thread(), n = pool().threads();  // n may be less than was asked for
  const int64_t begin = loop.count * i / n, end = loop.count * (i + 1) / n;
  if (begin < end) loop.body(loop.context, begin, end);
}

}  // namespace

void parallel_for(int threads, int64_t count, void (*body)(const void*, int64_t, int64_t), const void* context) {
  if (count <= 0) return;
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1 || pool().parallel == nullptr) return body(context, 0, count);
  Loop loop{count, body, context};
  pool().parallel(region, &loop, static_cast<unsigned>(threads), 0);
}

const char* thread_pool() { return pool().file.c_str(); }

}  // namespace cpu
}  // namespace swiftnet
