// The mean of several logit maps' probabilities at one size, or its labels.
//
// A thread goes down its rows of the result in groups. Of each map it holds the few source rows that a group reads, as
// planes [class][column] with their softmax taken. It makes the group in tiles: each row is first resized vertically,
// over the columns that the tile touches, then horizontally, and the maps' values add up in [class][kColumns].
//
// For labels most classes of most tiles are left out before: those that lose to one class, the rival, at every source
// pixel that the tile touches. A tile where only the rival is left is filled.
#include "cpu/kernels/level.h"
#include "cpu/kernels/multiscale_plan.h"
#include "cpu/parallel.h"

namespace swiftnet {
namespace cpu {
namespace SWIFTNET_CPU_LEVEL {
namespace {

using Out = MultiscaleMean::Out;

constexpr uint8_t kNaNLabel = 255;

typedef uint8_t Labels __attribute__((vector_size(kLanes)));

SWIFTNET_INLINE Floats gather(const float* from, Ints index) {
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)  // which does not see what a gather reads
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
  const int64_t pitch = plan.pitch, span = plan.span;  // in registers, whatever the stores below may write
  const float* const lower = state.rows + state.lower[row] * call.classes * pitch + state.first;
  const float* const upper = state.rows + state.upper[row] * call.classes * pitch + state.first;
  if (kColumnsAre != Columns::kCopied)
    for (int64_t j = 0, columns = state.columns; j < columns; j += kLanes) {
      float* resized = state.resized + j;
      for (int k = 0; k < count; k++, resized += span) {
        const int64_t from = classes[k] * pitch + j;
        store(resized, interpolate(load(lower + from), load(upper + from), weight));
      }
    }

