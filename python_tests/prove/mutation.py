"""Compiling a mutant and running the test that should find it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Set

from .builds import PRESETS, ROOT, Failure, folder, pytest, run, with_tools
from .mutants import Mutant

KERNELS = ROOT / "csrc" / "kernels"
PYTEST_FAILED_TESTS = 1


def _includes(source: Path) -> Set[Path]:
    """The files that a source includes by quotes, at any depth, and itself."""
    seen: Set[Path] = set()
    todo = [source.resolve()]
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        todo += [(path.parent / name).resolve() for name in re.findall(r'#include "([^"]+)"', path.read_text())]
    return seen


def _compile_commands(check: str) -> List[Dict[str, str]]:
    return json.loads((folder(check) / "compile_commands.json").read_text())


def _link_command(check: str) -> str:
    ninja = subprocess.run(
        ["ninja", "-C", str(folder(check)), "-t", "commands", "_C_emulated"],
        capture_output=True, text=True, check=True, env=with_tools(),
    )  # fmt: skip
    return ninja.stdout.strip().splitlines()[-1]


def mutate(mutant: Mutant, text: str) -> str:
    if text.count(mutant.old) != 1:
        raise Failure(
            f"mutant '{mutant.fault}': its text occurs {text.count(mutant.old)} times in {mutant.file}, not once"
        )
    return text.replace(mutant.old, mutant.new)


def compile_mutant(mutant: Mutant, target: Path) -> None:
    """The emulated module with this fault, in `target`: what includes the file is compiled again, the rest is linked."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "csrc", target / "csrc")
    changed = target / "csrc" / "kernels" / mutant.file
    changed.write_text(mutate(mutant, changed.read_text()))
    link = _link_command(mutant.check)
    original = (KERNELS / mutant.file).resolve()
    for entry in _compile_commands(mutant.check):
        source = Path(entry["file"])
        if source.suffix != ".cu" or original not in _includes(source):
            continue
        output = re.search(r" -o (\S+\.o)", entry["command"]).group(1)
        made = target / (source.stem + ".o")
        command = (
            entry["command"].replace(str(ROOT / "csrc"), str(target / "csrc")).replace(f"-o {output}", f"-o {made}")
        )
        done = run(["sh", "-c", command], cwd=entry["directory"])
        if done.returncode:
            raise Failure(f"mutant '{mutant.fault}' does not compile:\n{done.stdout[-2000:]}")
        link = link.replace(f" {output} ", f" {made} ")
    module = re.search(r" -o (\S+)", link).group(1)
    done = run(["sh", "-c", link.replace(f"-o {module}", f"-o {target / module}")], cwd=folder(mutant.check))
    if done.returncode:
        raise Failure(f"mutant '{mutant.fault}' does not link:\n{done.stdout[-2000:]}")


def test_arguments(mutant: Mutant) -> List[str]:
    return [mutant.test, "--backends", "emulated"]


def kill(mutant: Mutant, target: Path) -> str:
    """What the test said of the mutant; raises Failure where it said nothing."""
    compile_mutant(mutant, target)
    tests = pytest(mutant.check, test_arguments(mutant), 1, target / "report.xml", target)
    if tests.status < 0:  # an access that the operating system refused
        shutil.rmtree(target)
        return f"ended by signal {-tests.status}"
    if tests.status != PYTEST_FAILED_TESTS or tests.failed != 1:
        survived = "survived" if tests.status == 0 else f"made pytest end with status {tests.status}"
        raise Failure(
            f"mutant '{mutant.fault}' {survived}: {mutant.test} in {PRESETS[mutant.check]}\n{tests.output[-1500:]}"
        )
    shutil.rmtree(target)
    said = re.findall(r"^E +(.+)", tests.output, re.M) or ["failed"]
    return " ".join(said[: 1 + said[0].endswith(":")])  # the emulation's findings follow the kernel's name
