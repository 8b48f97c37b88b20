"""What makes `make budgets` fail, and what it says then. Needs no toolkit."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import budgets  # noqa: E402
from toolkits import Toolkit  # noqa: E402

ROW = {
    "source": "conv3x3.cu",
    "kernel": "conv3x3_kernel<float, PlainSource<float>, true>",
    "arch": "62",
    **dict.fromkeys(budgets.COLUMNS, "0"),
    "threads": "256",
    "registers": "101",
    "registers_of_block": "25856",
    "shared": "15488",
    "blocks": "2",
    "warps": "16",
    "loop_instructions": "2620",
    "loop_multiplies": "1152",
    "loop_multiply_kinds": "FFMA:1152",
    "loop_multiply_share": "0.440",
    "loop_vector_loads": "288",
    "loop_barriers": "2",
}
TOOLKIT = Toolkit(budgets.FAMILIES["11"], "11.8", "11.8.89", Path("nvcc"), Path("nvdisasm"), "11.8.86")


def table(**changes):
    return budgets.table_of([{**ROW, **changes}], "a test")


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A folder of tables in place of the repository's, with the unchanged row in it."""
    monkeypatch.setattr(budgets, "TABLES", tmp_path)
    monkeypatch.setattr(budgets, "ROOT", tmp_path)
    budgets.write_table(budgets.path_of(TOOLKIT), table())
    return tmp_path


def test_a_change_of_what_is_compiled_or_of_the_compiler_is_seen(committed):
    kernels = committed / "csrc" / "kernels"
    kernels.mkdir(parents=True)
    for path in (kernels / "a.cu", kernels.parent / "check.h"):
        path.write_text("// as it was")
    assert not budgets.is_unchanged(TOOLKIT)
    assert budgets.check(TOOLKIT, table(), update=True)
    assert budgets.is_unchanged(TOOLKIT)
    assert not budgets.is_unchanged(replace(TOOLKIT, version="11.8.90"))
    for path in (kernels / "a.cu", kernels.parent / "check.h"):
        path.write_text("// changed")
        assert not budgets.is_unchanged(TOOLKIT)
        path.write_text("// as it was")
    (kernels / "b.cu").write_text("// new")
    assert not budgets.is_unchanged(TOOLKIT)


def test_the_same_passes(committed):
    assert budgets.check(TOOLKIT, table(), update=False)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("registers", "102"),
        ("registers_of_block", "26112"),
        ("shared", "15504"),
        ("stack", "8"),
        ("spill_stores", "4"),
        ("spill_loads", "4"),
        ("local_loads", "1"),
        ("local_stores", "1"),
        ("blocks", "1"),
        ("warps", "8"),
        ("loop_multiply_share", "0.439"),
        ("loop_vector_loads", "287"),
        ("loop_barriers", "3"),
    ],
)
def test_each_worsening_fails(committed, capsys, column, value):
    assert not budgets.check(TOOLKIT, table(**{column: value}), update=False)
    printed = capsys.readouterr().out
    assert f"worse (1):\n    sm_62 {ROW['kernel']} (conv3x3.cu): {column} {ROW[column]} → {value}" in printed


@pytest.mark.parametrize(
    "column", [c for c, direction in budgets.COLUMNS.items() if direction and c not in budgets.NONE_ALLOWED]
)
def test_each_improvement_asks_for_an_update(committed, capsys, column):
    value = float(ROW[column]) + budgets.COLUMNS[column]
    assert not budgets.check(TOOLKIT, table(**{column: f"{value:g}"}), update=False)
    printed = capsys.readouterr().out
    assert "better (1):" in printed and "make budgets UPDATE=1" in printed


@pytest.mark.parametrize(
    ("column", "value"), [("threads", "128"), ("loop_instructions", "2619"), ("loop_vector_loads", "")]
)
def test_other_changes_fail_too(committed, capsys, column, value):
    assert not budgets.check(TOOLKIT, table(**{column: value}), update=False)
    assert "changed (1):" in capsys.readouterr().out


def test_changes_of_a_row_share_a_line(committed, capsys):
    assert not budgets.check(TOOLKIT, table(registers="105", warps="8", shared="8192"), update=False)
    printed = capsys.readouterr().out
    assert "registers 101 → 105, warps 16 → 8" in printed and "better (1):" in printed


