"""What the tests of every operator share: one list of shapes, what a case says, and the error that is allowed."""

import torch

from swiftnet_ext.ops.backend import tensor_cores_take

from . import oracle

# (N, C, K, (h, w), (H, W)): 1, tile ± 1 of every kernel (8×32, 2×32, 8×16, 16×16), primes, channel tails around the slices
# of 8 and 16 and the groups of 16 and 64, H ≠ W, up-factors that are not 2, equal sizes, downsizing, thin maps
SHAPES = [
    (1, 1, 1, (1, 1), (1, 1)), (1, 1, 1, (1, 1), (2, 2)), (1, 2, 3, (1, 1), (5, 7)), (2, 3, 2, (2, 2), (4, 4)),
    (1, 7, 5, (3, 5), (6, 10)), (1, 8, 16, (4, 16), (8, 32)), (1, 9, 17, (5, 17), (9, 33)), (1, 8, 15, (4, 16), (7, 31)),
    (1, 15, 16, (3, 4), (8, 33)), (1, 16, 17, (5, 16), (9, 32)), (2, 17, 31, (2, 8), (3, 16)), (1, 31, 33, (4, 4), (7, 9)),
    (1, 16, 64, (2, 16), (2, 32)), (1, 17, 65, (1, 16), (1, 32)), (1, 15, 63, (2, 17), (3, 33)), (3, 5, 7, (2, 3), (5, 11)),
    (1, 4, 4, (8, 8), (16, 16)), (1, 4, 4, (8, 9), (15, 17)), (1, 5, 6, (9, 8), (17, 15)), (1, 3, 3, (16, 16), (17, 17)),
    (1, 11, 13, (7, 13), (13, 29)), (2, 13, 11, (5, 7), (11, 13)), (1, 19, 23, (3, 11), (7, 23)), (1, 23, 19, (11, 3), (23, 7)),
    (1, 6, 2, (1, 9), (1, 37)), (1, 6, 2, (9, 1), (37, 1)), (1, 2, 6, (1, 1), (1, 65)), (1, 2, 6, (1, 1), (65, 1)),
    (1, 10, 10, (6, 6), (6, 6)), (2, 10, 12, (9, 31), (9, 31)), (1, 12, 10, (8, 32), (8, 32)), (1, 3, 4, (6, 10), (6, 20)),
    (1, 3, 4, (6, 10), (12, 10)), (1, 4, 3, (10, 14), (5, 7)), (1, 5, 4, (13, 17), (7, 5)), (2, 4, 5, (9, 9), (4, 2)),
    (1, 8, 8, (3, 3), (9, 9)), (1, 8, 8, (3, 5), (12, 20)), (1, 7, 9, (4, 7), (10, 18)), (1, 9, 7, (5, 6), (13, 14)),
    (1, 20, 18, (2, 5), (9, 34)), (1, 24, 24, (4, 6), (8, 12)), (1, 25, 20, (3, 9), (5, 19)), (4, 2, 2, (2, 3), (3, 7)),
    (5, 1, 1, (3, 3), (7, 7)), (2, 32, 16, (2, 4), (4, 8)), (1, 33, 16, (2, 4), (5, 8)), (1, 40, 48, (2, 3), (4, 6)),
    (1, 48, 40, (3, 2), (6, 4)), (1, 64, 64, (2, 3), (4, 5)), (1, 65, 63, (1, 2), (3, 4)), (1, 3, 128, (2, 2), (3, 5)),
    (1, 128, 3, (2, 2), (5, 3)), (1, 1, 19, (5, 15), (15, 45)), (1, 19, 1, (5, 15), (10, 30)), (2, 12, 12, (12, 15), (23, 30)),
    (1, 6, 6, (15, 20), (30, 40)), (1, 14, 14, (11, 15), (23, 30)), (1, 2, 2, (31, 33), (63, 65)), (1, 3, 5, (24, 41), (47, 83)),
]  # fmt: skip

