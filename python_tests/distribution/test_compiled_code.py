"""What make budgets reads from ptxas' report, PTX and SASS, and computes from it. Needs no toolkit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled_code

PTXAS_11 = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_61'
ptxas info    : Function properties for _Z5firstPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 101 registers, 15488 bytes smem, 616 bytes cmem[0], 4 bytes cmem[2]
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_61'
ptxas info    : Function properties for _Z6secondPf
    24 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, 328 bytes cmem[0]
"""
PTXAS_13 = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_90a'
ptxas info    : Function properties for _Z5firstPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 15488 bytes smem
ptxas info    : Compile time = 326.633 ms
"""
PTX = """\
.visible .entry _Z5firstPf(
	.param .u64 _Z5firstPf_param_0
)
.maxntid 32, 8, 1
.minnctapersm 2
{
	ret;
}
.visible .entry _Z6secondPf(
	.param .u64 _Z6secondPf_param_0
)
{
	ret;
}
"""

# sm_61: pairs in braces, SSY/SYNC (after the second SYNC one instruction is never reached), a loop in a loop
PASCAL = """\
	.section	.text._Z5firstPf,"ax",@progbits
_Z5firstPf:
.text._Z5firstPf:
        /*0008*/                   MOV R1, c[0x0][0x20] ;
        /*0010*/         {         ISETP.NE.U32.AND P0, PT, RZ, c[0x0][0x254], PT ;
        /*0018*/              @!P0 BRA `(.L_x_10)         }
.L_x_31:
        /*0028*/         {         IMNMX R31, R57.reuse, 0x9a0, !PT ;
        /*0030*/                   SSY `(.L_x_12)         }
        /*0038*/              @!P0 SYNC                                      (*"BRANCH_TARGETS .L_x_12"*)        }
        /*0048*/                   LDG.E.U16 R28, [R28] ;
        /*0050*/                   SYNC                                      (*"BRANCH_TARGETS .L_x_12"*);
        /*0058*/                   MOV R32, RZ ;
.L_x_12:
        /*0060*/                   BAR.SYNC 0x0         }
.L_x_32:
        /*0068*/                   LDS.U.128 R40, [R50+0x10] ;
        /*0070*/                   FFMA R89, R40, R86, R79 ;
        /*0078*/               @P1 BRA `(.L_x_32) ;
        /*0088*/                   BAR.SYNC 0x0 ;
        /*0090*/              @!P0 BRA `(.L_x_31) ;
.L_x_10:
        /*0098*/                   STG.E [R4], R89 ;
        /*00a8*/                   EXIT ;
.L_x_500:
        /*00b0*/                   BRA `(.L_x_500);
        /*00b8*/                   NOP;
"""
# sm_90: a constant by HFMA2.MMA, a rare case behind EXIT that jumps back outside any loop, a subroutine, padding
HOPPER = """\
	.section	.text._Z5firstPf,"ax",@progbits
_Z5firstPf:
.text._Z5firstPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P2 BRA `(.L_x_90) ;
.L_x_1:
        /*0020*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
        /*0030*/                   HFMA2.MMA R18, -RZ, RZ, 0, 0 ;
.L_x_47:
        /*0040*/                   IMAD R20, R18.reuse, 0x550, R45 ;
        /*0050*/                   HFMA2.MMA R19, -RZ, RZ, 0, 0 ;
        /*0060*/                   LDS.128 R24, [R50+0x10] ;
        /*0070*/                   LDG.E.64 R26, desc[UR4][R2.64] ;
        /*0080*/                   LDG.E R28, desc[UR4][R2.64] ;
        /*0090*/                   FFMA R62, R72.reuse, R25, R62 ;
        /*00a0*/                   HFMA2 R62, R72.reuse, R25, R62 ;
        /*00b0*/                   FFMA R66, R72.reuse, R27, R66 ;
        /*00c0*/                   BRA !P0, `(.L_x_48) ;
        /*00d0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00e0*/                   BRA `(.L_x_47) ;
.L_x_48:
        /*00f0*/                   STL [R1], R62 ;
        /*0100*/                   LDL R62, [R1] ;
        /*0110*/               @P1 EXIT ;
.L_x_60:
        /*0120*/                   FFMA R62, R72.reuse, R25, R62 ;
        /*0130*/                   BRA.U UP0, `(.L_x_60) ;
        /*0140*/                   EXIT ;
.L_x_90:
        /*0150*/                   MUFU.RCP R2, R2 ;
        /*0160*/                   BRA `(.L_x_1) ;
        .weak           $__internal_0_$__cuda_sm20_div_s64
$__internal_0_$__cuda_sm20_div_s64:
        /*0170*/                   RET.REL.NODEC R6 `(_Z5firstPf) ;
.L_x_579:
        /*0180*/                   BRA `(.L_x_579);
        /*0190*/                   NOP;
	.section	.nv.info._Z5firstPf,"",@"SHT_CUDA_INFO"
