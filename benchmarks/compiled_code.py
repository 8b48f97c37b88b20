"""What the compiler made of a kernel, read from ptxas' report, the PTX and nvdisasm's listing. Python's library only."""

import re
from dataclasses import dataclass

# ---- ptxas -v and PTX


def parse_ptxas(text):
    """ptxas -v → {mangled name: {registers, stack, spill_stores, spill_loads, shared}}."""
    found = {}
    for part in re.split(r"(?=ptxas info\s*: Compiling entry function)", text)[1:]:
        name = re.search(r"Compiling entry function '([^']+)'", part).group(1)
        sizes = re.search(
            rf"Function properties for {re.escape(name)}\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads",
            part,
        )
        used = re.search(r"Used (\d+) registers(.*)", part)
        if not sizes or not used:
            raise ValueError(f"ptxas reports neither registers nor spills of {name}; compile with -Xptxas -v")
        shared = re.search(r"(\d+) bytes smem", used.group(2))
        stack, stores, loads = map(int, sizes.groups())
        found[name] = {
            "registers": int(used.group(1)),
            "stack": stack,
            "spill_stores": stores,
            "spill_loads": loads,
            "shared": int(shared.group(1)) if shared else 0,
        }
    return found


def parse_block_sizes(ptx):
    """PTX → {mangled name: threads of the largest block that may be launched}: 1024 without __launch_bounds__."""
    found = {}
    for name, directives in re.findall(r"\.entry\s+([\w$]+)\s*\(.*?\)\s*([^{]*)\{", ptx, re.DOTALL):
        bounds = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", directives)
        x, y, z = (int(n or 1) for n in bounds.groups()) if bounds else (1024, 1, 1)
        found[name] = x * y * z
    return found


def short_name(demangled):
    """`void swiftnet::k<__half, swiftnet::S<__half> >(swiftnet::S<__half>)` → `k<half, S<half>>`."""
    text = demangled.replace("(anonymous namespace)::", "").replace("swiftnet::", "").replace("> >", ">>")
    text = re.sub(r"\b__half\b", "half", text)
    depth = 0
    for i, character in enumerate(text):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            text = text[:i]
            break
    return text[len("void ") :] if text.startswith("void ") else text


# ---- SASS


@dataclass
class Instruction:
    guard: str  # "@!P0", or empty
    opcode: str  # "LDS.U.128"
    operands: str
    labels: tuple  # what a branch may lead to
    line: int

    @property
    def base(self):
        return self.opcode.split(".")[0]


@dataclass
class Function:
    instructions: list
    positions: dict  # label → index of the instruction after it


# a listing's line: /*0018*/  { @!P0 LDS.U.128 R4, [R2] ;   the brace opens or closes a pair that is issued together
LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*)$")
LABEL = re.compile(r"\.L_[\w$]+")


def parse_sass(text):
    """nvdisasm -c → {mangled name: Function}; a kernel's own subroutines are part of it."""
    found, current = {}, None
    for number, line in enumerate(text.splitlines(), 1):
        section = re.match(r"\s*\.section\s+(\S+?),", line)
        if section:
            name = section.group(1)
            current = found.setdefault(name[len(".text.") :], Function([], {})) if name.startswith(".text.") else None
        elif current is None:
            continue
        elif re.fullmatch(r"\.L_[\w$]+:", line.strip()):
            current.positions[line.strip()[:-1]] = len(current.instructions)
        else:
            matched = LINE.match(line)
            if matched:
                guard, opcode, operands = matched.groups()
                labels = tuple(LABEL.findall(operands))
                current.instructions.append(Instruction((guard or "").strip(), opcode, operands, labels, number))
    return found


JUMPS = {"BRA", "BRX", "JMP", "JMX", "BRXU", "JMXU", "SYNC", "BRK", "CONT"}  # Pascal's last three name their targets
ENDS = {"EXIT", "RET"}


def successors(function):
    """For each instruction, those that may follow it. A call comes back, so it is followed by the next one."""
    following = []
    for i, instruction in enumerate(function.instructions):
        jumps = instruction.base in JUMPS
        if jumps and not instruction.labels:
            raise ValueError(f"line {instruction.line}: can't follow {instruction.opcode} {instruction.operands}")
        targets = [function.positions[label] for label in instruction.labels] if jumps else []
        # `BRA UP0, (label)` is conditional without a guard
        conditional = instruction.guard or (instruction.base == "BRA" and not re.match(r"`?\(", instruction.operands))
        if not (jumps or instruction.base in ENDS) or conditional:
            targets.append(i + 1)
        following.append([t for t in targets if t < len(function.instructions)])
    return following


def depth_first(following, start, seen):
    """The nodes reachable from start that are not in seen, each after those it leads to; adds them to seen."""
    order, stack = [], [(start, iter(following[start]))]
    seen.add(start)
    while stack:
        node, rest = stack[-1]
        step = next((n for n in rest if n not in seen), None)
        if step is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(step)
            stack.append((step, iter(following[step])))
    return order


