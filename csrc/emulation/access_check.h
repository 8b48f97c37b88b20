// Which memory accesses of a launch conflict, and how many sectors they touch. Linked into the race build only.
#pragma once
#include <cstddef>
#include <cstdint>

#include "emulation.h"

namespace swiftnet {
namespace emulation {

// Where the running thread stands in the order that barriers make.
struct Place {
  uint32_t block = 0;         // counted over all launches, from 1
  uint32_t launch_first = 1;  // the first block of this launch
  uint32_t epoch = 0;         // block barriers passed
  uint32_t warp_epoch = 0;    // barriers of its whole warp passed
  uint32_t thread = 0;
};

struct AddressRange {
  const char* begin = nullptr;
  size_t size = 0;
  bool holds(const void* p) const { return static_cast<size_t>(static_cast<const char*>(p) - begin) < size; }
};

// Between these two, accesses of instrumented code are looked at while a thread runs.
void begin_access_check(const AddressRange& fiber_stacks, const AddressRange& dynamic_shared, bool count_sectors);
void end_access_check(LaunchRecord& record);  // reports what it found
void end_block_access_check();
extern const Place* running_place;  // nullptr while no thread runs

}  // namespace emulation
}  // namespace swiftnet