def test_a_new_and_a_missing_kernel_fail(committed, capsys):
    assert not budgets.check(TOOLKIT, table(kernel="other_kernel"), update=False)
    printed = capsys.readouterr().out
    assert "no longer compiled" in printed and "not in the table" in printed


@pytest.mark.parametrize(
    "changes", [{column: "4"} for column in budgets.NONE_ALLOWED] + [{"registers_of_block": "32769"}, {"blocks": "0"}]
)
def test_rules_hold_whatever_the_table_says(committed, capsys, changes):
    budgets.write_table(budgets.path_of(TOOLKIT), table(**changes))
    assert not budgets.check(TOOLKIT, table(**changes), update=False)
    assert "not allowed (1):" in capsys.readouterr().out
    assert not budgets.check(TOOLKIT, table(**changes), update=True)


def test_sm_61_may_have_more_registers_of_a_block(committed):
    budgets.write_table(budgets.path_of(TOOLKIT), table(arch="61", registers_of_block="32769"))
    assert budgets.check(TOOLKIT, table(arch="61", registers_of_block="32769"), update=False)


def test_another_minor_version_is_held_to_the_rules_only(committed, capsys):
    other = replace(TOOLKIT, release="11.7")
    assert budgets.check(other, table(registers="255"), update=False)
    assert "not comparable" in capsys.readouterr().out
    assert not budgets.check(other, table(spill_loads="4"), update=False)
    with pytest.raises(budgets.BudgetError, match="needs CUDA 11.8, this is 11.7"):
        budgets.check(other, table(), update=True)


def test_update_writes_what_was_measured(committed):
    better = table(registers="96")
    assert budgets.check(TOOLKIT, better, update=True)
    assert budgets.read_table(budgets.path_of(TOOLKIT)) == better


def test_chosen_architectures_are_compared_alone(committed):
    budgets.write_table(budgets.path_of(TOOLKIT), {**table(), **table(arch="70")})
    assert not budgets.check(TOOLKIT, table(), update=False)
    assert budgets.check(budgets.only(TOOLKIT, ["62"]), table(), update=False)
    assert not budgets.check(budgets.only(TOOLKIT, ["62", "75"]), table(registers="102"), update=False)
    with pytest.raises(budgets.BudgetError, match="--architectures 120: CUDA 11.8.89's are 61,62,70,75,80,86,90"):
        budgets.only(TOOLKIT, ["62", "120"])


def test_a_missing_table_names_the_cure(committed):
    budgets.path_of(TOOLKIT).unlink()
    with pytest.raises(budgets.BudgetError, match="UPDATE=1"):
        budgets.check(TOOLKIT, table(), update=False)


def test_two_rows_of_one_name_are_an_error():
    with pytest.raises(budgets.BudgetError, match="two rows"):
        budgets.table_of([ROW, ROW], "a test")


