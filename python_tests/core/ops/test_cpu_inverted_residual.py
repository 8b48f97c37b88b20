"""The native CPU kernel of inverted residuals: the same bits as the three convolutions that it joins, at every level."""

import pytest
import torch

from .cpu_levels import aligned, fixture_at_each_level, random_map

# (N, C, hidden or None where nothing expands, K, H, W, stride)
SHAPES = [
    (1, 16, 96, 24, 45, 61, 2),  # several bands, also of one row
    (1, 24, 144, 24, 60, 71, 1),
    (2, 24, 140, 33, 29, 64, 1),
    (1, 8, 1000, 20, 9, 100, 2),  # a row of a band does not fit the cache
    (2, 40, None, 16, 70, 90, 1),
    (1, 33, None, 7, 31, 33, 2),
    (3, 5, 19, 6, 1, 1, 1),
    (2, 5, 19, 6, 1, 9, 2),
    (2, 5, 19, 6, 2, 1, 2),
]
HOW_1X1 = 1, 1, 0, 0  # kernel, stride, padding, tile
cpu = fixture_at_each_level()


class Block:
    """Random inputs of one block; outputs are poisoned."""

    def __init__(self, cpu, shape, dtype):
        n, c, hidden, k, height, width, self.stride = shape
        generator = torch.Generator().manual_seed(sum(filter(None, shape)))
        self.cpu, self.dtype, self.expands, self.hidden = cpu, dtype, hidden is not None, hidden or c
        self.size = [(v + self.stride - 1) // self.stride for v in (height, width)]
        self.x = random_map(generator, n, c, height, width, dtype=dtype)
        self.residual = random_map(generator, n, k, *self.size, dtype=dtype)
        self.expand = torch.randn(self.hidden, c, 1, 1, generator=generator) / c**0.5
        self.depthwise = torch.randn(9, self.hidden, generator=generator)
        self.project = torch.randn(k, self.hidden, 1, 1, generator=generator) / self.hidden**0.5
        self.biases = [torch.randn(v, generator=generator) for v in (self.hidden, self.hidden, k)]
        self.scale, self.shift = torch.randn(2, k, generator=generator).unbind()

    def packed(self, weight):
        name = str(self.dtype).replace("torch.", "")
        block = aligned(self.cpu.packed_bytes(name, 0, *weight.shape[:3]))
        self.cpu.pack_conv2d(weight, name, 0, block)
        return block

    def empty(self, channels, size):
        y = torch.full((self.x.shape[0], channels, *size), float("nan"), dtype=self.dtype)
        return y.contiguous(memory_format=torch.channels_last)

    def outputs(self, residual, out, tap):
        y, of_tap = (self.empty(len(self.project), self.size) if wanted else None for wanted in (out, tap))
        affine = (self.scale, self.shift, True) if tap else (None, None, False)
        return self.residual if residual else None, y, of_tap, affine

    def fused(self, activation, bias, residual, out, tap, threads):
        residual, y, of_tap, affine = self.outputs(residual, out, tap)
        of_expand, of_depthwise, of_project = self.biases if bias else [None] * 3
        target = of_tap if y is None else y
        count = self.cpu.inverted_residual_workspace(self.x, self.expands, self.hidden, self.stride, target, threads)
        self.cpu.inverted_residual(
            self.x, self.packed(self.expand) if self.expands else None, of_expand if self.expands else None,
            self.depthwise, of_depthwise, self.stride, activation, self.packed(self.project), of_project, "none",
            residual, y, of_tap, *affine, aligned(count).fill_(255), threads,
        )  # fmt: skip
        return y, of_tap

    def separate(self, activation, bias, residual, out, tap):
        residual, y, of_tap, affine = self.outputs(residual, out, tap)
        of_expand, of_depthwise, of_project = self.biases if bias else [None] * 3
        x = self.x
        if self.expands:
            x = self.empty(self.hidden, self.x.shape[2:])
            self.conv1x1(self.x, self.expand, of_expand, activation, None, x, None, (None, None, False))
        hidden = self.empty(self.hidden, self.size)
        self.cpu.depthwise3x3(x, self.depthwise, of_depthwise, self.stride, activation, hidden, 1)
        self.conv1x1(hidden, self.project, of_project, "none", residual, y, of_tap, affine)
        return y, of_tap

    def conv1x1(self, x, weight, bias, activation, residual, out, tap, affine):
        workspace = aligned(self.cpu.conv2d_workspace(x, tap if out is None else out, *HOW_1X1, 1))
        self.cpu.conv2d(
            x, self.packed(weight), *HOW_1X1, activation, bias, residual, None, False, out, tap, *affine, workspace, 1
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits_as_its_convolutions(cpu, shape, dtype):
    block = Block(cpu, shape, dtype)
    for options in (
        ("relu6", True, True, True, True),
        ("relu", False, False, True, False),
        ("none", True, False, False, True),
    ):
        expected = block.separate(*options)
        assert all(y is None or bool(torch.isfinite(y).all()) for y in expected)
        for threads in (1, 2, 5):
            for y, of_separate in zip(block.fused(*options, threads), expected):
                assert (y is None and of_separate is None) or torch.equal(y, of_separate)


def test_misuse(cpu):
    block = Block(cpu, (1, 6, 20, 5, 9, 8, 1), torch.float32)

    def workspace(x=block.x, expands=True, hidden=20, stride=1, out=block.residual, threads=1):
        return cpu.inverted_residual_workspace(x, expands, hidden, stride, out, threads)

    for sentence, arguments in (
        ("stride: expected 1 or 2", {"stride": 3}),
        ("x, depthwise: expected channels", {"expands": False}),
        ("x, depthwise: expected channels", {"hidden": 0}),
        ("x: expected a dense channels_last", {"x": block.x.contiguous()}),
        ("out: expected shape", {"stride": 2}),
        ("out: expected dtype float32", {"out": block.residual.bfloat16()}),
        ("out, tap: expected at least one", {"out": None}),
        ("threads: expected at least 1", {"threads": 0}),
    ):
        with pytest.raises(ValueError, match=sentence):
            workspace(**arguments)

    def run(**changed):
        values = dict(expand=block.packed(block.expand), depthwise=block.depthwise, activation="relu6")
        values.update(project=block.packed(block.project), project_bias=block.biases[2], residual=block.residual)
        values = {**values, "workspace": aligned(workspace()), **changed}
        cpu.inverted_residual(
            block.x, values["expand"], block.biases[0], values["depthwise"], block.biases[1], 1, values["activation"],
            values["project"], values["project_bias"], "none", values["residual"], torch.empty_like(block.residual),
            None, None, None, False, values["workspace"], 1,
        )  # fmt: skip

    run()
    for sentence, changed in (
        ("expand: expected at least", {"expand": block.packed(block.expand)[:-64]}),
        ("project: expected at least", {"project": block.packed(block.project)[:-64]}),
        ("workspace: expected at least", {"workspace": aligned(workspace())[:-64]}),
        ("depthwise: expected \\[9, hidden", {"depthwise": block.depthwise[0]}),
        ("depthwise: expected shape", {"depthwise": block.depthwise[:8]}),
        ("project_bias: expected shape", {"project_bias": block.biases[0]}),
        ("residual: expected shape", {"residual": block.residual[:, :, :8]}),
        ("activation: expected none", {"activation": "tanh"}),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(**changed)


@pytest.mark.parametrize("size", [(0, 6, 9, 8), (2, 6, 0, 8), (2, 6, 9, 0)])
def test_nothing_of_empty_maps(cpu, size):
    block = Block(cpu, (1, 6, 20, 5, 9, 8, 1), torch.float32)
    x, y = (torch.empty(size[0], c, *size[2:]).contiguous(memory_format=torch.channels_last) for c in (6, 5))
    assert cpu.inverted_residual_workspace(x, True, 20, 1, y, 1) == 0
    cpu.inverted_residual(
        x, block.packed(block.expand), None, block.depthwise, None, 1, "none", block.packed(block.project), None,
        "none", None, y, None, None, None, False, None, 1,
    )  # fmt: skip
