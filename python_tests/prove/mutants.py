"""Faults seeded into the kernels, one at a time: each must make the test that is named beside it fail.

A mutant replaces a text that occurs once in a file of csrc/kernels. `check` is the emulated build in which the test runs;
the same tests pass on the kernels as they are.
"""

from typing import List, NamedTuple


class Mutant(NamedTuple):
    fault: str
    file: str  # in csrc/kernels
    old: str
    new: str
    test: str  # in python_tests
    check: str = "none"


def numeric(operator: str, variant: str, dtype: str = "float32", memory_format: str = "contiguous") -> str:
    test = "core/ops/test_numeric.py::test_error_is_within_the_derived_bound"
    return f"{test}[emulated-{memory_format}-{dtype}-{operator}-{variant}]"


def orders(operator: str, variant: str) -> str:
    return (
        f"emulation/test_orders.py::test_the_order_of_threads_changes_no_bit[contiguous-float32-{operator}-{variant}]"
    )


def framed(operator: str) -> str:
    test = "core/ops/test_contract.py::test_any_strides_give_the_bits_of_contiguous_maps"
    return f"{test}[emulated-framed by NaN-float32-{operator}]"


def contract(test: str) -> str:
    return f"core/ops/test_contract.py::{test}"


def labels(test: str) -> str:
    return f"core/ops/test_multiscale_labels.py::{test}"


def huge(test: str) -> str:
    return f"core/ops/test_huge.py::{test}"


FIRST_BARRIER = "    __syncthreads();\n\n    for (int c = 0"
SECOND_BARRIER = "    __syncthreads();  // the next slice overwrites what others may still read\n"

