"""The native convolutions against float64, at every instruction set that this CPU runs, and AMX's in plain C++."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from .cpu_levels import aligned, fixture_at_each_level, of_all_levels, random_map

# (batch, channels, outputs, height, width, kernel, stride): tails of channels, outputs, pixels and tiles; 1×1 and thin
# maps; rows over the border on all sides. An odd number of channels is float32's alone.
SHAPES = [
    (1, 4, 64, 37, 41, 7, 2),
    (2, 64, 64, 9, 13, 3, 1),
    (1, 64, 128, 20, 23, 3, 2),
    (1, 32, 19, 5, 7, 1, 1),
    (1, 16, 96, 33, 17, 1, 1),
    (2, 6, 130, 4, 4, 3, 1),
    (1, 128, 40, 1, 1, 3, 1),
    (1, 24, 42, 11, 8, 1, 2),
    (1, 64, 48, 6, 64, 3, 1),
    (1, 32, 33, 40, 50, 3, 2),
    (2, 10, 21, 1, 13, 3, 1),
    (2, 18, 5, 9, 1, 3, 1),
    (2, 7, 20, 6, 5, 3, 1),
    (2, 35, 3, 1, 5, 1, 1),
    (1, 3, 7, 5, 1, 7, 2),
    (1, 70, 19, 23, 27, 3, 1),  # Winograd's tiles fill a group, which is no multiple of those multiplied at once
    (
        1,
        280,
        20,
        50,
        48,
        3,
        1,
    ),  # Winograd's groups are shared by the threads: several groups, several blocks of outputs
    (2, 280, 150, 7, 9, 3, 1),
]
DTYPES = [torch.float32, torch.bfloat16]
TILES = [0, 4, 6]  # 0: directly, else by Winograd's algorithm
EPSILON = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # of rounding once, relative


cpu = fixture_at_each_level()


def test_all_levels_are_covered(request):
    """AMX's tiles come with the emulated module; a wheel by itself has none."""
    levels = [level for _, level in of_all_levels()]
    emulated = "emulated" in request.config.getoption("--backends").split(",")
    assert "portable" in levels and ("tiles_emulated" in levels or not emulated)