"""


def function(listing):
    return compiled_code.parse_sass(listing)["_Z5firstPf"]


def test_ptxas_11_8():
    first, second = compiled_code.parse_ptxas(PTXAS_11).values()
    assert first == {"registers": 101, "stack": 0, "spill_stores": 0, "spill_loads": 0, "shared": 15488}
    assert second == {"registers": 32, "stack": 24, "spill_stores": 20, "spill_loads": 16, "shared": 0}


def test_ptxas_13_0():
    found = compiled_code.parse_ptxas(PTXAS_13)
    assert found["_Z5firstPf"]["registers"] == 80 and found["_Z5firstPf"]["shared"] == 15488


def test_ptxas_without_a_report_is_an_error():
    with pytest.raises(ValueError, match="-Xptxas -v"):
        compiled_code.parse_ptxas(PTXAS_11.replace("Used 32 registers", ""))


def test_block_sizes():
    assert compiled_code.parse_block_sizes(PTX) == {"_Z5firstPf": 256, "_Z6secondPf": 1024}


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        (
            "void swiftnet::conv1x1_kernel<__half, swiftnet::E<__half, (swiftnet::Resize)0>, false>(swiftnet::E<__half>)",
            "conv1x1_kernel<half, E<half, (Resize)0>, false>",
        ),
        ("void swiftnet::k<float, swiftnet::S<float> >(float*)", "k<float, S<float>>"),
        ("swiftnet::(anonymous namespace)::probe_kernel()", "probe_kernel"),
    ],
)
def test_short_names(demangled, short):
    assert compiled_code.short_name(demangled) == short


def test_hot_loop_on_pascal_is_the_outer_one():
    assert compiled_code.hot_loop(function(PASCAL)) == {
        "loop_instructions": 11,  # from .L_x_31 to the branch back to it
        "loop_multiplies": 1,
        "loop_multiply_kinds": "FFMA:1",
        "loop_multiply_share": "0.091",
        "loop_vector_loads": 1,
        "loop_barriers": 2,
    }


def test_hot_loop_on_hopper():
    assert compiled_code.hot_loop(function(HOPPER)) == {
        "loop_instructions": 11,  # from .L_x_47; the way back from .L_x_90 makes no loop
        "loop_multiplies": 3,  # without the constant
        "loop_multiply_kinds": "FFMA:2 HFMA2:1",
        "loop_multiply_share": "0.273",
        "loop_vector_loads": 2,
        "loop_barriers": 1,
    }


def test_loops_are_apart_and_start_at_their_targets():
    parsed = function(HOPPER)
    loops = compiled_code.outermost_loops(compiled_code.successors(parsed))
    assert sorted(min(loop) for loop in loops) == [parsed.positions[".L_x_47"], parsed.positions[".L_x_60"]]


def test_a_loop_of_one_instruction():
    listing = HOPPER.replace("BRA `(.L_x_47)", "BRA `(.L_x_48)").replace("/*0120*/                   FFMA", "//")
    assert compiled_code.hot_loop(function(listing))["loop_instructions"] == 1


def test_no_loop():
    listing = HOPPER.replace("BRA `(.L_x_47)", "BRA `(.L_x_48)").replace("BRA.U UP0, `(.L_x_60)", "NOP")
    assert compiled_code.hot_loop(function(listing)) is None


def test_a_jump_without_a_target_is_an_error():
    with pytest.raises(ValueError, match="can't follow BRX"):
        compiled_code.hot_loop(function(HOPPER.replace("BRA `(.L_x_47)", "BRX R4 -0x10")))


@pytest.mark.parametrize(
    ("opcode", "vector"),
    [("LDS.64", 1), ("LDG.E.128.CONSTANT", 1), ("LDSM.16.M88.4", 1), ("LDS.U.32", 0), ("LDG.E.U16", 0), ("STS.128", 0)],
)
def test_vector_loads(opcode, vector):
    assert compiled_code.hot_loop(function(PASCAL.replace("LDS.U.128", opcode)))["loop_vector_loads"] == vector


@pytest.mark.parametrize("opcode", ["HMMA.16816.F32", "HGMMA.64x64x16.F32", "UTCHMMA", "FFMA2", "DFMA"])
def test_multiply_instructions(opcode):
    kinds = compiled_code.hot_loop(function(PASCAL.replace("FFMA", opcode)))["loop_multiply_kinds"]
    assert kinds == f"{opcode.split('.')[0]}:1"


def test_local_accesses():
    assert compiled_code.local_accesses(function(HOPPER)) == {"local_loads": 1, "local_stores": 1}
    assert compiled_code.local_accesses(function(PASCAL)) == {"local_loads": 0, "local_stores": 0}


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "expected"),
    [
        # 101 registers → 104·32 = 3328 a warp; a quarter of the file, 16384, holds 4 warps: 16 warps, 2 blocks of 8
        ("61", 101, 15488, 256, (2, 16)),
        ("61", 101, 0, 32, (16, 16)),
        ("61", 32, 0, 256, (8, 64)),  # 1024 a warp: 64 warps, the limit of threads too
        ("61", 32, 24 * 1024, 256, (4, 32)),  # 96 KiB / 24 KiB
        ("62", 32, 24 * 1024, 256, (2, 16)),  # 64 KiB / 24 KiB
        ("62", 128, 0, 256, (2, 16)),  # 4096·8 = 32768, as much as a block may have
        ("62", 129, 0, 256, (0, 0)),
        ("75", 32, 0, 32, (16, 16)),  # 16 blocks
        ("80", 32, 48 * 1024, 256, (3, 24)),  # (48 + 1) KiB of 164
        ("86", 40, 0, 256, (6, 48)),  # 48 warps
        ("89", 16, 0, 32, (24, 24)),
        ("90a", 80, 15488, 256, (3, 24)),  # 2560 a warp: 6 in a quarter, 24 warps
        ("120", 56, 16384, 128, (5, 20)),  # (16 + 1) KiB of 100
    ],
)
def test_occupancy(arch, registers, shared, threads, expected):
    assert compiled_code.occupancy(arch, registers, shared, threads) == expected
