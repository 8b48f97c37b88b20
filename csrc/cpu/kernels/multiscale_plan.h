// What multiscale_mean keeps in its workspace: for all threads where each map's columns lie, for each thread the rows
// of the maps that its group of rows reads.
#pragma once
#include "cpu/kernels/logit_rows.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

using Order = MultiscaleMean::Order;

constexpr int kRows = 8, kColumns = 64;  // of a tile, at most

// Where a vector of the result finds its columns: the map is not resized at all; it keeps its width; they lie within
// one vector; or anywhere.
enum class Columns { kCopied, kSame, kNear, kFar };

struct MapPlan {
  int64_t slots, pitch, span;  // span: of a tile's columns, with what vectors read beyond
  Columns columns;
  int32_t* lower;  // [columns of the result, rounded up to tiles by repeating the last]
  float* weight;   // likewise
};

// What a thread has of a map.
struct MapState {
  float* rows;     // [slots][classes][pitch]
  int64_t* held;   // [slots]: which row of the batch each holds, or -1
  float* largest;  // [slots]
  float* resized;  // [classes][span]: a tile's columns of one row, resized vertically
  int* slots;      // the `used` ones that the group reads
  int used;
  int lower[kRows], upper[kRows];  // the slots of each row of the group
  float weight[kRows];
  int64_t first, columns;  // those that the tile touches
};

struct Part {
  MapState* maps;
  float *sums, *values;  // [classes][kColumns]
  int* candidates;       // [classes]
  float* ahead;          // [classes]
};

// Pieces of the workspace, aligned to 64; from address 0 on it measures.
struct Pieces {
  uintptr_t next;

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(next);
    next += static_cast<uintptr_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return piece;
  }
};

// How many pixels of a map `pixels` neighbours of the result touch at most.
int64_t extent(int64_t in, int64_t out, int64_t pixels) {
  const int64_t most = (pixels - 1) * in / out + 3;
  return most < in ? most : in;
}

int64_t parts_of(const MultiscaleMean& call) { return call.threads < call.n * call.h ? call.threads : call.n * call.h; }

MapPlan* take_plans(const MultiscaleMean& call, Pieces& pieces) {
  MapPlan* const plans = pieces.take<MapPlan>(call.count);
  const int64_t columns = round_up(call.w, kColumns);
  for (int m = 0; m < call.count; m++) {
    int32_t* const lower = pieces.take<int32_t>(columns);
    float* const weight = pieces.take<float>(columns);
    if (call.workspace != nullptr) plans[m].lower = lower, plans[m].weight = weight;
  }
  return plans;
}

Part take_part(const MultiscaleMean& call, Pieces& pieces) {
  Part part;
  part.maps = pieces.take<MapState>(call.count);
  part.sums = pieces.take<float>(call.classes * kColumns);
  part.values = pieces.take<float>(call.order == Order::kResizeThenSoftmax ? call.classes * kColumns : 0);
  part.candidates = pieces.take<int>(call.classes);
  part.ahead = pieces.take<float>(call.classes);
  for (int m = 0; m < call.count; m++) {
    const LogitMap& map = call.maps[m];
    const int64_t rows = extent(map.h, call.h, kRows), slots = rows < 2 * kRows ? rows : 2 * kRows;
    MapState state{};
    state.rows = pieces.take<float>(slots * call.classes * row_pitch(map.w));
    state.held = pieces.take<int64_t>(slots);
    state.largest = pieces.take<float>(slots);
    state.slots = pieces.take<int>(slots);
    state.resized = pieces.take<float>(call.classes * (round_up(extent(map.w, call.w, kColumns) + 1, 16) + 16));
    if (call.workspace != nullptr) part.maps[m] = state;
  }
  return part;
}

struct Sizes {
  int64_t plans, part;
};

Sizes sizes_of(const MultiscaleMean& call) {
  MultiscaleMean measured = call;
  measured.workspace = nullptr;
  Pieces plans{0}, part{0};
  take_plans(measured, plans);
  take_part(measured, part);
  return {static_cast<int64_t>(plans.next), static_cast<int64_t>(part.next)};
}

void make_plans(const MultiscaleMean& call, MapPlan* plans) {
  for (int m = 0; m < call.count; m++) {
    const LogitMap& map = call.maps[m];
    MapPlan& plan = plans[m];
    const int64_t rows = extent(map.h, call.h, kRows), columns = round_up(call.w, kColumns);
    plan.slots = rows < 2 * kRows ? rows : 2 * kRows;
    plan.pitch = row_pitch(map.w);
    plan.span = round_up(extent(map.w, call.w, kColumns) + 1, 16) + 16;
    for (int64_t x = 0; x < call.w; x++) {
      const Taps taps(map.w, call.w, x);
      plan.lower[x] = static_cast<int32_t>(taps.lower);
      plan.weight[x] = taps.weight();
    }
    for (int64_t x = call.w; x < columns; x++)
      plan.lower[x] = plan.lower[call.w - 1], plan.weight[x] = plan.weight[call.w - 1];
    plan.columns = map.w != call.w ? Columns::kNear : map.h != call.h ? Columns::kSame : Columns::kCopied;
    for (int64_t x = 0; plan.columns == Columns::kNear && x < columns; x += kLanes)
      if (plan.lower[x + kLanes - 1] - plan.lower[x] + 1 >= kLanes) plan.columns = Columns::kFar;
  }
}

int slot_of(const MapPlan& plan, const MapState& state, int64_t row) {
  for (int s = 0; s < plan.slots; s++)
    if (state.held[s] == row) return s;
  return -1;
}

// Holds what the rows y to y + rows of image n read of a map.
void hold_rows(const MultiscaleMean& call, const LogitMap& map, const MapPlan& plan, MapState& state, int64_t n,
               int64_t y, int rows) {
  bool read[2 * kRows] = {};
  for (int pass = 0; pass < 2; pass++)  // first what is there already, that nothing takes its place
    for (int r = 0; r < rows; r++) {
      const Taps taps(map.h, call.h, y + r);
      state.weight[r] = taps.weight();
      for (int side = 0; side < 2; side++) {
        const int64_t row = side ? taps.upper() : taps.lower;
        int slot = slot_of(plan, state, n * map.h + row);
        if (slot < 0 && pass == 0) continue;
        if (slot < 0) {
          slot = 0;
          while (read[slot]) slot++;
          float* const to = state.rows + slot * call.classes * plan.pitch;
          const bool with_softmax = call.order == Order::kSoftmaxThenResize;
          state.held[slot] = n * map.h + row;
          state.largest[slot] = call.bf16 ? stage_row<bfloat16>(map, n, row, call.classes, with_softmax, to)
                                          : stage_row<float>(map, n, row, call.classes, with_softmax, to);
        }
        read[slot] = true;
        (side ? state.upper : state.lower)[r] = slot;
      }
    }
  state.used = 0;
  for (int s = 0; s < plan.slots; s++)
    if (read[s]) state.slots[state.used++] = s;
}

// How many rows from y on to make at a time: up to most, to the end of a cell of the map where that is not far.
int group_rows(const MultiscaleMean& call, const LogitMap& map, int64_t y, int64_t most) {
  int rows = static_cast<int>(most < kRows ? most : kRows);
  for (int shorter = rows; shorter > kRows / 2; shorter--)
    if (Taps(map.h, call.h, y + shorter - 1).lower != Taps(map.h, call.h, y + shorter).lower) return shorter;
  return rows;
}

}  // namespace
}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
