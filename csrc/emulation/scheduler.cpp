// Runs a launch: one fiber for each CUDA thread of a block, switched at barriers and shuffles.
#include <sys/mman.h>

#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#include "access_check.h"
#include "cuda_emulation.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the emulation's fiber switch is written for x86-64"
#endif

// Saves the callee-saved registers and the stack pointer at *save, and continues where `to` was saved.
extern "C" void swiftnet_fiber_switch(void** save, void* to);
asm(R"(.text
.globl swiftnet_fiber_switch
.hidden swiftnet_fiber_switch
.type swiftnet_fiber_switch,@function
swiftnet_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size swiftnet_fiber_switch,.-swiftnet_fiber_switch
)");

namespace swiftnet {
namespace emulation {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 * 1024;  // its frames have room between the variables
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr size_t kMaxThreads = 1024, kWarp = 32, kMaxRecords = 1000;
constexpr unsigned kPoison = 0xff;  // all bits set is a NaN in fp32 and fp16

enum class State { kReady, kAtBarrier, kAtShuffle, kAtWarpBarrier, kDone };

struct Copy {
  PendingCopy copy;
  unsigned group;
};

struct Fiber {
  uint3 thread;
  void* stack_pointer;
  State state;
  const char* file;  // and line of what it waits at
  int line;
  unsigned mask;                       // of the lanes it waits for
  unsigned source;                     // the lane whose value it wants
  uint64_t value;                      // what it offers
  uint32_t words[2][kExchangedWords];  // likewise at an exchange, of which two may be under way
  unsigned turn;                       // of the two
  std::deque<Copy> copies;             // that are pending, oldest first
  unsigned group;                      // of the copies to come
};

struct Warp {
  uint32_t epoch;  // barriers of all its lanes passed
};

// AddressSanitizer wants to know which stack is in use.
#ifdef __SANITIZE_ADDRESS__
struct StackSwitch {
  void* fake_stack = nullptr;
  StackSwitch(bool for_good, const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, bottom, size);
  }
  void done(const void** from_bottom, size_t* from_size) {
    __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_size);
  }
};
#else
struct StackSwitch {
  StackSwitch(bool, const void*, size_t) {}
  void done(const void**, size_t*) {}
};
#endif

class Scheduler {
 public:
  Scheduler() : fibers_(kMaxThreads), warps_(kMaxThreads / kWarp) {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("emulation: no address space for the threads' stacks");
    stacks_ = static_cast<char*>(memory);
  }