def test_a_missing_toolkit_names_the_cure(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "budgets.py", "--toolkits", "13"]
    result = subprocess.run(command, env={"CUDA13": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"no CUDA toolkit in {tmp_path}" in result.stderr and "set CUDA13" in result.stderr


def test_rows_in_order_of_architecture():
    rows = [{**ROW, "arch": arch} for arch in ("120", "90a", "75")]
    assert [arch for _, _, arch in budgets.table_of(rows, "a test")] == ["75", "90a", "120"]


def test_committed_tables_hold_every_architecture():
    for family in budgets.FAMILIES.values():
        found = budgets.read_table(budgets.TABLES / f"cuda-{family.release}.csv")
        kernels = {key[:2] for key in found}
        assert set(found) == {(*kernel, arch) for kernel in kernels for arch in family.archs}


def test_flags_are_the_builds():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    options = re.search(r"target_compile_options\(swiftnet_kernels PRIVATE ([^)]*)\)", cmake).group(1).split()
    assert options == ["-lineinfo", "-Xfatbin=-compress-all"]  # the latter is about the fat binary, not the code
    assert budgets.FLAGS == ("-O3", "-DNDEBUG", "-lineinfo")  # the first two are CMake's Release
    standards = re.findall(r"swiftnet_kernels PROPERTIES CUDA_STANDARD (\d+)", cmake)
    assert [f"c++{n}" for n in standards] == [budgets.FAMILIES["13"].standard, budgets.FAMILIES["11"].standard]


def row_of(source, kernel, arch):
    release = "13.0" if arch == "89" else "11.8"
    return budgets.read_table(ROOT / "benchmarks" / "budgets" / f"cuda-{release}.csv")[source, kernel, arch]


@pytest.mark.parametrize("access", ["0", "1"])
def test_the_direct_3x3_is_at_pascals_limit(access):
    """fp32 on sm_61, vector access: FFMA are 91 % of the loop over slices, two blocks of 256 threads, 128-bit loads."""
    row = row_of("conv3x3_direct.cu", "conv3x3_direct_kernel<float, (Access){}>".format(access), "61")
    assert row["loop_multiply_kinds"].startswith("FFMA:") and float(row["loop_multiply_share"]) >= 0.91
    assert int(row["registers"]) <= 128 and row["threads"] == "256" and int(row["blocks"]) >= 2
    # of each 4 channels × 3 rows 2 of pixels and 6 of weights from shared memory, and the next slice's from global memory
    assert int(row["loop_vector_loads"]) >= 4 * 3 * (2 + 6) + 4


@pytest.mark.parametrize("rows", ["false", "true"])
@pytest.mark.parametrize("dtype", ["float", "half"])
def test_winograds_3x3_is_at_pascals_limit(dtype, rows):
    """On sm_61 FFMA are 70 % of the loop over slices, transforms included; two blocks of 256 threads."""
    row = row_of("conv3x3_winograd.cu", "conv3x3_winograd_kernel<{}, {}>".format(dtype, rows), "61")
    assert row["loop_multiply_kinds"] == "FFMA:512" and float(row["loop_multiply_share"]) >= 0.70
    assert int(row["registers"]) <= 128 and row["threads"] == "256" and int(row["blocks"]) >= 2
    assert int(row["loop_vector_loads"]) >= 8 * 4 + 4  # of each channel 4, and the packed weights from global memory


@pytest.mark.parametrize("access", ["0", "1"])
def test_half2s_3x3_is_at_the_tx2s_limit(access):
    """On sm_62, vector access: HFMA2 are 77 % of the loop over slices, the promotion to fp32 included, in 32 K registers."""
    row = row_of("conv3x3_half2.cu", "conv3x3_half2_kernel<(Access){}>".format(access), "62")
    assert row["loop_multiply_kinds"] == "HFMA2:1152" and float(row["loop_multiply_share"]) >= 0.77
    assert int(row["registers_of_block"]) <= 32768 and int(row["blocks"]) >= 2


@pytest.mark.parametrize("outputs", [128, 64, 32])
@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90"])
def test_the_3x3_on_tensor_cores(arch, outputs):
    """A row of taps a step: no product but HMMA, whose factors come by ldmatrix; copies by 128 bits, one barrier."""
    kernel = f"conv3x3_mma_kernel<half, MmaTraits<{outputs}, 3>, MapEpilogue<half>>"
    row = row_of("conv3x3_mma.cu", kernel, arch)
    products = 3 * 4 * outputs // 16 * (2 if arch == "75" else 1)  # sm_75 takes half as many channels
    assert row["loop_multiply_kinds"] == f"HMMA:{products}" and row["loop_barriers"] == "1"
    assert int(row["loop_vector_loads"]) >= 3 * (4 + outputs // 32) + 3 * outputs // 128 + 3
    assert int(row["blocks"]) >= (1 if outputs == 128 or arch == "75" else 2)


@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90"])
def test_the_block_on_tensor_cores(arch):
    """The loop that makes the halo: three tiles of 16 pixels by 64 channels at a time, tap and weights by 128 bits."""
    row = row_of("upsample_blend.cu", "upsample_blend_kernel<half, MmaTraits<128, 1>, MapEpilogue<half>>", arch)
    products = 3 * 8 * 2 * (2 if arch == "75" else 1)
    assert f"HMMA:{products}" in row["loop_multiply_kinds"].split()
    assert int(row["loop_vector_loads"]) >= 3 * 2 + 8
