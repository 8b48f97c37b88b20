"""The GPU report as a Markdown page."""

from typing import Dict, List


def _facts(step: Dict[str, object]) -> str:
    if step["status"] != "passed":
        return str(step["reason"]).splitlines()[0]
    shown = {k: v for k, v in step.items() if k not in ("status", "seconds", "rows")}
    return "; ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in shown.items())


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in value.items()) + ")"
    return str(value)


def _table(rows: List[Dict[str, object]]) -> List[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines)]


def page(report: Dict[str, object]) -> str:
    device = report["device"]
    title = ("STAND-IN, NO GPU: " if device.get("stand_in") else "") + str(device["name"])
    lines = [f"# {title}", "", f"{report['date']}, commit {report['commit']}", "", f"`{report['command']}`", ""]
    lines += [
        f"- {k.replace('_', ' ')}: {v}" for k, v in device.items() if k not in ("status", "seconds", "name", "stand_in")
    ]
    lines += ["", "| step | | seconds | |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {s['status']} | {s['seconds']} | {_facts(s)} |" for name, s in report["steps"].items()]
    for step in report["steps"].values():
        lines += _table(step["rows"]) if "rows" in step else []
    return "\n".join(lines) + "\n"
