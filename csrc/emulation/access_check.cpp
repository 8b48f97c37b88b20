// Race detection without a race detector's run time: the kernels are compiled with -fsanitize=thread, and the hooks
// that GCC then calls at each access are defined here in libtsan's place.
//
// Two accesses to a byte, one of them a write, conflict unless something orders them: a block barrier between threads
// of a block, a barrier of the whole warp (__syncwarp, not a shuffle) between lanes of a warp, nothing between blocks.
// For each byte the last write and what a write may conflict with of the reads are kept; so a conflict is found in
// whatever order the threads happen to run.
#include "access_check.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <cstdio>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

namespace swiftnet {
namespace emulation {

const Place* running_place = nullptr;

namespace {

struct Stamp {
  uint32_t block = 0, epoch = 0, warp_epoch = 0, thread = 0;
  const void* code = nullptr;
};

struct Cell {
  Stamp write, read;
  bool several_threads = false, several_warps = false, several_blocks = false;  // have read: in this epoch, launch
};

// Four bytes, which are one cell until an access to a part of them.
struct Word {
  Cell whole;
  std::unique_ptr<Cell[]> bytes;
};

constexpr uintptr_t kPageBytes = 4096, kWordBytes = 4, kSectorBytes = 32;
constexpr size_t kMaxPages = 4096;  // kept from launch to launch

struct Page {
  Word words[kPageBytes / kWordBytes];
};

struct Finding {
  const char* what;
  const void *code, *other_code;
  bool operator<(const Finding& f) const {
    return std::tie(what, code, other_code) < std::tie(f.what, f.code, f.other_code);
  }
};

struct Occurrence {
  uint64_t count = 0;
  uint32_t block = 0, thread = 0, other_thread = 0;
};

// The sectors that the lanes of a warp touch by their n-th execution of one access.
using Request = std::tuple<uint32_t, const void*, uint32_t>;  // warp, access, n
struct RequestHash {
  size_t operator()(const Request& r) const {
    return std::get<0>(r) * 0x9e3779b97f4a7c15u ^ reinterpret_cast<size_t>(std::get<1>(r)) * 0xff51afd7ed558ccdu ^
           std::get<2>(r) * 0xc4ceb9fe1a85ec53u;
  }
};

struct SectorCount {
  std::unordered_map<Request, std::unordered_set<uintptr_t>, RequestHash> requests;  // of the block that runs
  std::unordered_set<uintptr_t> distinct;
  uint64_t requested = 0;

  void end_block() {
    for (const auto& request : requests) requested += request.second.size();
    requests.clear();
  }
  Sectors take() {
    const Sectors sectors{requested, distinct.size()};
    *this = SectorCount();
    return sectors;
  }
};

class AccessCheck {
 public:
  void begin(const AddressRange& fiber_stacks, const AddressRange& dynamic_shared, bool count_sectors) {
    fiber_stacks_ = fiber_stacks;
    dynamic_shared_ = dynamic_shared;
    count_sectors_ = count_sectors;
    host_stack_ = this_threads_stack();
    findings_.clear();
    end_block();
    read_ = written_ = SectorCount();
    if (module_.size == 0) module_ = this_modules_data();
  }

  void access(const void* pointer, size_t size, bool writes, const void* code) {
    const Place* const place = running_place;
    if (place == nullptr || fiber_stacks_.holds(pointer) || host_stack_.holds(pointer)) return;
    const bool shared = dynamic_shared_.holds(pointer) || module_.holds(pointer);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(pointer), end = begin + size;
    for (uintptr_t word = begin / kWordBytes; word * kWordBytes < end; word++) {
      Word& w = word_at(word);
      if (!w.bytes && begin <= word * kWordBytes && (word + 1) * kWordBytes <= end) {
        check(w.whole, *place, shared, writes, code);
        continue;
      }
      if (!w.bytes) w.bytes.reset(new Cell[kWordBytes]{w.whole, w.whole, w.whole, w.whole});
      for (uintptr_t byte = 0; byte < kWordBytes; byte++)
        if (word * kWordBytes + byte >= begin && word * kWordBytes + byte < end)
          check(w.bytes[byte], *place, shared, writes, code);
    }
    if (count_sectors_ && !shared) count(begin, end, *place, writes, code);
  }

