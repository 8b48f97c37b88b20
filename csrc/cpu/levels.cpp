#include "cpu/levels.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "build_config.h"
#include "cpu/kernels.h"

namespace swiftnet {
namespace cpu {

#define SWIFTNET_DECLARE_TABLE(level) \
  namespace level {                   \
  extern const Kernels table;         \
  }
SWIFTNET_CPU_LEVELS(SWIFTNET_DECLARE_TABLE)

namespace {

bool runs_here(const std::string& level) {
#ifdef __x86_64__
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  unsigned a = 0, b = 0, c = 0, d = 0, subleaves = 0;
  bool bf16 = false, amx = false;
  if (__get_cpuid_count(7, 0, &subleaves, &b, &c, &d)) {
    amx = (d >> 24 & 1) && (d >> 22 & 1);
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) bf16 = a >> 5 & 1;
  }
  if (level == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == "avx512") return avx512;
  if (level == "avx512_bf16") return avx512 && bf16;
  if (level == "amx") {  // Linux lets a process use the tiles' state only if asked
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return avx512 && bf16 && amx && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
#endif
  return level == "portable" || level == "tiles_emulated";
}

std::vector<const Kernels*> find_tables() {
  std::vector<const Kernels*> found;
#define SWIFTNET_CONSIDER(level) \
  if (runs_here(#level)) found.push_back(&level::table);
  SWIFTNET_CPU_LEVELS(SWIFTNET_CONSIDER)
  return found;
}

const std::vector<const Kernels*>& tables() {
  static const std::vector<const Kernels*> found = find_tables();
  return found;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_acquire);
  return table ? *table : *tables().front();
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Kernels* table : tables()) names.push_back(table->level);
  return names;
}

void use_level(const std::string& name) {
  std::string known;
  for (const Kernels* table : tables()) {
    if (name == table->level) return chosen.store(table, std::memory_order_release);
    known += (known.empty() ? "" : ", ") + std::string(table->level);
  }
  throw std::invalid_argument("level: expected one of " + known + ", got '" + name + "'; this CPU runs no other");
}

}  // namespace cpu
}  // namespace swiftnet
