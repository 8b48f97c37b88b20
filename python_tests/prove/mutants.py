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
    Mutant("the weights' output tail is not masked", "common/conv1x1.cuh",
           "first + c < channels && tile.channel + k < out.channels;", "first + c < channels;",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("the output's column tail is not masked", "common/conv1x1.cuh",
           "if (h >= out.height || w >= out.width) continue;", "if (h >= out.height) continue;",
           numeric("lateral_add", "alone"), "sanitize"),
    Mutant("one past the lower row is read", "common/resize.cuh", "return {lower, min(lower + 1, in - 1), weight};",
           "return {lower, lower + 1, weight};", framed("upsample_add_conv3x3")),
    Mutant("a misaligned vector is loaded", "common/conv1x1.cuh",
           "w[j] = weights[c][output0 + j * Traits::kOutputThreads];",
           "w[j] = reinterpret_cast<const float4*>(&weights[c][output0 + j * Traits::kOutputThreads])->x;",
           numeric("lateral_add", "alone"), "sanitize"),
    # index arithmetic
    Mutant("offsets of 32 bits", "common/map.cuh", "data[n * stride_n + c * stride_c + h * stride_h + w * stride_w]",
           "data[static_cast<int>(n * stride_n + c * stride_c + h * stride_h + w * stride_w)]",
           huge("test_conv3x3[emulated-direct]")),
    Mutant("an image's offset of 32 bits", "common/map.cuh", "n * stride_n + c", "static_cast<int>(n * stride_n) + c",
           huge("test_a_batch_beyond_the_limit[emulated-direct-True]")),
    Mutant("image and channel group are swapped", "common/tiles.cuh", "(group - n * groups) * channels",
           "n * channels", numeric("upsample_add_conv3x3", "nearest")),
    # arithmetic
    Mutant("the residual comes after the ReLU", "conv_epilogue.cuh",
           "      for (int i = 0; i < 4; i++) y[i] += to_float(r.v[i]);",
           "      for (int i = 0; i < 4; i++) y[i] = (relu_last ? relu(y[i]) : y[i]) + to_float(r.v[i]);",
           numeric("conv3x3", "direct_residual_relu")),
    # the direct 3×3
    Mutant("no barrier before the first slice is multiplied", "conv3x3_direct.cuh",
           "  weight.store(weights[0]);\n  __syncthreads();", "  weight.store(weights[0]);", orders("conv3x3", "direct"), "race"),
    Mutant("no barrier between slices", "conv3x3_direct.cuh",
           "    weight.store(weights[buffer]);\n    __syncthreads();", "    weight.store(weights[buffer]);",
           orders("conv3x3", "direct"), "race"),
    Mutant("one buffer for both slices", "conv3x3_direct.cuh", "    buffer ^= 1;\n", "", orders("conv3x3", "direct"), "race"),
    Mutant("the row above the image is read", "conv3x3_direct.cuh", "&& needed && h >= 0 &&", "&& needed &&",
           framed("conv3x3")),
    Mutant("the column left of the image is read", "conv3x3_direct.cuh", "h < x.height && w >= 0 &&", "h < x.height &&",
           framed("conv3x3")),
    Mutant("channels past the last are read", "conv3x3_direct.cuh", "inside(x, tile, slot) && c < x.channels",
           "inside(x, tile, slot)", framed("conv3x3")),
    Mutant("a slot past the tile is stored", "conv3x3_direct.cuh",
           "        if (has(slot))\n          to[item(slot)]", "        to[item(slot)]", orders("conv3x3", "direct"), "race"),
    Mutant("a vector starts one element early", "conv3x3_direct.cuh", "load4(base + offset[slot])",
           "load4(base + offset[slot] - 1)", numeric("conv3x3", "direct"), "sanitize"),
    Mutant("rows that start between vectors are taken for whole ones", "common/access.cuh", "t.strides[i] % 4 != 0 ||",
           "false ||",
           contract("test_any_strides_give_the_bits_of_contiguous_maps[emulated-rows of another pitch-float32-conv3x3]"),
           "sanitize"),
    Mutant("a start that is not aligned is taken for one", "common/access.cuh",
           "reinterpret_cast<uintptr_t>(t.data) % (4 * bytes) == 0", "bytes > 0",
           contract("test_any_strides_give_the_bits_of_contiguous_maps[emulated-offset by one element-float32-conv3x3]"),
           "sanitize"),
    Mutant("pixels too far apart for offsets of 32 bits", "common/access.cuh", "> 1 << 25", "> 1 << 27",
           huge("test_conv3x3_of_pixels_far_apart[emulated-direct]")),
    Mutant("the packed taps are transposed", "conv3x3_direct.cuh", "c, tap / 3, tap % 3) : 0.f;", "c, tap % 3, tap / 3) : 0.f;",
           numeric("conv3x3", "direct")),
    Mutant("the packed output tail is not masked", "conv3x3_direct.cuh", "k < outputs && c < weight.channels;",
           "c < weight.channels;", numeric("conv3x3", "direct"), "sanitize"),
    Mutant("the next group's weights are not found", "conv3x3_direct.cuh", "tile.channel / Traits::kOutputs * packed_group",
           "0 * packed_group", numeric("conv3x3", "direct")),
    Mutant("the second half of the outputs repeats the first", "conv3x3_direct.cuh", "first + half * 32;", "first;",
           numeric("conv3x3", "direct")),
    Mutant("one value of the row is its neighbour", "conv3x3_direct.cuh", "b.z, b.w, line[9]}", "b.z, b.w, line[8]}",
           numeric("conv3x3", "direct")),
    Mutant("the last row of tiles is not masked", "conv3x3_direct.cuh", "  if (h >= x.height) return;\n", "",
           numeric("conv3x3", "direct"), "sanitize"),
    # Winograd's 3×3
    Mutant("no barrier before a slice is overwritten", "conv3x3_winograd.cuh",
           "    __syncthreads();  // what was there before has been read\n", "", orders("conv3x3", "winograd"), "race"),
    Mutant("no barrier before a slice is multiplied", "conv3x3_winograd.cuh",
           "= packed_values[i];\n    __syncthreads();\n", "= packed_values[i];\n", orders("conv3x3", "winograd"), "race"),
    Mutant("no barrier before sums overwrite inputs", "conv3x3_winograd.cuh",
           "    __syncthreads();  // the last slice has been multiplied, the last pass read\n", "",
           orders("conv3x3", "winograd"), "race"),
    Mutant("no barrier before sums meet", "conv3x3_winograd.cuh",
           "    __syncthreads();\n    const int k = k0", "    const int k = k0", orders("conv3x3", "winograd"), "race"),
    Mutant("the window above the image is read", "conv3x3_winograd.cuh", "(h >= 0 && h < x.height && w", "(h < x.height && w",
           framed("conv3x3")),
    Mutant("the window right of the image is read", "conv3x3_winograd.cuh", "w >= 0 && w < x.width) << i", "w >= 0) << i",
           framed("conv3x3")),
    Mutant("the last slice's missing channels are read", "conv3x3_winograd.cuh",
           "window.load(steps, next + Layout::plane(again) < x.channels);", "window.load(steps, true);", framed("conv3x3")),
    Mutant("weights past the last are packed", "conv3x3_winograd.cuh", "k < outputs && c < weight.channels\n", "k < outputs\n",
           numeric("conv3x3", "winograd"), "sanitize"),
    Mutant("one past shared memory is read", "conv3x3_winograd.cuh", "(w + c * Traits::kOutputs + 16)",
           "(w + (c + 1) * Traits::kOutputs + 16)", numeric("conv3x3", "winograd"), "sanitize"),
    Mutant("a sign of the inputs' transform", "conv3x3_winograd.cuh", "rows[2][s] = d2 - d1;", "rows[2][s] = d1 - d2;",
           numeric("conv3x3", "winograd")),
    Mutant("a sign of the weights' transform", "conv3x3_winograd.cuh", "rows[2][s] = 0.5f * (g[0][s] - g[1][s]",
           "rows[2][s] = 0.5f * (g[0][s] + g[1][s]", numeric("conv3x3", "winograd")),
    Mutant("a sign of the outputs' transform", "conv3x3_winograd.cuh", "rows[1][s] = m1 - m2 - m3;",
           "rows[1][s] = m1 - m2 + m3;", numeric("conv3x3", "winograd")),
    Mutant("the transformed weights are transposed", "conv3x3_winograd.cuh", "g[tap / 3][tap % 3] =", "g[tap % 3][tap / 3] =",
           numeric("conv3x3", "winograd")),
    Mutant("outputs meet in another's place", "conv3x3_winograd.cuh", "position / 16 * 4 + position % 16 / 4;",
           "position % 16 / 4 * 2 + position / 16;", numeric("conv3x3", "winograd")),
    Mutant("the next group's points are not found", "conv3x3_winograd.cuh",
           "tile.channel / WinogradTraits::kOutputs * packed_group", "0 * packed_group", numeric("conv3x3", "winograd")),
    Mutant("sums are kept in the maps' dtype", "conv3x3_winograd.cuh", "sums[k][i] = fmaf(v[i], u[k], sums[k][i]);",
           "sums[k][i] = to_float(from_float<T>(fmaf(v[i], u[k], sums[k][i])));", numeric("conv3x3", "winograd", "float16")),
    Mutant("the last tile is not launched", "conv3x3_winograd.cu", "grid(static_cast<unsigned>(tiles.blocks))",
           "grid(static_cast<unsigned>(tiles.blocks > 1 ? tiles.blocks - 1 : 1))", numeric("conv3x3", "winograd")),
    Mutant("the last tile's rows are not masked", "conv3x3_winograd.cuh", "if (h >= x.height || w >= x.width) continue;",
           "if (w >= x.width) continue;", numeric("conv3x3", "winograd"), "sanitize"),
    Mutant("outputs past the last are written", "conv3x3_winograd.cuh", "    if (k >= outputs) continue;\n", "",
           numeric("conv3x3", "winograd"), "sanitize"),
    Mutant("NaN spreads over its tile", "conv3x3_winograd.cuh", "if (!(fabsf(sum) < INFINITY))", "if (isinf(sum))",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-nan-conv3x3]")),
    Mutant("an Inf makes NaN of its neighbours", "conv3x3_winograd.cuh", "if (!(fabsf(sum) < INFINITY))", "if (false)",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-inf-conv3x3]")),
    Mutant("another pixel is summed again", "conv3x3_winograd.cuh", "h = h0 + i % 4 / 2, w = w0 + i % 2;",
           "h = h0 + i % 2, w = w0 + i % 4 / 2;",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-nan-conv3x3]")),
    # the head on top of it
    Mutant("no barrier before a group's pixels are multiplied", "conv3x3_head.cuh",
           "    __syncthreads();\n    add_head", "    add_head",
           orders("conv3x3_head", "affine"), "race"),
    Mutant("no barrier before the next group", "conv3x3_head.cuh", "kept.channel = next;\n    __syncthreads();",
           "kept.channel = next;", orders("conv3x3_head", "affine"), "race"),
    Mutant("a group's sums are lost", "conv3x3_head.cuh", "if (tile.channel > 0) sum", "if (tile.channel < 0) sum",
           numeric("conv3x3_head", "plain")),
    Mutant("each group has the first one's head weights", "conv3x3_head.cuh", "out.channels - 1), tile.channel + k)",
           "out.channels - 1), k)", numeric("conv3x3_head", "plain")),
    Mutant("outputs of the head past the last are written", "conv3x3_head.cuh", "} else if (j0 + j < out.channels && h",
           "} else if (h", numeric("conv3x3_head", "plain"), "sanitize"),
    Mutant("outputs past the last are multiplied", "conv3x3_head.cuh", "min(outputs - tile.channel, Traits::kOutputs)",
           "Traits::kOutputs", numeric("conv3x3_head", "plain"), "sanitize"),
    Mutant("the bias comes after the affine", "conv3x3_head.cuh", "affine_relu(sum + bias[k], k)",
           "affine_relu(sum, k) + bias[k]", numeric("conv3x3_head", "affine")),
    # what the 3×3s share
    Mutant("the second output comes after the ReLU", "conv_epilogue.cuh",
           "if (sum.data != nullptr) sum.store(n, k, h, w, y);", "if (sum.data != nullptr) sum.store(n, k, h, w, relu(y));",
           numeric("conv3x3_with_sum", "winograd_residual")),
    Mutant("the second output lacks the residual", "conv_epilogue.cuh",
           "store4(&sum.at(n, k, h, w), y);", "store4(&sum.at(n, k, h, w), v);",
           numeric("conv3x3_with_sum", "direct_residual")),
    # the block and its lateral
    Mutant("channels past the last are blended", "upsample_add_conv3x3.cuh", "if (c >= out.channels || h", "if (h",
           numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("pixels past the last are blended", "upsample_add_conv3x3.cuh", "|| w >= out.width) continue;", ") continue;",
           numeric("upsample_add_conv3x3", "nearest"), "sanitize"),
    Mutant("the last blended tile is not launched", "upsample_add_conv3x3.cu", "grid(static_cast<unsigned>(tiles.blocks))",
           "grid(static_cast<unsigned>(tiles.blocks > 1 ? tiles.blocks - 1 : 1))", numeric("upsample_add_conv3x3", "nearest")),
    Mutant("the sum's affine is forgotten", "lateral_add.cuh", "y = fmaf(y, out_scale[k], out_shift[k]);",
           "y = y * out_scale[k];", numeric("lateral_add", "affine")),
    Mutant("ReLU loses NaN", "common/map.cuh", "return v < 0.f ? 0.f : v;", "return max(0.f, v);",
           contract("test_nan_and_inf_spread_as_in_pytorch[emulated-nan-conv3x3]")),
    Mutant("a channel's shift is its neighbour's", "common/map.cuh", "scale[channel], shift[channel]",
           "scale[channel], shift[channel > 0 ? channel - 1 : 0]", numeric("upsample_add_conv3x3", "bilinear")),
    Mutant("an fp16 parameter is read as fp32", "common/map.cuh", "return half ? __half2float",
           "return half && i > 0 ? __half2float", contract("test_parameters_may_have_the_maps_dtype[emulated-lateral_add]")),
    Mutant("the lateral is added after the ReLU", "upsample_add_conv3x3.cuh",
           "affine_relu(up + skip.load(tile.n, c, h, w), c)", "affine_relu(up, c) + skip.load(tile.n, c, h, w)",
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
           "(1.f - v.weight) * upper_row + v.weight", "(1.f - u.weight) * upper_row + u.weight",
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
