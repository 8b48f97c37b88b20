"""Compiled code of every kernel × architecture × toolkit against benchmarks/budgets/cuda-*.csv; see docs/budgets.md."""

import argparse
import csv
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import compiled_code
from toolkits import FAMILIES, FLAGS, BudgetError, find_toolkits, fingerprint_of, measure, run

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "benchmarks" / "budgets"
RESULT = ROOT / "benchmarks" / "results" / "compiled" / "budgets.json"
KEY = ("source", "kernel", "arch")
LOWER, HIGHER, EITHER = -1, 1, 0
COLUMNS = {  # what is better; EITHER: it has no better, but a change is still to be seen
    "threads": EITHER,
    "registers": LOWER,
    "registers_of_block": LOWER,
    "shared": LOWER,
    "stack": LOWER,
    "spill_stores": LOWER,
    "spill_loads": LOWER,
    "local_loads": LOWER,
    "local_stores": LOWER,
    "blocks": HIGHER,
    "warps": HIGHER,
    "loop_instructions": EITHER,
    "loop_multiplies": EITHER,
    "loop_multiply_kinds": EITHER,
    "loop_multiply_share": HIGHER,
    "loop_vector_loads": HIGHER,
    "loop_barriers": LOWER,
}
NONE_ALLOWED = ("stack", "spill_stores", "spill_loads", "local_loads", "local_stores")


def measure_toolkit(toolkit, jobs):
    """{(source, kernel, arch): row}, in the table's order."""
    sources = sorted((ROOT / "csrc" / "kernels").glob("*.cu"))
    tasks = [(toolkit, source, arch) for source in sources for arch in toolkit.family.archs]
    with ThreadPoolExecutor(jobs) as pool:
        found = [row for rows in pool.map(lambda task: measure(*task), tasks) for row in rows]
    columns = *KEY, *COLUMNS
    rows = [{column: str(row.get(column, "")) for column in columns} for row in found]
    return table_of(rows, f"CUDA {toolkit.release}")


def table_of(rows, where):
    table = {}
    for row in sorted(rows, key=sort_key):
        key = tuple(row[column] for column in KEY)
        if key in table:
            raise BudgetError(f"{where}: two rows for {describe(key)}; kernels need names that differ")
        table[key] = row
    if not table:
        raise BudgetError(f"{where}: no kernels in {ROOT / 'csrc' / 'kernels'}")
    return table


def sort_key(row):
    return row["source"], row["kernel"], int(row["arch"].rstrip("af")), row["arch"]


def describe(key):
    source, kernel, arch = key
    return f"sm_{arch} {kernel} ({source})"


def path_of(toolkit, suffix=".csv"):
    """The toolkit's table, or what is beside it."""
    return TABLES / f"cuda-{toolkit.release}{suffix}"


def fingerprint_line(toolkit):
    return fingerprint_of(toolkit, ROOT / "csrc") + "\n"


def is_unchanged(toolkit):
    """Whether the table is of these kernels, flags and programs."""
    path = path_of(toolkit, ".sha256")
    return path.exists() and path.read_text(encoding="utf-8") == fingerprint_line(toolkit)


def broken_rules(table):
    """What no table excuses."""
    found = []
    for key, row in table.items():
        bad = [f"{column} {row[column]}" for column in NONE_ALLOWED if row[column] != "0"]
        if bad:
            found.append(f"{describe(key)}: {', '.join(bad)}; allowed 0")
        if row["arch"] == "62" and int(row["registers_of_block"]) > 32768:
            found.append(f"{describe(key)}: registers_of_block {row['registers_of_block']}, sm_62 has 32768")
        if row["blocks"] == "0":
            found.append(f"{describe(key)}: a block of {row['threads']} threads does not fit on a multiprocessor")
    return found


def compare(committed, measured):
    """(worse, changed, better): sentences, at most one a row. The tables are equal where all three are empty."""
    worse = [f"{describe(key)}: in the table, but no longer compiled" for key in committed if key not in measured]
    worse += [f"{describe(key)}: compiled, but not in the table" for key in measured if key not in committed]
    changed, better = [], []
    for key in measured:
        if key in committed:
            for sentences, differences in zip((worse, changed, better), differences_of(committed[key], measured[key])):
                if differences:
                    sentences.append(f"{describe(key)}: {', '.join(differences)}")
    return worse, changed, better


def differences_of(before, after):
    worse, changed, better = [], [], []
    for column, direction in COLUMNS.items():
        old, new = before[column], after[column]
        if old == new:
            continue
        if direction == EITHER or not old or not new:
            found = changed
        else:
            found = better if (float(new) - float(old)) * direction > 0 else worse
        found.append(f"{column} {old or 'none'} → {new or 'none'}")
    return worse, changed, better


def read_table(path):
    if not path.exists():
        raise BudgetError(f"{path} is missing; make budgets UPDATE=1 writes it")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [*KEY, *COLUMNS]:
            raise BudgetError(f"{path} has other columns than benchmarks/budgets.py; make budgets UPDATE=1 rewrites it")
        return table_of(list(reader), str(path))


def write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*KEY, *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.values())