  void end_block() {
    read_.end_block();
    written_.end_block();
    executions_.clear();
  }

  void end(LaunchRecord& record) {
    record.read = read_.take();
    record.written = written_.take();
    for (const auto& found : findings_) {
      const Occurrence& o = found.second;
      std::string text = found.first.what + (" at " + source_line(found.first.code));
      if (found.first.other_code != nullptr)
        text += " and " + source_line(found.first.other_code) + ", threads " + std::to_string(o.thread) + " and " +
                (o.other_thread == o.thread ? "others" : std::to_string(o.other_thread));
      else
        text += ", thread " + std::to_string(o.thread);
      report(text + ", block " + std::to_string(o.block) + ", " + std::to_string(o.count) + " times");
    }
    findings_.clear();
    if (pages_.size() > kMaxPages) {
      pages_.clear();
      last_number_ = ~uintptr_t{0};
    }
  }

 private:
  void check(Cell& cell, const Place& now, bool shared, bool writes, const void* code) {
    const Stamp& w = cell.write;
    Stamp& r = cell.read;
    const bool read_in_launch = r.block >= now.launch_first;
    if (w.block >= now.launch_first && w.block != now.block) {
      if (!shared)
        found(writes ? "race between blocks: two writes" : "race between blocks: read and write", now, w, code);
    } else if (concurrent(w, now)) {
      found(writes ? "race: two writes" : "race: read and write", now, w, code);
    }
    if (writes) {
      if (!shared && read_in_launch && (r.block != now.block || cell.several_blocks))
        found("race between blocks: write and read", now, r, code);
      else if (concurrent(r, now) || (r.block == now.block && r.epoch == now.epoch && cell.several_threads &&
                                      (cell.several_warps || r.warp_epoch == now.warp_epoch)))
        found("race: write and read", now, r, code);
      cell.write = stamp(now, code);
      return;
    }
    if (shared && w.block != now.block) found("uninitialised shared memory is read", now, Stamp(), code);
    // reads before a barrier of their warp are ordered before all that this warp does; others still meet this read
    const bool ordered = !cell.several_warps && r.thread / 32 == now.thread / 32 && r.warp_epoch != now.warp_epoch;
    const bool same_epoch = r.block == now.block && r.epoch == now.epoch && !ordered;
    cell.several_threads = same_epoch && (cell.several_threads || r.thread != now.thread);
    cell.several_warps = same_epoch && (cell.several_warps || r.thread / 32 != now.thread / 32);
    cell.several_blocks = read_in_launch && (cell.several_blocks || r.block != now.block);
    r = stamp(now, code);
  }

  // Whether nothing orders an access of another thread of this block before now.
  static bool concurrent(const Stamp& s, const Place& now) {
    if (s.block != now.block || s.thread == now.thread || s.epoch != now.epoch) return false;
    return s.thread / 32 != now.thread / 32 || s.warp_epoch == now.warp_epoch;
  }

  static Stamp stamp(const Place& now, const void* code) {
    return {now.block, now.epoch, now.warp_epoch, now.thread, code};
  }

  void found(const char* what, const Place& now, const Stamp& other, const void* code) {
    Occurrence& o = findings_[{what, code, other.code}];
    if (o.count++ == 0) o = {1, now.block - now.launch_first, now.thread, other.thread};
  }

  void count(uintptr_t begin, uintptr_t end, const Place& now, bool writes, const void* code) {
    SectorCount& sectors = writes ? written_ : read_;
    const uint32_t n = executions_[{now.thread, code, 0}]++;
    for (uintptr_t sector = begin / kSectorBytes; sector * kSectorBytes < end; sector++) {
      sectors.requests[{now.thread / 32, code, n}].insert(sector);
      sectors.distinct.insert(sector);
    }
  }

