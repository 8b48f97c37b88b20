"""The emulation finds what it should, and nothing else: small kernels, right and wrong, in whichever build is tested.

SWIFTNET_EXT_EMULATION names the build. What the race and sanitize builds find is asserted in those builds.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

THREADS = 64

FOUND_BY_EVERY_BUILD = {
    "barrier_in_one_branch": r"32 threads of the block have exited before a barrier, at probes.cu:\d+",
    "barriers_in_both_branches": r"wait at different barriers, also line \d+, at probes.cu:\d+",
    "barrier_against_shuffle": r"deadlock: .*other lanes at probes.cu:\d+; some wait for a barrier at probes.cu:\d+",
    "mask_of_exited_lane": r"a mask names a lane that has exited, at probes.cu:\d+",
    "lane_outside_its_mask": r"a lane is not in its own mask, at probes.cu:\d+",
    "source_outside_the_mask": r"a shuffle reads lane 16, which its mask does not name, at probes.cu:\d+",
    "product_without_a_lane": r"a mask names a lane that has exited, at probes.cu:\d+",
    "product_of_half_a_warp": r"an instruction of a whole warp is called by 16 lanes",
    "copies_not_awaited": r"a thread ends with asynchronous copies that it has not waited for",
    "different_shuffles": r"different shuffles or warp barriers, also line \d+, at probes.cu:\d+",
}
FOUND_BY = {
    "race": {
        "neighbour_without_barrier": r"race: (read and write|write and read) at probes.cu:\d+ and probes.cu:\d+",
        "read_then_overwritten": r"race: (read and write|write and read) at probes.cu:\d+ and probes.cu:\d+, threads",
        "read_by_all_then_overwritten": r"race: (read and write|write and read) at probes.cu:\d+ and probes.cu:\d+",
        "two_writes": r"race: two writes at probes.cu:\d+ and probes.cu:\d+, threads \d+ and \d+, block 0, 63 times",
        "uninitialised": r"uninitialised shared memory is read at probes.cu:\d+, thread 63",
        "lanes_without_barrier": r"race: (read and write|write and read) at probes.cu",
        "lanes_with_shuffle": r"race: (read and write|write and read) at probes.cu",
        "copies_without_barrier": r"race: (read and write|write and read) at (probes.cu|mma.cuh)",
        "copies_over_what_is_read": r"race: (read and write|write and read) at (probes.cu|mma.cuh)",
        "blocks_write_one_element": r"race between blocks: two writes at probes.cu",
        "blocks_read_each_other": r"race between blocks: read and write at probes.cu",
        "blocks_overwrite_what_was_read": r"race between blocks: write and read at probes.cu",
    },
    "sanitize": {
        "write_past_a_tensor": r"heap-buffer-overflow.*\n.*WRITE of size 4.*(\n.*)* in write_past_a_tensor .*probes.cu:\d+",
        "read_before_a_tensor": r"heap-buffer-overflow.*\n.*READ of size 4.*(\n.*)* in read_before_a_tensor .*probes.cu:\d+",
        "past_static_shared": r"undefined behaviour: Index 64 out of bounds for type 'float \[64\]' at .*probes.cu:\d+",
        "past_dynamic_shared": r"heap-buffer-overflow.*\n.*WRITE of size 4.*(\n.*)* in past_dynamic_shared .*probes.cu:\d+",
        "overflowing_index": r"undefined behaviour: Signed integer overflow: .* at .*probes.cu:\d+",
    },
}
CLEAN = [
    "neighbour", "lanes_with_barrier", "lanes_read_again", "bytes", "sums", "half_warp", "ballots", "half_arithmetic",
    "strided_1", "strided_2", "strided_8", "product_half", "product_bfloat16", "matrices_4", "matrices_4_transposed",
    "matrices_2", "matrices_2_transposed", "copies", "groups_awaited", "groups_not_awaited",
]  # fmt: skip
CRASHES = ["misaligned_vector"]
ORDERS = ("forward", "reverse", "random")


def run(emulation, name, values, size=None):
    x = torch.as_tensor(values, dtype=torch.float32)
    y = torch.full((size or 4 * THREADS,), float("nan"))
    emulation.run_probe(name, x.data_ptr(), y.data_ptr(), x.numel())
    return y


def set_order(emulation, order):
    emulation.options.order = getattr(emulation.ThreadOrder, order)
    emulation.options.seed = 7


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", sorted(FOUND_BY_EVERY_BUILD))
def test_a_wrong_barrier_or_shuffle_is_found(name, order, emulation):
    set_order(emulation, order)
    with pytest.raises(RuntimeError, match=FOUND_BY_EVERY_BUILD[name]):
        run(emulation, name, torch.arange(4.0 * THREADS))
    run(emulation, "neighbour", torch.arange(4.0 * THREADS))  # and the next launch is none the worse


def test_each_build_finds_what_it_is_made_for(emulation):
    # UndefinedBehaviorSanitizer reports a place once in a process: so one order there
    for order in ORDERS if emulation.check == "race" else ORDERS[:1]:
        set_order(emulation, order)
        for name, finding in FOUND_BY.get(emulation.check, {}).items():
            size = THREADS if "past" in name else (4 if "copies" in name else 2) * THREADS
            with pytest.raises(RuntimeError, match=finding):
                run(emulation, name, torch.arange(float(size)), size)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CLEAN)
def test_a_right_kernel_raises_no_alarm(name, order, emulation):
    set_order(emulation, order)
    emulation.options.count_sectors = emulation.check == "race"
    run(emulation, name, torch.arange(18.0 * THREADS), 18 * THREADS)


def test_every_probe_is_expected_to_do_something(emulation):
    expected = set(FOUND_BY_EVERY_BUILD) | set(CLEAN) | set(CRASHES)
    for found in FOUND_BY.values():
        expected |= set(found)
    assert expected == set(emulation.probe_names())


@pytest.mark.needs_check("sanitize")
def test_a_misaligned_vector_access_is_reported(emulation):
    """The report comes before the access, which this processor then refuses: so in a process of its own."""
    code = (
        "import torch; from swiftnet_ext import _native; x = torch.zeros(256); y = torch.zeros(256)\n"
        "_native.emulated()[0].emulation.run_probe('misaligned_vector', x.data_ptr(), y.data_ptr(), 256)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "misaligned address" in result.stderr and "requires 16 byte alignment" in result.stderr
    assert "probes.cu" in result.stderr and result.returncode != 0


def test_shuffles_move_the_values(emulation):
    x = torch.arange(float(THREADS))
    y = run(emulation, "sums", x, THREADS)
    warp = x.view(2, 32).sum(1).repeat_interleave(32)
    group = x.view(8, 8).sum(1).repeat_interleave(8)
    assert torch.equal(y, warp + group)
    y = run(emulation, "half_warp", x, THREADS)
    lanes = torch.arange(THREADS)
    assert torch.equal(y, torch.where(lanes % 32 < 16, lanes ^ 8, lanes).float())


def test_ballots_count_the_lanes_of_their_mask(emulation):
    for first in (0, 5, 31, 32):  # lanes of each warp from `first` on vote, in the second one but lane 40
        x = (torch.arange(THREADS) % 32 >= first).float()
        x[40] = 0
        y = run(emulation, "ballots", x, 2 * THREADS).view(2, 32, 2)
        for warp in range(2):
            votes = [i for i in range(32) if x[32 * warp + i]]
            assert bool((y[warp, :, 0] == len(votes) * 100 + (votes[0] + 1 if votes else 0)).all())
            assert bool((y[warp, :16, 1] == sum(2**i for i in votes if i < 16)).all())
            assert bool((y[warp, 16:, 1] == 0).all())


def product(emulation, dtype, a, b, d):
    """Two warps' D + A·B."""
    name = {torch.float16: "product_half", torch.bfloat16: "product_bfloat16"}[dtype]
    values = torch.cat([torch.cat([x[i].flatten() for x in (a, b, d)]) for i in range(2)])
    return run(emulation, name, values, 256).view(2, 16, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensor_cores_multiply_matrices(dtype, emulation):
    """Whole numbers exactly, whatever the order of the sum; others within its roundings."""
    generator = torch.Generator().manual_seed(0)
    a, b, d = (torch.randint(-8, 9, s, generator=generator).float() for s in ((2, 16, 16), (2, 16, 8), (2, 16, 8)))
    assert torch.equal(product(emulation, dtype, a, b, d), d + a @ b)
    a, b, d = (torch.randn(s, generator=generator) for s in ((2, 16, 16), (2, 16, 8), (2, 16, 8)))
    exact = d.double() + a.to(dtype).double() @ b.to(dtype).double()
    terms = d.double().abs() + a.to(dtype).double().abs() @ b.to(dtype).double().abs()
    assert bool(((product(emulation, dtype, a, b, d).double() - exact).abs() <= 16 * 2.0**-24 * terms).all())


def test_bfloat16_rounds_as_pytorch(emulation):
    """A times the identity: what the conversions make of A."""
    values = torch.tensor(
        [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, -3.4e38, 1e-40, 0.1, -0.1, float("inf")]
    )
    a, b = torch.zeros(2, 16, 16), torch.zeros(2, 16, 8)
    for i, value in enumerate(values):
        a[:, i, i % 8] = value
    b[:, :8] = torch.eye(8)
    assert torch.equal(
        torch.nan_to_num(product(emulation, torch.bfloat16, a, b, torch.zeros(2, 16, 8)), nan=7.0),
        torch.nan_to_num((a.bfloat16().float() @ b), nan=7.0),
    )


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_come_as_ldmatrix_brings_them(count, transposed, emulation):
    x = torch.arange(256.0)
    name = "matrices_{}{}".format(count, "_transposed" if transposed else "")
    y = run(emulation, name, x, 2 * count * THREADS).view(2, 32, count, 2)
    tiles = x.view(4, 8, 8)[:count]
    for lane in range(32):
        g, t = lane // 4, lane % 4
        expected = tiles[:, 2 * t : 2 * t + 2, g] if transposed else tiles[:, g, 2 * t : 2 * t + 2]
        assert torch.equal(y[0, lane], expected) and torch.equal(y[1, lane], expected)


def test_copies_are_made_once_they_are_awaited(emulation):
    x = torch.arange(4.0 * THREADS)
    expected = x.clone().view(THREADS, 4)
    expected[::3] = 0
    assert torch.equal(run(emulation, "copies", x).view(THREADS, 4), expected.roll(-1, 0))
    assert torch.equal(run(emulation, "groups_awaited", x), x)
    assert bool(torch.isnan(run(emulation, "groups_not_awaited", x)).all())


def to_half(exact):
    """Rounded once, to nearest even: NumPy's own conversion from fp64, checked against it being exact in fp64."""
    return np.asarray(exact, dtype=np.float64).astype(np.float16)


def halves(seed, count):
    """fp16 values of all magnitudes: random bits, then numbers that are near each other, then the special ones."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**16, 3 * count, dtype=np.uint16).view(np.float16)
    near = (1 + random.integers(0, 1024, 3 * count) / 1024).astype(np.float16)
    special = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504, -65504, np.inf, -np.inf, np.nan, 1, 2048], np.float16)
    return np.concatenate([bits, near, random.choice(special, 3 * count)]).reshape(-1, 3)


def test_fp16_rounds_once_to_nearest_even(emulation):
    """Sums and products of fp16 are exact in fp64; of a·b + c the exact value is taken apart into two fp64."""
    from fractions import Fraction

    triples = halves(0, 4000)
    y = run(emulation, "half_arithmetic", triples.astype(np.float32).ravel(), triples.size).numpy().reshape(-1, 3)
    a, b, c = triples.astype(np.float64).T
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y[:, 0].astype(np.float16), to_half(a + b))
        np.testing.assert_array_equal(y[:, 1].astype(np.float16), to_half(a * b))
        np.testing.assert_array_equal(np.isnan(y[:, 2]), np.isnan(a * b + c))
    grid = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)  # all finite ones from 0 up
    for (x, w, v), got in zip(triples.astype(np.float64), y[:, 2]):
        if not np.isfinite([x, w, v]).all():
            continue
        exact = Fraction(x) * Fraction(w) + Fraction(v)
        i = int(np.searchsorted(grid, abs(float(exact))))
        around = [Fraction(g) for g in grid[max(i - 2, 0) : i + 2]] + ([Fraction(65536)] if i + 2 > len(grid) else [])
        distances = [abs(g - abs(exact)) for g in around]
        nearest = [g for g, d in zip(around, distances) if d == min(distances)]
        if len(nearest) == 2:  # a tie goes to the even one
            nearest = [g for g in nearest if g == 65536 or int(np.float16(float(g)).view(np.uint16)) % 2 == 0]
        expected = np.inf if nearest[0] == 65536 else float(nearest[0])
        assert abs(got) == expected, (x, w, v)


@pytest.mark.needs_check("race")
def test_sectors_are_counted(emulation):
    """64 floats of 4 bytes are 8 sectors of 32; with a stride of 8 floats each has a sector of its own."""
    emulation.options.count_sectors = True
    count = 16 * THREADS
    for name, read in (("strided_1", count // 8), ("strided_2", count // 8), ("strided_8", count // 8)):
        run(emulation, name, torch.zeros(count + 8)[:count], count)
        (launch,) = emulation.take_launches()
        assert launch["kernel"] == name and launch["threads"] == count
        assert launch["distinct_sectors_read"] == launch["sectors_read"] == read
        assert launch["sectors_written"] == launch["distinct_sectors_written"] == count // int(name[-1]) // 8
    run(emulation, "neighbour", torch.zeros(count), count)  # three blocks; shared memory has no sectors
    (launch,) = emulation.take_launches()
    assert (launch["sectors_read"], launch["sectors_written"], launch["barriers"]) == (24, 24, 3)


def test_a_block_filter_runs_the_first_and_the_last(emulation):
    emulation.options.first_blocks, emulation.options.last_blocks = 1, 2
    x = torch.arange(6.0 * THREADS)
    y = run(emulation, "strided_1", x, 6 * THREADS).view(6, THREADS)
    assert torch.equal(y[[0, 4, 5]], x.view(6, THREADS)[[0, 4, 5]]) and bool(torch.isnan(y[1:4]).all())
    assert emulation.take_launches()[0]["blocks"] == 3
    emulation.options.first_blocks, emulation.options.last_blocks = 4, 4  # which overlap
    assert torch.equal(run(emulation, "strided_1", x, 6 * THREADS), x)


def test_an_unknown_probe_is_an_error(emulation):
    with pytest.raises(ValueError, match="there is none of the name 'nothing'"):
        run(emulation, "nothing", torch.zeros(1))
