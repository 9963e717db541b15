"""A run of comparisons as a table, and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.speed.machine import in_words
from scripts.speed.timing import COST, SPEED_UP, Comparison
from scripts.table import markdown
from tsp_model.files import write_json

TITLES = ("comparison", "what", "against", "ratio", "spread", "aim", "met")
WORDS = {SPEED_UP: "as fast", COST: "as long"}


def table(rows: Sequence[Comparison]) -> str:
    """A Markdown table; what there is to say about a row stands below it."""
    notes = [f"- {row.title}: {row.note}" for row in rows if row.note]
    return "\n".join([markdown([TITLES, *map(_cells, rows)]), *notes])


def document(machine: dict[str, Any], rows: Sequence[Comparison]) -> str:
    """The table below the machine's description, for a README."""
    return f"{in_words(machine)}\n\n{table(rows)}\n"


def write(path: Path, machine: dict[str, Any], smoke: bool, rows: Sequence[Comparison]) -> None:
    """Everything as JSON: the machine, each round of each contestant, ratios. The file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": machine, "smoke": smoke, "comparisons": [row.to_dict() for row in rows]})


def line(row: Comparison) -> str:
    """One finished comparison, said while the others run."""
    cells = dict(zip(TITLES, _cells(row), strict=True))
    if row.ratio is None:
        return f"{row.title}: {row.note}"
    return f"{row.title}: {cells['ratio']} ({cells['spread']}), {row.ours} against {row.against}"


def _cells(row: Comparison) -> list[str]:
    if row.ratio is None:
        return [row.title, row.ours, row.against, "-", "-", _aim(row), "-"]
    low, high = min(row.ratios), max(row.ratios)
    return [
        row.title,
        f"{row.ours} {duration(row.median(row.ours))}",
        f"{row.against} {duration(row.median(row.against))}",
        f"{row.ratio:.2f}x {WORDS[row.measure]}",
        f"{low:.2f} to {high:.2f}",
        _aim(row),
        {None: "", True: "yes", False: "no"}[row.met],
    ]


def _aim(row: Comparison) -> str:
    if row.aim is None:
        return ""
    return f"at {'least' if row.measure == SPEED_UP else 'most'} {row.aim:g}x"


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