def outermost_loops(following):
    """The outermost loops as sets of instructions: what can be reached from itself (Kosaraju's algorithm).

    A backward branch alone is no loop: compilers put rare cases behind a kernel's end and jump back from there.
    """
    if not following:
        return []
    order = depth_first(following, 0, set())
    reachable = set(order)
    preceding = [[] for _ in following]
    for node in order:
        for target in following[node]:
            preceding[target].append(node)
    seen = set(range(len(following))) - reachable
    components = [set(depth_first(preceding, node, seen)) for node in reversed(order) if node not in seen]
    return [c for c in components if len(c) > 1 or any(n in following[n] for n in c)]


MULTIPLY = re.compile(r"(?:FFMA2?|FFMA32I|FMUL2?|FMUL32I|HFMA2|HMUL2|DFMA|DMUL|[A-Z]*MMA)$")
VECTOR = re.compile(r"(?:LDS|LDG|LD|LDGSTS)(?:\.\w+)*\.(?:64|128|256)(?:\.|$)|LDSM\b")


def is_multiply(instruction):
    # HFMA2 of two zeros is how compilers since Volta write a constant into a register
    constant = instruction.base == "HFMA2" and re.match(r"\w+, -RZ, RZ,", instruction.operands)
    return bool(MULTIPLY.match(instruction.base)) and not constant


def is_mma(instruction):
    return instruction.base.endswith("MMA")


def hot_loop(function):
    """The outermost loop with the most products of matrices, then multiplies (the longest, if none has any), or None."""
    candidates = [[function.instructions[i] for i in loop] for loop in outermost_loops(successors(function))]
    if not candidates:
        return None
    loop = max(candidates, key=lambda body: (sum(map(is_mma, body)), sum(map(is_multiply, body)), len(body)))
    kinds = [i.base for i in loop if is_multiply(i)]
    return {
        "loop_instructions": len(loop),
        "loop_multiplies": len(kinds),
        "loop_multiply_kinds": " ".join(f"{kind}:{kinds.count(kind)}" for kind in sorted(set(kinds))),
        "loop_multiply_share": f"{len(kinds) / len(loop):.3f}",
        "loop_vector_loads": sum(bool(VECTOR.match(i.opcode)) for i in loop),
        "loop_barriers": sum(i.base == "BAR" for i in loop),
    }


def local_accesses(function):
    bases = [i.base for i in function.instructions]
    return {"local_loads": bases.count("LDL"), "local_stores": bases.count("STL")}


# ---- occupancy


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor, from the CUDA C++ Programming Guide, "Technical Specifications per Compute
    Capability". Every architecture here has 65536 registers in four parts, handed to a warp in units of 256."""

    warps: int
    blocks: int
    shared: int  # bytes
    registers_of_block: int = 65536
    reserved: int = 0  # bytes of shared memory the system takes for each block
    shared_unit: int = 256  # in which shared memory is handed out


KIB = 1024
MULTIPROCESSORS = {
    "61": Multiprocessor(64, 32, 96 * KIB),
    "62": Multiprocessor(64, 32, 64 * KIB, registers_of_block=32768),
    "70": Multiprocessor(64, 32, 96 * KIB),
    "75": Multiprocessor(32, 16, 64 * KIB),
    "80": Multiprocessor(64, 32, 164 * KIB, reserved=KIB, shared_unit=128),
    "86": Multiprocessor(48, 16, 100 * KIB, reserved=KIB, shared_unit=128),
    "89": Multiprocessor(48, 24, 100 * KIB, reserved=KIB, shared_unit=128),
    "90": Multiprocessor(64, 32, 228 * KIB, reserved=KIB, shared_unit=128),
    "100": Multiprocessor(64, 32, 228 * KIB, reserved=KIB, shared_unit=128),
    "120": Multiprocessor(48, 24, 100 * KIB, reserved=KIB, shared_unit=128),
}


def round_up(value, unit):
    return -(-value // unit) * unit


def occupancy(arch, registers, shared, threads):
    """(blocks, warps) that fit on one multiprocessor, as cuda_occupancy.h of the CUDA toolkit computes them."""
    limits = MULTIPROCESSORS[arch.rstrip("af")]
    warps = round_up(threads, 32) // 32
    registers_of_warp = round_up(registers * 32, 256)
    # a launch is checked as if every part of the multiprocessor held the same number of the block's warps
    if registers_of_warp * round_up(warps, 4) > limits.registers_of_block:
        return 0, 0
    blocks = min(limits.warps // warps, limits.blocks)
    if registers:
        blocks = min(blocks, 65536 // 4 // registers_of_warp * 4 // warps)
    shared = round_up(shared + limits.reserved, limits.shared_unit)
    if shared:
        blocks = min(blocks, limits.shared // shared)
    return blocks, blocks * warps