  void launch(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(const void*),
              const void* body) {
    kernel_ = kernel;
    if (kernel_.front() == '(') kernel_ = kernel_.substr(1, kernel_.size() - 2);
    findings_.clear();
    count_ = static_cast<size_t>(block.x) * block.y * block.z;
    if (count_ == 0 || count_ > kMaxThreads) fail("a block has 1 to 1024 threads, not " + std::to_string(count_));
    grid_ = grid;
    block_ = block;
    call_ = call;
    body_ = body;
    // a buffer of exactly this size: AddressSanitizer sees an access past its end
    shared_.reset(shared_bytes > 0 ? new unsigned char[shared_bytes] : nullptr);
    shared_bytes_ = shared_bytes;
    LaunchRecord record;
    record.kernel = kernel_;
    place_.launch_first = place_.block + 1;
#ifdef SWIFTNET_EMULATION_RACE
    begin_access_check({stacks_, kStackBytes * kMaxThreads}, {reinterpret_cast<char*>(shared_.get()), shared_bytes},
                       options().count_sectors);
#endif
    std::mt19937 random(options().seed);
    const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    const uint64_t first = std::min(options().first_blocks, blocks);
    const uint64_t last = std::max(first, blocks - std::min(options().last_blocks, blocks));
    for (uint64_t i = 0; i < blocks; i = i + 1 == first ? last : i + 1) {
      if (i >= first && i < last) continue;
      block_index_ = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                      static_cast<unsigned>(i / grid.x / grid.y)};
      place_.block++;
      run_block(random);
      record.blocks++;
      record.threads += count_;
      record.barriers += place_.epoch;
    }
#ifdef SWIFTNET_EMULATION_RACE
    end_access_check(record);
#endif
    if (!findings_.empty()) {
      std::string text = "emulation: " + kernel_ + ":";
      for (const std::string& finding : findings_) text += "\n  " + finding;
      throw std::runtime_error(text);
    }
    records_.push_back(record);
    if (records_.size() > kMaxRecords) records_.pop_front();
  }

  std::vector<LaunchRecord> take_launches() {
    std::vector<LaunchRecord> taken(records_.begin(), records_.end());
    records_.clear();
    return taken;
  }

  void report(const std::string& finding) {
    if (findings_.size() < kMaxFindings) findings_.push_back(finding);
  }

  void wait(State state, const char* file, int line, unsigned mask = 0, unsigned source = 0, uint64_t value = 0) {
    Fiber& fiber = *running_;
    fiber.state = state;
    fiber.file = file;
    fiber.line = line;
    fiber.mask = mask;
    fiber.source = source;
    fiber.value = value;
    StackSwitch stacks(state == State::kDone, host_stack_, host_stack_bytes_);
    swiftnet_fiber_switch(&fiber.stack_pointer, host_stack_pointer_);
    stacks.done(&host_stack_, &host_stack_bytes_);
  }

  uint64_t offered(unsigned lane) const { return fibers_[running_index() / kWarp * kWarp + lane].value; }

  // What each lane of the running thread's warp offers. A lane's words stay until the exchange after the next, which it
  // does not reach before all lanes have come to the next.
  WarpWords exchange(const uint32_t (&words)[kExchangedWords], const char* file, int line) {
    Fiber& fiber = *running_;
    fiber.turn ^= 1;
    std::copy(words, words + kExchangedWords, fiber.words[fiber.turn]);
    const size_t first = running_index() / kWarp * kWarp;
    if (first + kWarp > count_)
      report("an instruction of a whole warp is called by " + std::to_string(count_ - first) + " lanes");
    wait(State::kAtShuffle, file, line, 0xffffffffu, lane());
    WarpWords all;
    for (size_t i = 0; i < kWarp; i++) {
      const Fiber& other = fibers_[first + i];
      std::copy(other.words[fiber.turn], other.words[fiber.turn] + kExchangedWords, all.words[i]);
    }
    return all;
  }

  void start_copy(const PendingCopy& copy) { running_->copies.push_back({copy, running_->group}); }
  void commit_copies() { running_->group++; }

  // Takes the oldest copy, unless it is of the last `groups` that were committed, or of none yet.
  bool next_copy(unsigned groups, PendingCopy& copy) {
    Fiber& fiber = *running_;
    if (fiber.copies.empty() || fiber.copies.front().group + groups >= fiber.group) return false;
    copy = fiber.copies.front().copy;
    fiber.copies.pop_front();
    return true;
  }

  unsigned lane() const { return running_index() % kWarp; }
  uint3 thread() const { return running_->thread; }
  uint3 block_index() const { return block_index_; }
  dim3 block() const { return block_; }
  dim3 grid() const { return grid_; }
  void* dynamic_shared() { return shared_.get(); }

 private:
  static constexpr size_t kMaxFindings = 20;

  static void entry();

  unsigned running_index() const { return static_cast<unsigned>(running_ - fibers_.data()); }

  void run_block(std::mt19937& random) {
    if (shared_) std::memset(shared_.get(), kPoison, shared_bytes_);
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stacks_, kStackBytes * count_);
#endif
    place_.epoch = 0;
    for (Warp& warp : warps_) warp.epoch = 0;
    for (size_t i = 0; i < count_; i++) {
      const unsigned t = static_cast<unsigned>(i);
      fibers_[i].thread = {t % block_.x, t / block_.x % block_.y, t / (block_.x * block_.y)};
      fibers_[i].state = State::kReady;
      fibers_[i].turn = fibers_[i].group = 0;
      fibers_[i].copies.clear();
      // the switch pops six registers and returns into entry(), with the alignment that the ABI asks for after a call
      void** top = reinterpret_cast<void**>(stacks_ + (i + 1) * kStackBytes - 64);
      *top = reinterpret_cast<void*>(&Scheduler::entry);
      fibers_[i].stack_pointer = top - 6;
    }
    std::vector<size_t> order(count_);
    std::iota(order.begin(), order.end(), size_t{0});
    if (options().order == ThreadOrder::kReverse) std::reverse(order.begin(), order.end());
    for (;;) {
      if (options().order == ThreadOrder::kRandom) std::shuffle(order.begin(), order.end(), random);
      bool progress = false;
      for (size_t i : order)
        if (fibers_[i].state == State::kReady) {
          resume(fibers_[i]);
          progress = true;
        }
      for (size_t first = 0; first < count_; first += kWarp) progress = release_warp(first) || progress;
      const size_t done = in_state(State::kDone);
      if (done == count_) break;
      if (in_state(State::kAtBarrier) + done == count_)
        release_block(done);
      else if (!progress)
        fail("deadlock: " + waiting());
    }