class Call:
    """One convolution, its inputs random, its outputs poisoned."""

    def __init__(self, shape, dtype, tile, float_out=False):
        batch, channels, outputs, height, width, self.kernel, self.stride = shape
        generator = torch.Generator().manual_seed(sum(shape))
        self.tile, self.dtype, self.padding = tile, dtype, self.kernel // 2
        size = [(n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (height, width)]
        self.x = random_map(generator, batch, channels, height, width, dtype=dtype)
        self.weight = torch.randn(outputs, channels, self.kernel, self.kernel, generator=generator)
        self.weight /= (channels * self.kernel**2) ** 0.5
        self.bias, self.tap_scale, self.tap_shift = torch.randn(3, outputs, generator=generator).unbind()
        self.residual = random_map(generator, batch, outputs, *size, dtype=dtype)
        self.up = random_map(generator, batch, outputs, max(1, size[0] // 2), max(1, size[1] // 3), dtype=dtype)
        self.out_dtype = torch.float32 if float_out else dtype

    def run(self, cpu, activation="none", bias=False, residual=False, up=None, out=True, tap=False, threads=2):
        name = str(self.dtype).replace("torch.", "")
        outputs, channels = self.weight.shape[:2]
        packed = aligned(cpu.packed_bytes(name, self.tile, outputs, channels, self.kernel))
        cpu.pack_conv2d(self.weight, name, self.tile, packed)
        y = torch.empty_like(self.residual, dtype=self.out_dtype).fill_(float("nan"))
        of_tap = torch.empty_like(self.residual).fill_(float("nan")) if tap else None
        convolution = self.kernel, self.stride, self.padding, self.tile
        workspace = aligned(cpu.conv2d_workspace(self.x, y, *convolution, threads)).fill_(255)  # NaNs
        cpu.conv2d(
            self.x,
            packed,
            *convolution,
            activation,
            self.bias if bias else None,
            self.residual if residual else None,
            self.up if up else None,
            up == "nearest",
            y if out else None,
            of_tap,
            self.tap_scale if tap else None,
            self.tap_shift if tap else None,
            tap == "relu",
            workspace,
            threads,
        )
        return y, of_tap

    def expected(self, activation="none", bias=False, residual=False, up=None, tap=False):
        x, weight = self.x.double(), self.weight.double()
        y = F.conv2d(x, weight, self.bias.double() if bias else None, self.stride, self.padding)
        if residual:
            y = y + self.residual.double()
        if up:
            how = dict(mode="nearest") if up == "nearest" else dict(mode="bilinear", align_corners=False)
            y = y + F.interpolate(self.up.double(), size=y.shape[2:], **how)
        of_tap = y * self.tap_scale.double().view(1, -1, 1, 1) + self.tap_shift.double().view(1, -1, 1, 1)
        out = {"none": y, "relu": y.relu(), "relu6": y.clamp(0, 6)}[activation]
        return out, of_tap.relu() if tap == "relu" else of_tap

    def bound(self, dtype):
        """Of the error before the result is rounded, for each output; and of that rounding, relative to the result.

        The roundings of a sum of n products a·b are independent of each other: together about √n·√Σ(a·b)² units, of
        which six times as much is allowed. Winograd's algorithm enlarges them (amplification). Products of bfloat16 are
        exact in fp32, but the weight is rounded to bfloat16 before: √Σ(a·b)² of its units, four times that at most.
        What is added to the sum is rounded as often as there are additions.
        """
        x, weight = self.x.double() ** 2, self.weight.double() ** 2
        root = F.conv2d(x, weight, None, self.stride, self.padding).sqrt()
        of_sum = 6 * self.weight[0].numel() ** 0.5 * EPSILON[torch.float32] * root
        if self.tile:
            of_sum = of_sum * amplification(self.tile)
        elif self.dtype is torch.bfloat16:
            of_sum = of_sum + 4 * EPSILON[torch.bfloat16] * root
        added = self.bias.double().abs().view(1, -1, 1, 1) + self.residual.double().abs() + self.up.double().abs().max()
        return of_sum + 8 * EPSILON[torch.float32] * added, EPSILON[dtype]


def amplification(tile):
    """By how much F(tile×tile, 3×3) enlarges rounding errors of random data, root mean square: per dimension, for output o,
    √(Σ over points i of A[i, o]²·|B[i]|²·|G[i]|² / 3); its matrices are made from the points."""
    points = [0, 0.75, -0.75, 1.5, -1.5] if tile == 4 else [0, 1, -1, 2, -2, 0.5, -0.5]
    a = torch.tensor([[p**o for p in points] + [float(o == tile - 1)] for o in range(tile)], dtype=torch.float64)
    b, g = [], []
    for p in points:
        others = [q for q in points if q != p]
        b.append(polynomial(others))
        scale = polynomial_at(others, p)
        g.append([1 / scale, p / scale, p * p / scale])
    b, g = b + [polynomial(points)], g + [[0, 0, 1]]
    norms = [sum(v * v for v in b_i) * sum(v * v for v in g_i) for b_i, g_i in zip(b, g)]
    return (a**2 @ torch.tensor(norms, dtype=torch.float64)).max().item() / 3


def polynomial(roots):
    """The coefficients of Π (x - root), the lowest power first."""
    coefficients = [1.0]
    for root in roots:
        shifted, scaled = [0.0] + coefficients, [root * c for c in coefficients] + [0.0]
        coefficients = [s - c for s, c in zip(shifted, scaled)]
    return coefficients


def polynomial_at(roots, x):
    product = 1.0
    for root in roots:
        product *= x - root
    return product


def check(call, cpu, **options):
    expected, expected_tap = call.expected(**{k: v for k, v in options.items() if k not in ("out", "threads")})
    y, tap = call.run(cpu, **options)
    of_sum, of_result = call.bound(call.out_dtype)
    if options.get("out", True):
        assert ((y.double() - expected).abs() <= of_sum + 1.01 * of_result * expected.abs()).all()
    if tap is not None:
        scale = call.tap_scale.double().abs().view(1, -1, 1, 1)
        bound = scale * of_sum + 1.01 * EPSILON[call.dtype] * expected_tap.abs()
        assert ((tap.double() - expected_tap).abs() <= bound).all()
    return y, tap


OPTIONS = [
    dict(),
    dict(bias=True, residual=True, activation="relu", tap="relu"),
    dict(bias=True, up="bilinear", activation="relu6"),
    dict(up="nearest", tap="linear"),
    dict(residual=True, out=False, tap="relu"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "residual", "up", "nearest", "tap alone"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(cpu, shape, options):
    for dtype, tile in itertools.product(DTYPES, TILES):
        if not tile or shape[5:] == (3, 1):
            check(Call(shape, dtype, tile), cpu, **options)


def test_float_result_of_bfloat16(cpu):
    y, _ = check(Call((1, 32, 19, 5, 7, 1, 1), torch.bfloat16, 0, float_out=True), cpu, bias=True)
    assert y.dtype is torch.float32


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_do_not_change_a_bit(cpu, dtype, tile):
    call = Call((2, 64, 64, 33, 30, 3, 1), dtype, tile)
    options = dict(bias=True, residual=True, tap="relu")
    y, tap = call.run(cpu, threads=1, **options)
    for threads in (2, 3, 7):
        again, tap_again = call.run(cpu, threads=threads, **options)
        assert torch.equal(y, again) and torch.equal(tap, tap_again)


@pytest.mark.parametrize("tile", TILES)
def test_nan_and_relu(cpu, tile):
    """NaN passes a ReLU, and reaches the windows that see it."""
    call = Call((1, 8, 16, 18, 18, 3, 1), torch.float32, tile)
    call.x[0, 0, 9, 9] = float("nan")
    y, _ = call.run(cpu, activation="relu")
    assert y[0, :, 8:11, 8:11].isnan().all()
    assert not y[0, :, :6, :6].isnan().any()


def test_misuse(cpu):
    call = Call((1, 6, 16, 5, 5, 3, 1), torch.float32, 0)
    name, packed = "float32", aligned(1 << 16)
    with pytest.raises(ValueError, match="packed: expected at least"):
        cpu.pack_conv2d(call.weight, name, 0, packed[:64])
    with pytest.raises(ValueError, match="channels_last"):
        cpu.conv2d_workspace(call.x.contiguous(), call.residual, 3, 1, 1, 0, 1)
    with pytest.raises(ValueError, match="out: expected shape"):
        cpu.conv2d_workspace(call.x, call.residual, 3, 2, 1, 0, 1)
    with pytest.raises(ValueError, match="tile: expected kernel 3, stride 1"):
        cpu.conv2d_workspace(call.x, random_map(torch.Generator(), 1, 16, 3, 3, dtype=torch.float32), 3, 2, 1, 4, 1)
    small = random_map(torch.Generator(), 1, 6, 1, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match="x: expected at least the kernel's rows and columns"):
        cpu.conv2d_workspace(small, call.residual, 3, 3, 0, 0, 1)
    with pytest.raises(ValueError, match="weight: expected dtype float32"):
        cpu.pack_conv2d(call.weight.bfloat16(), "bfloat16", 0, packed)
    with pytest.raises(ValueError, match="level: expected one of"):
        cpu.use_level("sse9")


def test_empty_maps_are_not_absent(cpu):
    """One without elements has no address, and is still of the wrong size; a map without channels is refused."""
    call = Call((1, 8, 8, 4, 5, 3, 1), torch.float32, 0)
    call.residual = random_map(torch.Generator(), 0, 8, 4, 5, dtype=torch.float32)
    y = torch.empty(1, 8, 4, 5).contiguous(memory_format=torch.channels_last)
    packed = aligned(cpu.packed_bytes("float32", False, 8, 8, 3))

    def run(residual, up):
        tap = None, None, None, False
        cpu.conv2d(call.x, packed, 3, 1, 1, 0, "none", None, residual, up, False, y, *tap, aligned(1 << 16), 1)

    with pytest.raises(ValueError, match="residual: expected shape"):
        run(call.residual, None)
    with pytest.raises(ValueError, match="up: expected out's batch and channels, and at least one pixel"):
        run(None, random_map(torch.Generator(), 1, 8, 0, 3, dtype=torch.float32))
    none = torch.empty_strided((1, 0, 4, 5), (20, 1, 5, 1))
    with pytest.raises(ValueError, match="x: expected at least one channel"):
        cpu.conv2d_workspace(none, y, 3, 1, 1, True, 1)
