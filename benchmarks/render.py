"""Writes the README's table of speeds from the results. A test holds the README to it."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE.parent / "README.md"
BEGIN, END = "<!-- speeds: rendered by benchmarks/render.py -->\n", "<!-- end of speeds -->"


def _line(result: dict[str, Any]) -> str:
    settings, machine = result["settings"], result["hardware"]
    where = ", ".join(machine["gpus"]) or f"{machine['cores']} CPU cores ({machine['cpu']})"
    candidates = f"{settings['candidates']} candidate{'s' * (settings['candidates'] > 1)}"
    what = f"{settings['clips']} clips x {candidates} x {settings['tokens']} tokens"
    other = "published_operator" if "published_operator" in result else "baseline_serial"
    ours, theirs = (f"{result[name]['median_seconds']:.1f} s" for name in ("reelscribe", other))
    return f"| {result['benchmark']} | {what} | {where} | {theirs} | {ours} | {result['speedup']:.1f}x |"


def table() -> str:
    """The table, one line for each result that compares two methods."""
    results = [json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    head = [
        "| benchmark | work | machine | one at a time | reelscribe | speed-up |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *(_line(result) for result in results if "speedup" in result)]) + "\n"


def render(page: str) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(render(README.read_text("utf-8")), "utf-8")
