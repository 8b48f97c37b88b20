// Runs a launch: one fiber for each CUDA thread of a block, switched at barriers and shuffles.
#include <sys/mman.h>

#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_emulation.h"

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

const Thread* current = nullptr;

namespace {

constexpr size_t kStackBytes = 64 * 1024, kMaxThreads = 1024, kWarp = 32;
constexpr unsigned kPoison = 0xff;  // all bits set is a NaN in fp32 and fp16

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  Thread view;
  void* stack_pointer;
  State state;
  int line;        // of the barrier or shuffle it waits at
  unsigned mask;   // of that shuffle
  uint64_t value;  // what it offers to that shuffle
};

class Scheduler {
 public:
  Scheduler() : fibers_(kMaxThreads) {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("emulation: no address space for the threads' stacks");
    stacks_ = static_cast<char*>(memory);
  }

  void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    count_ = static_cast<size_t>(block.x) * block.y * block.z;
    if (count_ == 0 || count_ > kMaxThreads) throw std::runtime_error("emulation: a block has 1 to 1024 threads");
    shared_.assign(shared_bytes / sizeof(max_align_t) + 1, max_align_t{});
    body_ = &body;
    const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    std::mt19937 random(options().seed);
    for (uint64_t i = options().first_block; i < blocks && i <= options().last_block; i++) {
      const uint3 index{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                        static_cast<unsigned>(i / grid.x / grid.y)};
      run_block(index, block, grid, random);
    }
  }

  void* dynamic_shared() { return shared_.data(); }

  void wait(State state, int line, unsigned mask = 0, uint64_t value = 0) {
    Fiber& fiber = *running_;
    fiber.state = state;
    fiber.line = line;
    fiber.mask = mask;
    fiber.value = value;
    swiftnet_fiber_switch(&fiber.stack_pointer, scheduler_stack_pointer_);
  }

  uint64_t offered(unsigned lane) const {
    const size_t first = (running_ - fibers_.data()) / kWarp * kWarp;
    return first + lane < count_ ? fibers_[first + lane].value : running_->value;
  }

 private:
  static void entry();

  void run_block(uint3 index, dim3 block, dim3 grid, std::mt19937& random) {
    std::memset(shared_.data(), kPoison, shared_.size() * sizeof(max_align_t));
    for (size_t i = 0; i < count_; i++) {
      const unsigned t = static_cast<unsigned>(i);
      fibers_[i].view = {{t % block.x, t / block.x % block.y, t / (block.x * block.y)}, index, block, grid};
      fibers_[i].state = State::kReady;
      // the switch pops six registers and returns into entry(), with the alignment that the ABI asks for after a call
      void** top = reinterpret_cast<void**>(stacks_ + (i + 1) * kStackBytes - 64);
      *top = reinterpret_cast<void*>(&Scheduler::entry);
      fibers_[i].stack_pointer = top - 6;
    }
    std::vector<size_t> order(count_);
    std::iota(order.begin(), order.end(), size_t{0});
    if (options().order == Order::kReverse) std::reverse(order.begin(), order.end());
    for (size_t done = 0; done < count_;) {
      if (options().order == Order::kRandom) std::shuffle(order.begin(), order.end(), random);
      bool ran = false;
      for (size_t i : order)
        if (fibers_[i].state == State::kReady) {
          resume(fibers_[i]);
          ran = true;
        }
      done = in_state(State::kDone);
      const bool shuffled = release_shuffles();
      if (in_state(State::kAtBarrier) + done == count_ && done < count_)
        release_barrier(done);
      else if (!ran && !shuffled && done < count_)
        throw std::runtime_error("emulation: deadlock: threads wait at barriers and shuffles that others never reach");
    }
  }

  void resume(Fiber& fiber) {
    running_ = &fiber;
    current = &fiber.view;
    swiftnet_fiber_switch(&scheduler_stack_pointer_, fiber.stack_pointer);
    current = nullptr;
  }

  size_t in_state(State state) const {
    return static_cast<size_t>(std::count_if(fibers_.begin(), fibers_.begin() + static_cast<ptrdiff_t>(count_),
                                             [&](const Fiber& f) { return f.state == state; }));
  }

  // A warp's lanes pass a shuffle together, once all lanes of its mask are there.
  bool release_shuffles() {
    bool released = false;
    for (size_t first = 0; first < count_; first += kWarp) {
      const size_t last = std::min(first + kWarp, count_);
      size_t waiting = last;
      for (size_t i = first; i < last; i++)
        if (fibers_[i].state == State::kAtShuffle) waiting = i;
      if (waiting == last) continue;
      const unsigned mask = fibers_[waiting].mask;
      bool complete = true;
      for (size_t i = first; i < last; i++) {
        if (!(mask >> (i - first) & 1)) continue;
        if (fibers_[i].state == State::kDone)
          fail("a shuffle's mask names a lane that has exited", fibers_[waiting].line);
        complete = complete && fibers_[i].state == State::kAtShuffle && fibers_[i].mask == mask;
      }
      if (!complete) continue;
      for (size_t i = first; i < last; i++)
        if (mask >> (i - first) & 1) fibers_[i].state = State::kReady;
      released = true;
    }
    return released;
  }

  // CUDA counts exited threads out of a barrier on recent GPUs, but its programming guide asks for all: so do we.
  void release_barrier(size_t done) {
    int line = -1;
    for (size_t i = 0; i < count_; i++) {
      if (fibers_[i].state != State::kAtBarrier) continue;
      if (line >= 0 && fibers_[i].line != line) fail("threads of a block wait at different barriers", line);
      line = fibers_[i].line;
      fibers_[i].state = State::kReady;
    }
    if (done > 0) fail("threads of a block have exited before a barrier", line);
  }

  [[noreturn]] static void fail(const std::string& what, int line) {
    throw std::runtime_error("emulation: " + what + " (line " + std::to_string(line) + ")");
  }

  std::vector<Fiber> fibers_;
  std::vector<max_align_t> shared_;
  char* stacks_ = nullptr;
  size_t count_ = 0;
  const std::function<void()>* body_ = nullptr;
  Fiber* running_ = nullptr;
  void* scheduler_stack_pointer_ = nullptr;
};

Scheduler& scheduler() {
  static Scheduler instance;
  return instance;
}

void Scheduler::entry() {
  Scheduler& s = scheduler();
  (*s.body_)();
  s.wait(State::kDone, 0);
}

}  // namespace

Options& options() {
  static Options instance;
  return instance;
}

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread_body) {
  static std::mutex one_launch;
  const std::lock_guard<std::mutex> lock(one_launch);
  scheduler().launch(grid, block, shared_bytes, thread_body);
}

void* dynamic_shared() { return scheduler().dynamic_shared(); }

void barrier(int line) { scheduler().wait(State::kAtBarrier, line); }

uint64_t shuffle(uint64_t value, unsigned mask, unsigned source_lane, int line) {
  scheduler().wait(State::kAtShuffle, line, mask, value);
  const uint64_t received = scheduler().offered(source_lane);
  // a second meeting, so that no lane offers its next value before all have read this one
  scheduler().wait(State::kAtShuffle, line, mask, value);
  return received;
}

}  // namespace emulation
}  // namespace swiftnet
