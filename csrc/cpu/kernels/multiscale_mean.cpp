// The mean of several logit maps' probabilities at one size, or its labels.
//
// A thread goes down its rows of the result in groups. Of each map it holds the few source rows that a group reads, as
// planes [class][column] with their softmax taken. It makes the group in tiles: each row is first resized vertically,
// over the columns that the tile touches, then horizontally, and the maps' values add up in [class][kColumns].
//
// For labels most classes of most tiles are left out before: those that lose to one class, the rival, at every source
// pixel that the tile touches. A tile where only the rival is left is filled.
#include "cpu/kernels/level.h"
#include "cpu/kernels/logit_rows.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

using Order = MultiscaleMean::Order;
using Out = MultiscaleMean::Out;

constexpr int kRows = 8, kColumns = 64, kVectors = kColumns / kLanes;
constexpr uint8_t kNaNLabel = 255;

typedef uint8_t Labels __attribute__((vector_size(kLanes)));

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
  int used;        // slots that the group reads, the first ones of `slots`
  int* slots;
  int lower[kRows], upper[kRows];  // the slots of each row of the group
  float weight[kRows];
  int64_t first, columns;  // those that the tile touches
};

struct Part {
  MapState* maps;
  float *sums, *values;  // [classes][kColumns]
  int* candidates;       // [classes]
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

SWIFTNET_INLINE Floats gather(const float* from, Ints index) {
#if defined(__AVX512F__)
  return (Floats)_mm512_mask_i32gather_ps(__m512{}, 0xffff, (__m512i)index, from, 4);
#else
  Floats values;
  for (int i = 0; i < kLanes; i++) values[i] = from[index[i]];
  return values;
#endif
}

SWIFTNET_INLINE Floats permute(Floats values, Ints index) {
#if defined(__clang__)
  Floats permuted;
  for (int i = 0; i < kLanes; i++) permuted[i] = values[index[i]];
  return permuted;
#else
  return __builtin_shuffle(values, index);
#endif
}

// The classes' values of one row of a map over a tile, added to `to` or stored there.
template <Columns kColumnsAre, bool kAdd>
void resize_row(const MultiscaleMean& call, const MapPlan& plan, const MapState& state, const int* classes, int count,
                int row, int64_t x0, int vectors, float* to) {
  const Floats weight = broadcast(state.weight[row]);
  const float* const lower = state.rows + state.lower[row] * call.classes * plan.pitch + state.first;
  const float* const upper = state.rows + state.upper[row] * call.classes * plan.pitch + state.first;
  if (kColumnsAre != Columns::kCopied)
    for (int k = 0; k < count; k++)
      for (int64_t j = 0, c = classes[k] * plan.pitch; j < state.columns; j += kLanes)
        store(state.resized + k * plan.span + j, interpolate(load(lower + c + j), load(upper + c + j), weight));

  for (int v = 0; v < vectors; v++) {
    const int64_t x = x0 + v * kLanes;
    Ints index;
    std::memcpy(&index, plan.lower + x, sizeof(index));
    index -= plan.lower[x];
    const Floats column_weight = load(plan.weight + x);
    const float* const from = state.resized + (plan.lower[x] - state.first);
    for (int k = 0; k < count; k++) {
      Floats value;
      if (kColumnsAre == Columns::kCopied) {
        value = load(lower + classes[k] * plan.pitch + v * kLanes);
      } else if (kColumnsAre == Columns::kSame) {
        const Floats same = load(from + k * plan.span);
        value = interpolate(same, same, Floats{});
      } else if (kColumnsAre == Columns::kNear) {
        const Floats near = load(from + k * plan.span);
        value = interpolate(permute(near, index), permute(near, index + 1), column_weight);
      } else {
        value =
            interpolate(gather(from + k * plan.span, index), gather(from + k * plan.span + 1, index), column_weight);
      }
      float* const sum = to + k * kColumns + v * kLanes;
      store(sum, kAdd ? load(sum) + value : value);
    }
  }
}

template <bool kAdd>
void resize_row(const MultiscaleMean& call, const MapPlan& plan, const MapState& state, const int* classes, int count,
                int row, int64_t x0, int vectors, float* to) {
  if (plan.columns == Columns::kCopied)
    resize_row<Columns::kCopied, kAdd>(call, plan, state, classes, count, row, x0, vectors, to);
  else if (plan.columns == Columns::kSame)
    resize_row<Columns::kSame, kAdd>(call, plan, state, classes, count, row, x0, vectors, to);
  else if (plan.columns == Columns::kNear)
    resize_row<Columns::kNear, kAdd>(call, plan, state, classes, count, row, x0, vectors, to);
  else
    resize_row<Columns::kFar, kAdd>(call, plan, state, classes, count, row, x0, vectors, to);
}

float largest_of(Floats values) {
  float largest = values[0];
  for (int i = 1; i < kLanes; i++) largest = values[i] > largest ? values[i] : largest;
  return largest;
}

// A class with a good chance in the tile: the first one ahead at its middle.
int rival_of(const MultiscaleMean& call, const MapPlan* plans, const Part& part, int rows) {
  int rival = 0;
  float most = 0.f;
  for (int64_t c = 0; c < call.classes; c++) {
    float sum = 0.f;
    for (int m = 0; m < call.count; m++) {
      const MapState& state = part.maps[m];
      const int64_t row = state.lower[rows / 2] * call.classes + c;
      sum += state.rows[row * plans[m].pitch + state.first + state.columns / 2];
    }
    if (c == 0 || sum > most) most = sum, rival = static_cast<int>(c);
  }
  return rival;
}

// Fills part.candidates, in rising order, with the classes that may be the label somewhere in the tile.
//
// The difference of a class's and the rival's bilinear values is bilinear too, so it is at most that of the source
// pixels. What is computed errs: with u = 2^-24 and A the sum of the maps' largest values, a resized value by less than
// 6u·A (1 - w, product and sum, along two axes), the sum of M of them by another M·u·A, that twice; the bound, its M
// differences and their sum, by less than (2M + 2)u·A. So a class whose bound lies (4M + 24)u·A below 0 is computed
// smaller than the rival at every pixel, and leaving it out changes nothing; 1e-36 a map covers products that
// underflow.
int find_candidates(const MultiscaleMean& call, const MapPlan* plans, const Part& part, int rows) {
  float largest = 0.f;
  for (int m = 0; m < call.count; m++) {
    float of_map = 0.f;
    for (int i = 0; i < part.maps[m].used; i++) {
      const float of_row = part.maps[m].largest[part.maps[m].slots[i]];
      of_map = of_row > of_map ? of_row : of_map;
    }
    largest += of_map;
  }
  const bool bounded = largest <= kLargestBounded;
  const float slack = static_cast<float>(4 * call.count + 24) * 5.9604645e-8f * largest + 1e-36f * call.count;
  const int rival = bounded ? rival_of(call, plans, part, rows) : 0;
  const float nothing = -__builtin_inff();
  Ints lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  int count = 0;
  for (int c = 0; c < call.classes; c++) {
    float ahead = slack;
    for (int m = 0; bounded && c != rival && m < call.count; m++) {
      const MapState& state = part.maps[m];
      Floats most = broadcast(nothing);
      for (int i = 0; i < state.used; i++) {
        const float* const row = state.rows + state.slots[i] * call.classes * plans[m].pitch + state.first;
        const float *const of_class = row + c * plans[m].pitch, *const of_rival = row + rival * plans[m].pitch;
        for (int64_t j = 0; j < state.columns; j += kLanes) {
          const Floats difference = load(of_class + j) - load(of_rival + j);
          const Ints left = Ints{} + static_cast<int32_t>(state.columns - j);
          most = maximum(lane < left ? difference : most, most);
        }
      }
      ahead += largest_of(most);
    }
    if (!(ahead < 0.f)) part.candidates[count++] = c;
  }
  return bounded ? count : -count;
}

void store_labels(const Part& part, int count, int vectors, int64_t pixels, uint8_t* out) {
  for (int v = 0; v < vectors; v++) {
    Floats best = load(part.sums + v * kLanes);
    Ints label = Ints{} + part.candidates[0], number = best == best;
    for (int k = 1; k < count; k++) {
      const Floats sum = load(part.sums + k * kColumns + v * kLanes);
      const Ints better = sum > best;
      label = better ? Ints{} + part.candidates[k] : label;
      best = better ? sum : best;
      number &= sum == sum;
    }
    label = number ? label : Ints{} + kNaNLabel;
    const Labels bytes = __builtin_convertvector(label, Labels);
    const int64_t left = pixels - v * kLanes;
    std::memcpy(out + v * kLanes, &bytes, left < kLanes ? left : kLanes);
  }
}

template <typename T>
void store_mean(const MultiscaleMean& call, const Part& part, int vectors, int64_t pixels, int64_t n, int64_t y,
                int64_t x0) {
  const Floats maps = broadcast(static_cast<float>(call.count));
  for (int64_t c = 0; c < call.classes; c++)
    for (int v = 0; v < vectors; v++) {
      const Floats mean = load(part.sums + c * kColumns + v * kLanes) / maps;
      const int64_t x = x0 + v * kLanes;
      const int left = static_cast<int>(pixels - v * kLanes < kLanes ? pixels - v * kLanes : kLanes);
      if (!call.out_channels_last) {
        T* const out = static_cast<T*>(call.out) + ((n * call.classes + c) * call.h + y) * call.w + x;
        left == kLanes ? store(out, mean) : store_some(out, mean, left);
      } else {
        T* const out = static_cast<T*>(call.out) + ((n * call.h + y) * call.w + x) * call.classes + c;
        T values[kLanes];
        store(values, mean);
        for (int i = 0; i < left; i++) out[i * call.classes] = values[i];
      }
    }
}

void make_tile(const MultiscaleMean& call, const MapPlan* plans, const Part& part, int64_t n, int64_t y, int rows,
               int64_t x0) {
  const int64_t pixels = call.w - x0 < kColumns ? call.w - x0 : kColumns;
  const int vectors = static_cast<int>((pixels + kLanes - 1) / kLanes);
  for (int m = 0; m < call.count; m++) {
    MapState& state = part.maps[m];
    state.first = plans[m].lower[x0];
    state.columns = plans[m].lower[x0 + pixels - 1] - state.first + (call.maps[m].w == call.w ? 1 : 2);
  }
  uint8_t* const labels = static_cast<uint8_t*>(call.out) + (n * call.h + y) * call.w + x0;
  int count = static_cast<int>(call.classes);
  if (call.out_type == Out::kLabels && call.order != Order::kResizeThenSoftmax) {
    count = find_candidates(call, plans, part, rows);
    if (count == 1) {
      for (int r = 0; r < rows; r++) std::memset(labels + r * call.w, part.candidates[0], pixels);
      return;
    }
    count = count < 0 ? -count : count;
  } else {
    for (int c = 0; c < count; c++) part.candidates[c] = c;
  }

  for (int r = 0; r < rows; r++) {
    for (int m = 0; m < call.count; m++) {
      const MapState& state = part.maps[m];
      if (call.order == Order::kResizeThenSoftmax) {
        float* const values = m == 0 ? part.sums : part.values;
        resize_row<false>(call, plans[m], state, part.candidates, count, r, x0, vectors, values);
        for (int v = 0; v < vectors; v++) softmax(values + v * kLanes, count, kColumns);
        for (int64_t i = 0; m > 0 && i < count * kColumns; i += kLanes)
          store(part.sums + i, load(part.sums + i) + load(values + i));
      } else if (m == 0) {
        resize_row<false>(call, plans[m], state, part.candidates, count, r, x0, vectors, part.sums);
      } else {
        resize_row<true>(call, plans[m], state, part.candidates, count, r, x0, vectors, part.sums);
      }
    }
    if (call.out_type == Out::kLabels)
      store_labels(part, count, vectors, pixels, labels + r * call.w);
    else if (call.out_type == Out::kFloat)
      store_mean<float>(call, part, vectors, pixels, n, y + r, x0);
    else
      store_mean<bfloat16>(call, part, vectors, pixels, n, y + r, x0);
  }
}

// Rows begin to end of all images' rows.
void make_rows(const MultiscaleMean& call, const MapPlan* plans, const Part& part, int64_t begin, int64_t end) {
  for (int m = 0; m < call.count; m++)
    for (int s = 0; s < plans[m].slots; s++) part.maps[m].held[s] = -1;
  for (int64_t row = begin; row < end;) {
    const int64_t n = row / call.h, y = row % call.h;
    int64_t rows = call.h - y < end - row ? call.h - y : end - row;
    rows = rows < kRows ? rows : kRows;
    for (int m = 0; m < call.count; m++)
      hold_rows(call, call.maps[m], plans[m], part.maps[m], n, y, static_cast<int>(rows));
    for (int64_t x = 0; x < call.w; x += kColumns) make_tile(call, plans, part, n, y, static_cast<int>(rows), x);
    row += rows;
  }
}

}  // namespace

int64_t multiscale_mean_workspace(const MultiscaleMean& call) {
  const Sizes sizes = sizes_of(call);
  return sizes.plans + parts_of(call) * sizes.part;
}

void multiscale_mean(const MultiscaleMean& call) {
  const Sizes sizes = sizes_of(call);
  const uintptr_t workspace = reinterpret_cast<uintptr_t>(call.workspace);
  Pieces shared{workspace};
  MapPlan* const plans = take_plans(call, shared);
  make_plans(call, plans);
  const int64_t parts = parts_of(call), rows = call.n * call.h;
  parallel_for(call.threads, parts, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      Pieces own{workspace + static_cast<uintptr_t>(sizes.plans + p * sizes.part)};
      make_rows(call, plans, take_part(call, own), rows * p / parts, rows * (p + 1) / parts);
    }
  });
}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