  Word& word_at(uintptr_t word) {
    const uintptr_t number = word * kWordBytes / kPageBytes;
    if (number != last_number_) {
      std::unique_ptr<Page>& page = pages_[number];
      if (!page) page.reset(new Page);
      last_page_ = page.get();
      last_number_ = number;
    }
    return last_page_->words[word % (kPageBytes / kWordBytes)];
  }

  static AddressRange this_threads_stack() {
    pthread_attr_t attributes;
    void* address = nullptr;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
      pthread_attr_getstack(&attributes, &address, &size);
      pthread_attr_destroy(&attributes);
    }
    return {static_cast<const char*>(address), size};
  }

  // The writable memory of this module: the kernels' static shared memory is in it, and nothing else that they touch.
  static AddressRange this_modules_data() {
    AddressRange range;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto& segment = info->dlpi_phdr[i];
            if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_W)) continue;
            const AddressRange data{reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr), segment.p_memsz};
            if (!data.holds(&running_place)) continue;
            *static_cast<AddressRange*>(out) = data;
            return 1;
          }
          return 0;
        },
        &range);
    return range;
  }

  // "map.cuh:50 < resize.cuh:48 < conv3x3.cuh:82": the access, and through which calls it was inlined.
  static std::string source_line(const void* code) {
    Dl_info info;
    if (dladdr(code, &info) == 0) return "an unknown place";
    char command[1024], line[512];
    const auto offset = static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase) - 1;
    std::snprintf(command, sizeof command, "addr2line -s -i -e '%s' %#tx", info.dli_fname, offset);
    std::string text;
    if (FILE* const pipe = popen(command, "r")) {
      while (std::fgets(line, sizeof line, pipe) != nullptr) {
        std::string where = line;
        where.erase(where.find_first_of(" \n"));
        text += (text.empty() ? "" : " < ") + where;
      }
      pclose(pipe);
    }
    return text.empty() ? "an unknown place" : text;
  }

  AddressRange fiber_stacks_, dynamic_shared_, host_stack_, module_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t last_number_ = ~uintptr_t{0};
  Page* last_page_ = nullptr;
  std::map<Finding, Occurrence> findings_;
  bool count_sectors_ = false;
  SectorCount read_, written_;
  std::unordered_map<Request, uint32_t, RequestHash> executions_;  // by thread and access
};

AccessCheck& access_check() {
  static AccessCheck instance;
  return instance;
}

}  // namespace

void begin_access_check(const AddressRange& fiber_stacks, const AddressRange& dynamic_shared, bool count_sectors) {
  access_check().begin(fiber_stacks, dynamic_shared, count_sectors);
}
void end_access_check(LaunchRecord& record) { access_check().end(record); }
void end_block_access_check() { access_check().end_block(); }

}  // namespace emulation
}  // namespace swiftnet

// GCC's interface to libtsan, as far as device code uses it.
#define SWIFTNET_ACCESS(size, writes) \
  ::swiftnet::emulation::access_check().access(p, size, writes, __builtin_return_address(0))
#define SWIFTNET_HOOKS(size)                                                  \
  void __tsan_read##size(void* p) { SWIFTNET_ACCESS(size, false); }           \
  void __tsan_write##size(void* p) { SWIFTNET_ACCESS(size, true); }           \
  void __tsan_unaligned_read##size(void* p) { SWIFTNET_ACCESS(size, false); } \
  void __tsan_unaligned_write##size(void* p) { SWIFTNET_ACCESS(size, true); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t size) { SWIFTNET_ACCESS(size, false); }
void __tsan_write_range(void* p, size_t size) { SWIFTNET_ACCESS(size, true); }
SWIFTNET_HOOKS(1)
SWIFTNET_HOOKS(2)
SWIFTNET_HOOKS(4)
SWIFTNET_HOOKS(8)
SWIFTNET_HOOKS(16)
}