def check(toolkit, table, update):
    """Prints what is wrong with one toolkit's kernels; whether nothing is."""
    broken = broken_rules(table)
    show("not allowed", broken)
    if not toolkit.comparable:
        print(f"  not comparable: the table is CUDA {toolkit.family.release}'s; only the rules were checked")
        if update:
            raise BudgetError(f"UPDATE=1 needs CUDA {toolkit.family.release}, this is {toolkit.release}")
        return not broken
    if update:  # also where a rule is broken: the table says what is
        write_table(path_of(toolkit), table)
        path_of(toolkit, ".sha256").write_text(fingerprint_line(toolkit), encoding="utf-8")
        print(f"  wrote {path_of(toolkit).relative_to(ROOT)}")
        return not broken
    committed = read_table(path_of(toolkit))
    committed = {key: row for key, row in committed.items() if row["arch"] in toolkit.family.archs}
    worse, changed, better = compare(committed, table)
    show("worse", worse)
    show("changed", changed)
    show("better", better)
    if worse or changed or better:
        print("  if this is meant: make budgets UPDATE=1, and commit the table")
    return not (broken or worse or changed or better)


def show(title, sentences):
    if sentences:
        print(f"  {title} ({len(sentences)}):", *(f"    {s}" for s in sentences), sep="\n")


def only(toolkit, architectures):
    """The toolkit with these of its architectures."""
    unknown = [a for a in architectures if a not in toolkit.family.archs]
    if unknown:
        known = ",".join(toolkit.family.archs)
        raise BudgetError(f"--architectures {','.join(unknown)}: CUDA {toolkit.version}'s are {known}")
    return replace(toolkit, family=replace(toolkit.family, archs=tuple(architectures)))


def summary(toolkit, table, seconds):
    architectures = []
    for arch in toolkit.family.archs:
        rows = [row for row in table.values() if row["arch"] == arch]
        limit = compiled_code.MULTIPROCESSORS[arch.rstrip("af")].warps
        architectures.append(
            {
                "arch": arch,
                "kernels": len(rows),
                "max_registers": max(int(r["registers"]) for r in rows),
                "max_registers_of_block": max(int(r["registers_of_block"]) for r in rows),
                "max_shared_bytes": max(int(r["shared"]) for r in rows),
                "min_occupancy": min(int(r["warps"]) for r in rows) / limit,
                **{column: sum(int(r[column]) for r in rows) for column in NONE_ALLOWED},
            }
        )
    return {
        "cuda": toolkit.version,
        "nvdisasm": toolkit.nvdisasm_version,
        "flags": [f"-std={toolkit.family.standard}", *FLAGS],
        "seconds": round(seconds, 1),
        "architectures": architectures,
    }


def record(toolkits):
    if run(["git", "-C", ROOT, "status", "--porcelain", "--", "csrc", "benchmarks/budgets"]):
        raise BudgetError(
            "--record names a commit, but csrc or benchmarks/budgets has uncommitted changes; commit first"
        )
    result = {
        "date": date.today().isoformat(),
        "commit": run(["git", "-C", ROOT, "rev-parse", "HEAD"]).strip(),
        "command": " ".join(["python", "benchmarks/budgets.py", *sys.argv[1:]]),
        "toolkits": toolkits,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULT.relative_to(ROOT)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toolkits", default="11,13", help="major versions that must be present (default: 11,13)")
    parser.add_argument("--cuda", action="append", metavar="DIR", help="a toolkit's folder instead; may be repeated")
    parser.add_argument("--update", action="store_true", help="write the tables instead of comparing with them")
    parser.add_argument("--record", action="store_true", help=f"on success write {RESULT.relative_to(ROOT)}")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time (default: 2)")
    parser.add_argument(
        "--architectures", help="only these of each toolkit's, e.g. 61,62; to compare with, not to write"
    )
    parser.add_argument(
        "--if-unchanged",
        metavar="ARCHITECTURES",
        help="only these where the kernels, flags and programs are those that the table was made from",
    )
    options = parser.parse_args()
    if (options.architectures or options.if_unchanged) and (options.update or options.record):
        parser.error("a table and a result have all architectures; leave them out with --update and --record")
    majors = options.toolkits.split(",")
    if not set(majors) <= set(FAMILIES):
        parser.error(f"--toolkits: expected some of {','.join(FAMILIES)}, got {options.toolkits}")

    good, summaries = True, []
    for toolkit in find_toolkits(options.cuda, majors):
        unchanged = options.if_unchanged and is_unchanged(toolkit)
        architectures = options.if_unchanged if unchanged else options.architectures
        if architectures:
            toolkit = only(toolkit, architectures.split(","))
        start = time.monotonic()
        table = measure_toolkit(toolkit, options.jobs)
        seconds = time.monotonic() - start
        archs = " ".join(toolkit.family.archs)
        print(f"CUDA {toolkit.version} ({toolkit.nvcc}), sm {archs}: {len(table)} rows in {seconds:.0f} s", flush=True)
        good = check(toolkit, table, options.update) and good
        summaries.append(summary(toolkit, table, seconds))
    if good and options.record:
        record(summaries)
    print("budgets: as committed" if good and not options.update else "budgets: " + ("written" if good else "FAILED"))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BudgetError, ValueError) as error:
        sys.exit(f"budgets: {error}")
