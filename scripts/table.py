"""Result lines of one or several runs as one Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.command_line import parser_of, run
from scripts.grid.spec import strategy_name
from scripts.results import read_rows

COLUMNS = (
    ("cycle", "cycle", "{}"),
    ("strategy", "strategy", "{}"),
    ("labels", "labels", "{}"),
    ("empty picked", "picked_empty_share", "{:.0%}"),
    ("pseudo images", "pseudo_images", "{}"),
    ("pseudo objects", "pseudo_objects", "{}"),
    ("their precision", "pseudo_precision", "{:.2f}"),
    ("grad share", "semi_gradient_share", "{:.1%}"),
    ("mask AP50", "mask_ap50", "{:.3f}"),
    ("box AP50", "box_ap50", "{:.3f}"),
    ("train s", "train_seconds", "{:.0f}"),
    ("cycle s", "cycle_seconds", "{:.0f}"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of result lines, by cycle and strategy."""
    ordered = sorted(rows, key=lambda row: (row["cycle"], row["strategy"] != "tsp", row["ssl"]))
    cells = [[title for title, _, _ in COLUMNS]]
    cells += [[_cell(row, key, form) for _, key, form in COLUMNS] for row in ordered]
    return markdown(cells)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable as it is, too: rows of equal length, the titles first."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    padded = [[text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines = ["| " + " | ".join(line) + " |" for line in padded]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(row: dict[str, Any], key: str, form: str) -> str:
    if key == "strategy":  # a grid names its cells, such as "beta 0.05" or "full data"
        return row.get("cell") or strategy_name(row["strategy"], row["ssl"])
    value = row["seconds"].get(key.removesuffix("_seconds")) if key.endswith("_seconds") else row.get(key)
    return "-" if value is None else form.format(value)


def main() -> None:
    example = "runs/tsp/results.jsonl runs/random/results.jsonl"
    parser = parser_of("table", "Result lines of runs as one Markdown table.", example)
    parser.add_argument("results", type=Path, nargs="+")
    print(table([row for path in parser.parse_args().results for row in read_rows(path)]))


if __name__ == "__main__":
    run("table", main)