#ifdef SWIFTNET_EMULATION_RACE
    end_block_access_check();
#endif
  }

  void resume(Fiber& fiber) {
    running_ = &fiber;
    place_.thread = running_index();
    place_.warp_epoch = warps_[place_.thread / kWarp].epoch;
#ifdef SWIFTNET_EMULATION_RACE
    running_place = &place_;
#endif
    StackSwitch stacks(false, stacks_ + place_.thread * kStackBytes, kStackBytes);
    swiftnet_fiber_switch(&host_stack_pointer_, fiber.stack_pointer);
    stacks.done(nullptr, nullptr);
#ifdef SWIFTNET_EMULATION_RACE
    running_place = nullptr;
#endif
  }

  size_t in_state(State state) const {
    return static_cast<size_t>(std::count_if(fibers_.begin(), fibers_.begin() + static_cast<ptrdiff_t>(count_),
                                             [&](const Fiber& f) { return f.state == state; }));
  }

  // Lanes that wait for each other at a shuffle or warp barrier go on once all lanes of their mask are there.
  bool release_warp(size_t first) {
    const size_t last = std::min(first + kWarp, count_);
    bool released = false;
    for (size_t i = first; i < last; i++) {
      const Fiber& fiber = fibers_[i];
      if (fiber.state != State::kAtShuffle && fiber.state != State::kAtWarpBarrier) continue;
      if (!(fiber.mask >> (i - first) & 1)) fail("a lane is not in its own mask", fiber);
      const unsigned mask = last - first < kWarp ? fiber.mask & ((1u << (last - first)) - 1) : fiber.mask;
      if (!complete(first, last, mask, fiber)) continue;
      if (fiber.state == State::kAtWarpBarrier) end_warp_epoch(first, last, mask);
      for (size_t lane = first; lane < last; lane++)
        if (mask >> (lane - first) & 1) fibers_[lane].state = State::kReady;
      released = true;
    }
    return released;
  }

  bool complete(size_t first, size_t last, unsigned mask, const Fiber& fiber) {
    if (fiber.state == State::kAtShuffle && !(mask >> fiber.source & 1))
      fail("a shuffle reads lane " + std::to_string(fiber.source) + ", which its mask does not name", fiber);
    for (size_t i = first; i < last; i++) {
      if (!(mask >> (i - first) & 1)) continue;
      const Fiber& other = fibers_[i];
      if (other.state == State::kDone) fail("a mask names a lane that has exited", fiber);
      if (other.state != fiber.state) return false;
      if (other.mask != fiber.mask || other.line != fiber.line)
        fail("lanes of one mask meet at different shuffles or warp barriers, also line " + std::to_string(other.line),
             fiber);
    }
    return true;
  }

  void end_warp_epoch(size_t first, size_t last, unsigned mask) {
    for (size_t i = first; i < last; i++)
      if (!(mask >> (i - first) & 1) && fibers_[i].state != State::kDone) return;
    warps_[first / kWarp].epoch++;
  }

  // A GPU may count exited threads out of a barrier, but CUDA's programming guide asks for all: so do we.
  void release_block(size_t done) {
    const Fiber* at = nullptr;
    for (size_t i = 0; i < count_; i++) {
      Fiber& fiber = fibers_[i];
      if (fiber.state != State::kAtBarrier) continue;
      if (at != nullptr && (fiber.line != at->line || std::strcmp(fiber.file, at->file) != 0))
        fail("threads of a block wait at different barriers, also line " + std::to_string(fiber.line), *at);
      at = &fiber;
      fiber.state = State::kReady;
    }
    if (done > 0) fail(std::to_string(done) + " threads of the block have exited before a barrier", *at);
    place_.epoch++;
  }

  std::string waiting() const {
    std::string text = std::to_string(in_state(State::kDone)) + " threads have exited";
    for (size_t i = 0; i < count_; i++) {
      const Fiber& fiber = fibers_[i];
      if (fiber.state == State::kDone) continue;
      const char* what = fiber.state == State::kAtBarrier ? "a barrier" : "other lanes";
      const std::string line = std::string("; some wait for ") + what + " at " + place(fiber);
      if (text.find(line) == std::string::npos) text += line;
    }
    return text;
  }

  static std::string place(const Fiber& fiber) {
    const std::string path = fiber.file;
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(fiber.line);
  }

  [[noreturn]] void fail(const std::string& what, const Fiber& fiber) const { fail(what + ", at " + place(fiber)); }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("emulation: " + kernel_ + ": " + what + " (block " + std::to_string(block_index_.x) +
                             ", " + std::to_string(block_index_.y) + ", " + std::to_string(block_index_.z) + ")");
  }

  std::string kernel_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::unique_ptr<unsigned char[]> shared_;
  size_t shared_bytes_ = 0, count_ = 0;
  char* stacks_ = nullptr;
  dim3 grid_, block_;
  uint3 block_index_{0, 0, 0};
  Place place_;
  void (*call_)(const void*) = nullptr;
  const void* body_ = nullptr;
  Fiber* running_ = nullptr;
  void* host_stack_pointer_ = nullptr;
  const void* host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
  std::vector<std::string> findings_;
  std::deque<LaunchRecord> records_;
};