  for (int v = 0; v < vectors; v++) {
    const int64_t x = x0 + v * kLanes;
    Ints index;
    std::memcpy(&index, plan.lower + x, sizeof(index));
    index -= plan.lower[x];
    const Ints next = index + 1;
    const Floats column_weight = load(plan.weight + x);
    const float* from = state.resized + (plan.lower[x] - state.first);
    float* sum = to + v * kLanes;
    for (int k = 0; k < count; k++, from += span, sum += kColumns) {
      Floats value;
      if (kColumnsAre == Columns::kCopied)
        value = load(lower + classes[k] * pitch + v * kLanes);
      else if (kColumnsAre == Columns::kSame)
        value = interpolate(load(from), load(from), Floats{});
      else if (kColumnsAre == Columns::kNear)
        value = interpolate(permute(load(from), index), permute(load(from), next), column_weight);
      else
        value = interpolate(gather(from, index), gather(from, next), column_weight);
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

SWIFTNET_INLINE float largest_of(Floats values) {
  Ints lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  for (int step = kLanes / 2; step > 0; step /= 2) values = maximum(permute(values, lane ^ step), values);
  return values[0];
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

// Adds to `ahead` by how much each class is ahead of the rival at most, among the pixels of a map that the tile
// touches.
void add_most(const MultiscaleMean& call, const MapPlan& plan, const MapState& state, int rival, float* most,
              float* ahead) {
  Ints lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  for (int64_t c = 0; c < call.classes; c++) store(most + c * kLanes, broadcast(-__builtin_inff()));
  for (int i = 0; i < state.used; i++) {
    const float* const row = state.rows + state.slots[i] * call.classes * plan.pitch + state.first;
    for (int64_t j = 0; j < state.columns; j += kLanes) {
      const Ints left = Ints{} + static_cast<int32_t>(state.columns - j);
      const Floats of_rival = lane < left ? load(row + rival * plan.pitch + j) : broadcast(__builtin_inff());
      const float* of_class = row + j;
      for (int64_t c = 0; c < call.classes; c++, of_class += plan.pitch)
        store(most + c * kLanes, maximum(load(of_class) - of_rival, load(most + c * kLanes)));
    }
  }
  for (int64_t c = 0; c < call.classes; c++) ahead[c] += largest_of(load(most + c * kLanes));
}

// Fills part.candidates, in rising order, with the classes that may be the label somewhere in the tile.
//
// The difference of a class's and the rival's bilinear values is bilinear too, so it is at most that of the source
// pixels. What is computed errs: with u = 2^-24 and A the sum of the maps' largest values, a resized value by less than
// 6u·A (1 - w, product and sum, along two axes), the sum of M of them by another M·u·A, that twice; the bound, its M
// differences and their sum, by less than (2M + 2)u·A. So a class whose bound lies (4M + 24)u·A below 0 is computed
// smaller than the rival at every pixel, and leaving it out changes nothing; 1e-36 a map covers products that
// underflow.
int find_candidates(const MultiscaleMean& call, const MapPlan* plans, const Part& part, int rows, bool* finite) {
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
  for (int64_t c = 0; c < call.classes; c++) part.ahead[c] = slack;
  for (int m = 0; bounded && m < call.count; m++) add_most(call, plans[m], part.maps[m], rival, part.sums, part.ahead);
  int count = 0;
  for (int c = 0; c < call.classes; c++)
    if (c == rival || !(part.ahead[c] < 0.f)) part.candidates[count++] = c;
  *finite = bounded;
  return count;
}

SWIFTNET_INLINE Labels to_bytes(Ints labels) {
#if defined(__AVX512F__)
  return (Labels)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)labels);
#else
  return __builtin_convertvector(labels, Labels);
#endif
}

// kFinite: the sums are known to hold no NaN.
template <bool kFinite>
void store_labels(const Part& part, int count, int64_t pixels, uint8_t* out) {
  constexpr int kTogether = 4;  // vectors, whose comparisons would wait for each other one by one
  for (int64_t x = 0; x < pixels; x += kTogether * kLanes) {
    const float* sums = part.sums + x;
    Floats best[kTogether];
    Ints label[kTogether], number[kTogether];
    for (int v = 0; v < kTogether; v++) {
      best[v] = load(sums + v * kLanes);
      label[v] = Ints{} + part.candidates[0];
      number[v] = best[v] == best[v];
    }
    for (int k = 1; k < count; k++) {
      sums += kColumns;
      const Ints candidate = Ints{} + part.candidates[k];
      for (int v = 0; v < kTogether; v++) {
        const Floats sum = load(sums + v * kLanes);
        label[v] = sum > best[v] ? candidate : label[v];
        best[v] = sum > best[v] ? sum : best[v];
        if (!kFinite) number[v] &= sum == sum;
      }
    }
    for (int v = 0; v < kTogether; v++) {
      const int64_t left = pixels - x - v * kLanes;
      if (left <= 0) break;
      if (!kFinite) label[v] = number[v] ? label[v] : Ints{} + kNaNLabel;
      const Labels bytes = to_bytes(label[v]);
      std::memcpy(out + x + v * kLanes, &bytes, left < kLanes ? left : kLanes);
    }
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
  bool finite = false;
  if (call.out_type == Out::kLabels && call.order != Order::kResizeThenSoftmax) {
    count = find_candidates(call, plans, part, rows, &finite);
    if (finite && count == 1) {
      for (int r = 0; r < rows; r++) std::memset(labels + r * call.w, part.candidates[0], pixels);
      return;
    }
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
    if (call.out_type == Out::kLabels && finite)
      store_labels<true>(part, count, pixels, labels + r * call.w);
    else if (call.out_type == Out::kLabels)
      store_labels<false>(part, count, pixels, labels + r * call.w);
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
    const int rows = group_rows(call, call.maps[0], y, call.h - y < end - row ? call.h - y : end - row);
    for (int m = 0; m < call.count; m++) hold_rows(call, call.maps[m], plans[m], part.maps[m], n, y, rows);
    for (int64_t x = 0; x < call.w; x += kColumns) make_tile(call, plans, part, n, y, rows, x);
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
  parallel_parts(call.threads, call.n * call.h, [&](int64_t part, int64_t begin, int64_t end) {
    Pieces own{workspace + static_cast<uintptr_t>(sizes.plans + part * sizes.part)};
    make_rows(call, plans, take_part(call, own), begin, end);
  });
}

}  // namespace SWIFTNET_CPU_LEVEL
}  // namespace cpu
}  // namespace swiftnet