FORMATS = ("contiguous", "channels_last")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def in_format(value, memory_format):
    """The tensor, or list of tensors, in a memory format; only maps have one."""
    if isinstance(value, list):
        return [in_format(v, memory_format) for v in value]
    if isinstance(value, torch.Tensor) and value.dim() == 4 and memory_format == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    return value


class Case:
    """One operator. `variants` are its ways to be called, e.g. the resize modes."""

    name = ""
    variants = ()  # type: tuple
    vectors = ()  # type: tuple  # arguments that may be absent and may be fp32 beside fp16 maps
    auto = False  # whether it runs a 3×3 by the algorithm of "auto"
    integers = 2  # up to which all sums are exact in fp16, on EXACT_SHAPES
    shapes = tuple(SHAPES)
    wide_shapes = ()  # type: tuple  # beside these: large enough for a kernel of larger tiles

    def tensors(self, shape, variant, rand):
        """Arguments as fp32 tensors, drawn with rand(*shape)."""
        raise NotImplementedError

    def call(self, t, variant):
        raise NotImplementedError

    def expected(self, t, variant):
        """(value, magnitude) by the oracle; t in float64."""
        raise NotImplementedError

    def terms(self, shape, variant):
        """How many products add up to one output."""
        raise NotImplementedError

    def stored(self, t, variant, dtype):
        """The error from what is rounded to the maps' dtype on the way."""
        return 0.0

    def in_half(self, variant, dtype):
        """Whether sums are fp16, so that PyTorch's own error is no measure."""
        return False

    def takes(self, variant, dtype):
        """Whether a variant is one of its own with these maps."""
        return True

    def make(self, shape, variant, dtype, memory_format="contiguous", device="cpu", seed=0, rand=None):
        generator = torch.Generator().manual_seed(seed)
        draw = rand or (lambda *size: torch.randn(*size, generator=generator))
        made = self.tensors(shape, variant, draw)
        return {k: in_format(self._cast(k, v, dtype, device), memory_format) for k, v in made.items()}

    def _cast(self, name, value, dtype, device):
        if isinstance(value, list):
            return [v.to(dtype).to(device) for v in value]
        return value.to(torch.float32 if name in self.vectors else dtype).to(device)


def to_double(t):
    """The very values of the arguments, in float64 on the CPU."""

    def convert(v):
        if isinstance(v, list) and v and isinstance(v[0], torch.Tensor):
            return [convert(i) for i in v]
        return v.detach().double().cpu().contiguous() if isinstance(v, torch.Tensor) else v

    return {k: convert(v) for k, v in t.items()}


def bound(case, shape, t, variant, dtype):
    """(value, magnitude, stored, allowed): the oracle's two, the error of storing maps on the way, and the whole error that
    is allowed at each element, derived from the arithmetic.

    Adding n products in fp32 errs by at most n·u·Σ|terms| (u = 2^-24); the prologue's and epilogue's few roundings add
    16. (Winograd adds C products a point, its transforms round 2 times for inputs, 4 for weights and 4 for outputs, and
    the terms are those of the transforms' absolute values.) On tensor cores, which "auto" is on newer GPUs, each product
    counts MMA_UNIT. A resize's source coordinate, up to the map's size s, is off
    by 3·s·u at most, so each interpolated value errs by 6·s·u of its magnitude. Storing rounds once to the dtype.
    """
    t = to_double(t)
    value, magnitude = case.expected(t, variant)
    side = max(shape[3] + shape[4]) * 2
    terms, unit = case.terms(shape, variant), oracle.UNIT[torch.float32]
    if case.auto and torch.cuda.is_available() and tensor_cores_take(dtype, torch.cuda.get_device_capability()):
        terms, unit = max(terms, 9 * shape[1] + shape[2]), oracle.MMA_UNIT
    arithmetic = (terms + 16 + 6 * side) * unit * magnitude
    stored = case.stored(t, variant, dtype)
    allowed = arithmetic + stored + oracle.UNIT[dtype] * value.abs() + oracle.TINY[dtype]
    return value, magnitude, stored, allowed