Scheduler& scheduler() {
  static Scheduler instance;
  return instance;
}

void Scheduler::entry() {
  Scheduler& s = scheduler();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &s.host_stack_, &s.host_stack_bytes_);
#endif
  s.call_(s.body_);
  if (!s.running_->copies.empty()) s.report("a thread ends with asynchronous copies that it has not waited for");
  s.wait(State::kDone, "", 0);
}

std::mutex one_launch;

}  // namespace

Options& options() {
  static Options instance;
  return instance;
}

std::vector<LaunchRecord> take_launches() {
  const std::lock_guard<std::mutex> lock(one_launch);
  return scheduler().take_launches();
}

void launch_threads(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(const void*),
                    const void* body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  scheduler().launch(kernel, grid, block, shared_bytes, call, body);
}

void report(const std::string& finding) { scheduler().report(finding); }

uint3 thread_index() { return scheduler().thread(); }
uint3 block_index() { return scheduler().block_index(); }
dim3 block_size() { return scheduler().block(); }
dim3 grid_size() { return scheduler().grid(); }
unsigned lane_index() { return scheduler().lane(); }
void* dynamic_shared() { return scheduler().dynamic_shared(); }

void block_barrier(const char* file, int line) { scheduler().wait(State::kAtBarrier, file, line); }

void warp_barrier(unsigned mask, const char* file, int line) {
  scheduler().wait(State::kAtWarpBarrier, file, line, mask);
}

uint64_t shuffle(uint64_t value, unsigned mask, unsigned source, const char* file, int line) {
  scheduler().wait(State::kAtShuffle, file, line, mask, source, value);
  const uint64_t received = scheduler().offered(source);
  // a second meeting, so that no lane offers its next value before all have read this one
  scheduler().wait(State::kAtShuffle, file, line, mask, source, value);
  return received;
}

WarpWords exchange(const uint32_t (&words)[kExchangedWords], const char* file, int line) {
  return scheduler().exchange(words, file, line);
}

void start_copy(const PendingCopy& copy) { scheduler().start_copy(copy); }
void end_group_of_copies() { scheduler().commit_copies(); }
bool next_copy(unsigned groups, PendingCopy& copy) { return scheduler().next_copy(groups, copy); }

}  // namespace emulation
}  // namespace swiftnet