MUTANTS: List[Mutant] = [
    # barriers and shared memory
    Mutant("no barrier before the tile is read", "conv3x3.cuh", FIRST_BARRIER, "\n    for (int c = 0",
           orders("upsample_add_conv3x3", "nearest"), "race"),
    Mutant("no barrier before the tile is overwritten", "conv3x3.cuh", SECOND_BARRIER, "",
           orders("upsample_add_conv3x3", "bilinear"), "race"),
    Mutant("no barrier before the slice is read", "common/conv1x1.cuh", FIRST_BARRIER, "\n    for (int c = 0",
           orders("lateral_add", "alone"), "race"),
    Mutant("no barrier before the slice is overwritten", "common/conv1x1.cuh", SECOND_BARRIER, "",
           orders("spatial_pyramid_pool", "bilinear"), "race"),
    Mutant("no barrier before pixels are pooled", "spatial_pyramid_pool.cuh",
           "      }\n      __syncthreads();\n      for (int item", "      }\n      for (int item",
           orders("spatial_pyramid_pool", "nearest"), "race"),
    Mutant("no barrier before pixels are overwritten", "spatial_pyramid_pool.cuh",
           "      __syncthreads();  // the next tile overwrites what others may still read\n", "",
           orders("spatial_pyramid_pool", "bilinear"), "race"),
    Mutant("a corner of the halo is left unset", "conv3x3.cuh",
           "      inputs[c][r][s] =", "      if (r > 0 || s > 0) inputs[c][r][s] =",
           orders("upsample_add_conv3x3", "nearest"), "race"),
    Mutant("pooling sums are not cleared", "spatial_pyramid_pool.cuh",
           "item += Traits::kThreads) sums[item] = 0.f;", "item += Traits::kThreads * 2) sums[item] = 0.f;",
           orders("spatial_pyramid_pool", "bilinear"), "race"),
    Mutant("all pixels share one normaliser", "multiscale_mean.cuh", "extra + thread;",
           "extra;", orders("multiscale_mean", "resize_then_softmax"), "race"),
    Mutant("the levels' workspace overlaps the cells'", "spatial_pyramid_pool.cu",
           "cells + n * pyramid.cells * channels;", "cells + n * pyramid.cells;",
           orders("spatial_pyramid_pool", "bilinear"), "race"),
    Mutant("an exit before a barrier", "common/conv1x1.cuh", "  float sums[Traits::kPerThread][Traits::kPerThread];",
           "  if (tile.column + pixel0 >= out.width) return;\n  float sums[Traits::kPerThread][Traits::kPerThread];",
           numeric("lateral_add", "bilinear")),
    # tails and halos
    Mutant("the halo above the image is read", "conv3x3.cuh", "h >= 0 && h < out.height", "h < out.height",
           framed("upsample_add_conv3x3")),
    Mutant("the halo right of the image is read", "conv3x3.cuh", "w >= 0 && w < out.width;", "w >= 0;",
           framed("upsample_add_conv3x3")),
    Mutant("the inputs' channel tail is not masked", "conv3x3.cuh",
           "first + c < channels && h >= 0", "h >= 0", framed("upsample_add_conv3x3")),
    Mutant("the weights' channel tail is not masked", "conv3x3.cuh",
           "first + c < channels && tile.channel + k < out.channels;", "tile.channel + k < out.channels;",
           numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("the weights' output tail is not masked", "common/conv1x1.cuh",
           "first + c < channels && tile.channel + k < out.channels;", "first + c < channels;",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("the output's channel tail is not masked", "conv3x3.cuh", "    if (channel < out.channels) out.store",
           "    out.store", numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("the output's row tail is not masked", "conv3x3.cuh", "if (h >= out.height || w >= out.width) return;",
           "if (w >= out.width) return;", numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("the output's column tail is not masked", "common/conv1x1.cuh",
           "if (h >= out.height || w >= out.width) continue;", "if (h >= out.height) continue;",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("one past the lower row is read", "common/resize.cuh", "return {lower, min(lower + 1, in - 1), weight};",
           "return {lower, lower + 1, weight};", framed("upsample_add_conv3x3")),
    Mutant("one past shared memory is read", "conv3x3.cuh", "[row + tap / 3][column + tap % 3]",
           "[row + tap / 3 + 1][column + tap % 3]", numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("a misaligned vector is loaded", "common/conv1x1.cuh",
           "w[j] = weights[c][output0 + j * Traits::kOutputThreads];",
           "w[j] = reinterpret_cast<const float4*>(&weights[c][output0 + j * Traits::kOutputThreads])->x;",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("the last tile is not launched", "conv3x3.cuh", "grid(static_cast<unsigned>(tiles.blocks))",
           "grid(static_cast<unsigned>(tiles.blocks > 1 ? tiles.blocks - 1 : 1))", numeric("upsample_add_conv3x3", "nearest")),
    # index arithmetic
    Mutant("offsets of 32 bits", "common/map.cuh", "data[n * stride_n + c * stride_c + h * stride_h + w * stride_w]",
           "data[static_cast<int>(n * stride_n + c * stride_c + h * stride_h + w * stride_w)]",
           huge("test_conv3x3[emulated]")),
    Mutant("an image's offset of 32 bits", "common/map.cuh", "n * stride_n + c", "static_cast<int>(n * stride_n) + c",
           huge("test_a_batch_beyond_the_limit[emulated-True]")),
    Mutant("image and channel group are swapped", "common/tiles.cuh", "block / (across * down) % groups",
           "block / (across * down) / groups", numeric("upsample_add_conv3x3", "nearest")),
    # arithmetic
    Mutant("taps are transposed", "conv3x3.cuh", "tap / 3, tap % 3) : 0.f", "tap % 3, tap / 3) : 0.f",
           numeric("upsample_add_conv3x3", "nearest")),
    Mutant("sums are kept in the maps' dtype", "conv3x3.cuh",
           "sums[k] = fmaf(v, weights[c][tap][k], sums[k]);",
           "sums[k] = to_float(from_float<T>(fmaf(v, weights[c][tap][k], sums[k])));",
           numeric("upsample_add_conv3x3", "nearest", "float16")),
    Mutant("the residual comes after the ReLU", "conv_epilogue.cuh",
           "      for (int i = 0; i < 4; i++) y[i] += to_float(r.v[i]);",
           "      for (int i = 0; i < 4; i++) y[i] = (relu_last ? relu(y[i]) : y[i]) + to_float(r.v[i]);",
           numeric("conv3x3", "residual_relu")),
    # the direct 3×3
    Mutant("no barrier before the first slice is multiplied", "conv3x3_direct.cuh",
           "  weight.store(weights[0]);\n  __syncthreads();", "  weight.store(weights[0]);", orders("conv3x3", "plain"), "race"),
    Mutant("no barrier between slices", "conv3x3_direct.cuh",
           "    weight.store(weights[buffer]);\n    __syncthreads();", "    weight.store(weights[buffer]);",
           orders("conv3x3", "plain"), "race"),
    Mutant("one buffer for both slices", "conv3x3_direct.cuh", "    buffer ^= 1;\n", "", orders("conv3x3", "plain"), "race"),
    Mutant("the row above the image is read", "conv3x3_direct.cuh", "&& needed && h >= 0 &&", "&& needed &&",
           framed("conv3x3")),
    Mutant("the column left of the image is read", "conv3x3_direct.cuh", "h < x.height && w >= 0 &&", "h < x.height &&",
           framed("conv3x3")),
    Mutant("channels past the last are read", "conv3x3_direct.cuh", "inside(x, tile, slot) && c < x.channels",
           "inside(x, tile, slot)", framed("conv3x3")),
    Mutant("a slot past the tile is stored", "conv3x3_direct.cuh",
           "        if (has(slot))\n          to[item(slot)]", "        to[item(slot)]", orders("conv3x3", "plain"), "race"),
    Mutant("a vector starts one element early", "conv3x3_direct.cuh", "load4(base + offset[slot])",
           "load4(base + offset[slot] - 1)", numeric("conv3x3", "plain"), "sanitize"),
    Mutant("rows that start between vectors are taken for whole ones", "common/access.cuh", "t.strides[i] % 4 != 0 ||",
           "false ||",
           contract("test_any_strides_give_the_bits_of_contiguous_maps[emulated-rows of another pitch-float32-conv3x3]"),
           "sanitize"),
    Mutant("a start that is not aligned is taken for one", "common/access.cuh",
           "reinterpret_cast<uintptr_t>(t.data) % (4 * bytes) == 0", "bytes > 0",
           contract("test_any_strides_give_the_bits_of_contiguous_maps[emulated-offset by one element-float32-conv3x3]"),
           "sanitize"),
    Mutant("pixels too far apart for offsets of 32 bits", "common/access.cuh", "> 1 << 25", "> 1 << 27",
           huge("test_conv3x3_of_pixels_far_apart[emulated]")),
    Mutant("the packed taps are transposed", "conv3x3_direct.cuh", "c, tap / 3, tap % 3) : 0.f;", "c, tap % 3, tap / 3) : 0.f;",
           numeric("conv3x3", "plain")),
    Mutant("the packed output tail is not masked", "conv3x3_direct.cuh", "k < outputs && c < weight.channels;",
           "c < weight.channels;", numeric("conv3x3", "plain"), "sanitize"),
    Mutant("the next group's weights are not found", "conv3x3_direct.cuh", "tile.channel / Traits::kOutputs * packed_group",
           "0 * packed_group", numeric("conv3x3", "plain")),
    Mutant("the second half of the outputs repeats the first", "conv3x3_direct.cuh", "output + half * 32;", "output;",
           numeric("conv3x3", "plain")),
    Mutant("one value of the row is its neighbour", "conv3x3_direct.cuh", "b.z, b.w, line[9]}", "b.z, b.w, line[8]}",
           numeric("conv3x3", "plain")),
    Mutant("the last row of tiles is not masked", "conv3x3_direct.cuh", "  if (h >= x.height) return;\n", "",
           numeric("conv3x3", "plain"), "sanitize"),
    # the wide lateral
    Mutant("no barrier before the channels' affine is read", "lateral_add_wide.cuh",
           "affine[c] = {affine_relu.scale[c], affine_relu.shift[c]};\n  __syncthreads();",
           "affine[c] = {affine_relu.scale[c], affine_relu.shift[c]};", orders("lateral_add", "alone"), "race"),
    Mutant("no barrier before the wide tile's first slice is multiplied", "lateral_add_wide.cuh",
           "  matrix.store(first_row, shared + Traits::kSlice);\n  __syncthreads();",
           "  matrix.store(first_row, shared + Traits::kSlice);", orders("lateral_add", "alone"), "race"),
    Mutant("no barrier between the wide tile's slices", "lateral_add_wide.cuh",
           "    matrix.store(row, shared + buffer + Traits::kSlice);\n    __syncthreads();",
           "    matrix.store(row, shared + buffer + Traits::kSlice);", orders("lateral_add", "alone"), "race"),
    Mutant("one buffer for both of the wide tile's slices", "lateral_add_wide.cuh", "    buffer ^= 2 * Traits::kSlice;\n", "",
           orders("lateral_add", "alone"), "race"),
    Mutant("no barrier before a quadrant is overwritten", "lateral_add_wide.cuh",
           "    __syncthreads();  // others may still read the last slice, or quadrant\n", "",
           orders("lateral_add", "alone"), "race"),
    Mutant("no barrier before a quadrant is read", "lateral_add_wide.cuh", "    __syncthreads();\n    const int output",
           "    const int output", orders("lateral_add", "alone"), "race"),
    Mutant("threads outside the image exit before a barrier", "lateral_add_wide.cuh", ">= out.width) continue;",
           ">= out.width) return;", numeric("lateral_add", "alone")),
    Mutant("rows below the image are read", "lateral_add_wide.cuh", "min(h, tap.height - 1)", "h",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("columns right of the image are read", "lateral_add_wide.cuh", "min(w, tap.width - (kAccess", "min(w, w + (kAccess",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("weights past the last output are read", "lateral_add_wide.cuh", "min(k0 + output(), outputs - 1)", "(k0 + output())",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("parameters past the last output are read", "lateral_add_wide.cuh",
           "min(tile.channel + thread, out.channels - 1)", "tile.channel + thread", numeric("lateral_add", "alone"), "sanitize"),
    Mutant("outputs past the last are stored", "lateral_add_wide.cuh", "count = min(out.channels - k, 4)", "count = 4",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("rows below the image are stored", "lateral_add_wide.cuh", "rows = min(out.height - h, Traits::kRows)",
           "rows = Traits::kRows", numeric("lateral_add", "alone"), "sanitize"),
    Mutant("columns right of the image are stored", "lateral_add_wide.cuh", "|| place.column + w >= out.width) continue",
           ") continue", numeric("lateral_add", "alone")),
    Mutant("a half of the wide tile's outputs repeats the other", "lateral_add_wide.cuh",
           "group + (kInner ? q / 2 : q % 2) * Traits::kHalf", "group", numeric("lateral_add", "alone")),
    Mutant("an input's shift is forgotten", "lateral_add_wide.cuh", "affine[c].x, affine[c].y", "affine[c].x, 0.f",
           numeric("lateral_add", "alone")),
    Mutant("the row below is read once", "lateral_add_wide.cuh", "if (!single && tap.upper != below_row)",
           "if (!single && below_row < 0)", numeric("lateral_add", "bilinear")),
    Mutant("the row above stays where the next was below", "lateral_add_wide.cuh", "above[j] = below[j];", "above[j] += 0.f;",
           numeric("lateral_add", "bilinear")),
    Mutant("right and left column are one", "lateral_add_wide.cuh", "&x.at(n, k, 0, column.upper)",
           "&x.at(n, k, 0, column.lower)",
           numeric("lateral_add", "bilinear")),
    Mutant("a map of the same size is interpolated", "lateral_add.cuh",
           "kMode == Resize::kNearest || (x.height == height && x.width == width)", "kMode == Resize::kNearest",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-inf-lateral_add]")),
    Mutant("channels that fill no slice go to the wide kernel", "lateral_add.cu", "channels % Traits::kChannels == 0 && ", "",
           numeric("lateral_add", "alone")),
    Mutant("more channels than are kept go to the wide kernel", "lateral_add.cu", " && channels <= Traits::kMaxChannels", "",
           contract("test_a_lateral_of_many_channels[emulated]"), "sanitize"),
    Mutant("weights too far apart for offsets of 32 bits", "lateral_add.cu", "<= INT_MAX", "<= INT64_MAX",
           huge("test_lateral_add_of_weights_far_apart[emulated]")),
    Mutant("ReLU loses NaN", "common/map.cuh", "return v < 0.f ? 0.f : v;", "return max(0.f, v);",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-nan-conv3x3]")),
    Mutant("a channel's shift is its neighbour's", "common/map.cuh", "scale[channel], shift[channel]",
           "scale[channel], shift[channel > 0 ? channel - 1 : 0]", numeric("upsample_add_conv3x3", "bilinear")),
    Mutant("an fp16 parameter is read as fp32", "common/map.cuh", "return half ? __half2float",
           "return half && i > 0 ? __half2float", contract("test_parameters_may_have_the_maps_dtype[emulated-lateral_add]")),
    Mutant("the lateral is added after the ReLU", "upsample_add_conv3x3.cuh",
           "affine_relu(up + skip.load(n, c, h, w), c)", "affine_relu(up, c) + skip.load(n, c, h, w)",
           numeric("upsample_add_conv3x3", "nearest")),
    Mutant("the resized map is transposed", "lateral_add.cuh", "resized<kMode>(x, n, k, h, w, height, width)",
           "resized<kMode>(x, n, k, w % height, h % width, height, width)", numeric("lateral_add", "bilinear")),
    Mutant("pixel centres are at corners", "common/resize.cuh", "(static_cast<float>(dst) + 0.5f) - 0.5f",
           "static_cast<float>(dst)", numeric("upsample_add_conv3x3", "bilinear")),
    Mutant("the nearest index is rounded up", "common/resize.cuh", "floorf(", "ceilf(",
           numeric("upsample_add_conv3x3", "nearest")),
    Mutant("a map of equal height is not resized", "common/resize.cuh", "if (in_h == out_h && in_w == out_w)",
           "if (in_h == out_h)", numeric("lateral_add", "nearest")),
    Mutant("rows are blended by the columns' weight", "common/resize.cuh",
           "interpolate(upper_row, lower_row, v.weight)", "interpolate(upper_row, lower_row, u.weight)",
           numeric("upsample_add_conv3x3", "bilinear")),
    Mutant("a resize of weight 0 is skipped", "common/resize.cuh", "  const ResizeTap v = bilinear_tap(h, in_h, out_h), u",
           "  if (bilinear_tap(h, in_h, out_h).weight == 0.f && bilinear_tap(w, in_w, out_w).weight == 0.f)\n"
           "    return value(bilinear_tap(h, in_h, out_h).lower, bilinear_tap(w, in_w, out_w).lower);\n"
           "  const ResizeTap v = bilinear_tap(h, in_h, out_h), u",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-inf-lateral_add]")),
    Mutant("overlapping windows are cut off", "spatial_pyramid_pool.cuh",
           "(static_cast<int64_t>(cell + 1) * size + cells - 1) / cells", "static_cast<int64_t>(cell + 1) * size / cells",
           numeric("spatial_pyramid_pool", "bilinear")),
    Mutant("half of a warp's lanes are lost", "spatial_pyramid_pool.cuh", "int distance = 16;", "int distance = 8;",
           numeric("spatial_pyramid_pool", "bilinear")),
    Mutant("a shuffle's mask lacks lanes", "spatial_pyramid_pool.cuh", "__shfl_xor_sync(0xffffffffu",
           "__shfl_xor_sync(0x7fffffffu", numeric("spatial_pyramid_pool", "nearest")),
    Mutant("lanes exit before a shuffle", "spatial_pyramid_pool.cuh", "if (item >= count) return;",
           "if (item >= count || lane >= channels) return;", numeric("spatial_pyramid_pool", "nearest")),
    Mutant("level and channel are confused", "spatial_pyramid_pool.cuh",
           "level = (c - x.channels) / outputs, d = (c - x.channels) % outputs;",
           "level = (c - x.channels) % grids.levels, d = (c - x.channels) / grids.levels;",
           numeric("spatial_pyramid_pool", "bilinear")),
    Mutant("a larger logit does not rescale the sum", "multiscale_mean.cuh",
           "sum = sum * expf(largest - v) + 1.f;", "sum = sum + 1.f;", numeric("multiscale_mean", "resize_then_softmax")),
    Mutant("two of minus infinity make NaN", "multiscale_mean.cuh", "} else if (v != -INFINITY) {", "} else {",
           contract("test_a_class_of_minus_infinity_never_wins[emulated]")),
    Mutant("ties go to the higher class", "multiscale_mean.cuh", "} else if (sum > best) {", "} else if (sum >= best) {",
           contract("test_labels_mark_nan_with_255_and_give_ties_to_the_lower_class[emulated]")),
    Mutant("a label ignores NaN", "multiscale_mean.cuh", "} else if (isnan(sum)) {", "} else if (false) {",
           contract("test_labels_mark_nan_with_255_and_give_ties_to_the_lower_class[emulated]")),
    Mutant("a class after a NaN wins", "multiscale_mean.cuh", "best = INFINITY;  // which nothing exceeds", "",
           labels("test_a_class_far_behind_still_counts_where_it_is_not_finite[emulated-1-resize_then_softmax-4-nan]")),
    Mutant("the mean of all but one map", "multiscale_mean.cuh",
           "for (int m = 0; m < logits.count; m++) {\n            const StagedTaps",
           "for (int m = logits.count > 1; m < logits.count; m++) {\n            const StagedTaps",
           numeric("multiscale_mean", "resize_then_softmax")),
    Mutant("bounds of all but one map", "multiscale_mean.cuh",
           "for (int m = 0; m < logits.count; m++) {\n          const ResizeTap",
           "for (int m = 1; m < logits.count; m++) {\n          const ResizeTap",
           labels("test_labels_are_the_argmax_of_the_mean[emulated-contiguous-19-4-regions]")),
    Mutant("bounds lack the last column", "multiscale_mean.cuh", "j <= u[last_column].upper", "j < u[last_column].upper",
           labels("test_labels_are_the_argmax_of_the_mean[emulated-contiguous-19-4-regions]")),
    Mutant("a class with a NaN is left out", "multiscale_mean.cuh", "upper = finite ? upper + slack : INFINITY;",
           "upper += slack;",
           labels("test_a_class_far_behind_still_counts_where_it_is_not_finite[emulated-1-resize_then_softmax-4-nan]")),
    Mutant("a class's upper bound stands for its lower one", "multiscale_mean.cuh",
           "least = fmaxf(least, bound.lower);", "least = fmaxf(least, bound.upper);",
           labels("test_labels_are_the_argmax_of_the_mean[emulated-contiguous-19-4-regions]")),
    Mutant("no barrier before staged pixels are read", "multiscale_mean.cuh", "  __syncthreads();\n\n  if (kOf ==",
           "\n  if (kOf ==", orders("multiscale_mean", "softmax_then_resize"), "race"),
    Mutant("no barrier after the softmax in place", "multiscale_mean.cuh",
           "      turn -= groups;\n    }\n    __syncthreads();", "      turn -= groups;\n    }",
           orders("multiscale_mean", "softmax_then_resize"), "race"),
    Mutant("a warp without pixels of a map forgets its turn", "multiscale_mean.cuh", "turn -= groups;", "turn = warp + 1;",
           numeric("multiscale_mean", "softmax_then_resize")),
    Mutant("a map of another size is not resized", "multiscale_mean.cuh",
           "map.height == out.height && map.width == out.width}", "map.height == out.height}",
           numeric("multiscale_mean", "softmax_then_resize")),
    Mutant("two taps of a large map change places", "multiscale_mean.cuh", "return i % 2 ? tap.upper : tap.lower;",
           "return i % 2 ? tap.lower : tap.upper;", numeric("multiscale_mean", "softmax_then_resize")),
]  # fmt: skip
