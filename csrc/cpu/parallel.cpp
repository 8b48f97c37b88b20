#include "cpu/parallel.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

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

// What of a loaded library and of all that it links is a thread pool, if anything.
Pool pool_of(const char* file) {
  Pool pool;
  void* library = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return pool;
  pool.parallel = reinterpret_cast<Parallel>(dlsym(library, "GOMP_parallel"));
  pool.thread = reinterpret_cast<Number>(dlsym(library, "omp_get_thread_num"));
  pool.threads = reinterpret_cast<Number>(dlsym(library, "omp_get_num_threads"));
  Dl_info where;
  if (!pool.parallel || !pool.thread || !pool.threads || !dladdr(reinterpret_cast<void*>(pool.parallel), &where))
    return Pool();
  pool.file = where.dli_fname;
  return pool;
}

int consider(dl_phdr_info* info, size_t, void* names) {
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash ? slash + 1 : info->dlpi_name;
  for (const char* stem : {"libtorch_cpu", "libgomp", "libiomp5", "libomp"})
    if (std::strncmp(name, stem, std::strlen(stem)) == 0)
      static_cast<std::vector<std::string>*>(names)->push_back(info->dlpi_name);
  return 0;
}

// Found among what is loaded rather than linked: PyTorch's wheels bring their own under names of their own, and a
// second one would have a second set of threads. What PyTorch itself links comes first; others may have brought
// another.
Pool find_pool() {
  std::vector<std::string> files;
  dl_iterate_phdr(consider, &files);
  std::stable_partition(files.begin(), files.end(),
                        [](const std::string& file) { return file.find("libtorch_cpu") != std::string::npos; });
  for (const std::string& file : files) {
    const Pool pool = pool_of(file.c_str());
    if (pool.parallel) return pool;
  }
  return Pool();
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
