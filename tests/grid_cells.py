"""Cells of a grid as running them leaves them, with results made by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.grid.spec import Cell
from scripts.reporting.context import Context
from scripts.reporting.lines import GridResults, read_results
from scripts.reporting.page import Absent, Section, Sentences, Table, Text
from tests.builders import SIZE, square
from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

POOL, TEST = 100, 3


def write_cell(out: Path, name: str, seed: int, ap50: Sequence[float], of_cell: dict | None = None, **own: Any) -> Path:
    """A cell as the grid leaves it, AP50 by cycle; a box AP50 0.1 lower.

    A cycle takes 80 s: 60 of training, 5 of scoring, which the last one has not, 10 of evaluating, the rest of picking.

    Args:
        of_cell: entries of its cell.json that are no settings. own: its settings.
    """
    settings = Settings.preset("tiny").override({"seed": seed, "ssl": name.endswith(" + SSL")} | own).to_dict()
    identity = {"data": "data/ct", "per_cycle": 10, "train_images": POOL, "test_images": TEST} | (of_cell or {})
    folder = out / Cell(name, Settings(seed=seed)).folder
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text(json.dumps(identity | settings))
    rows, picked = [], {}
    for cycle, value in enumerate(ap50, start=1):
        count = identity["per_cycle"]
        picked[str(cycle)] = [f"{number}.png" for number in range((cycle - 1) * count, cycle * count)]
        pseudo_images = 20 if settings["ssl"] and cycle > 1 else 0
        rows.append(
            {
                "cycle": cycle,
                "strategy": settings["strategy"],
                "ssl": settings["ssl"],
                "seed": seed,
                "data": identity["data"],
                "labels": cycle * count,
                "objects": cycle * count * 2,
                "picked_empty_share": 0.3,
                "pseudo_images": pseudo_images,
                "pseudo_objects": 2 * pseudo_images,
                "pseudo_precision": 0.75 if pseudo_images else None,
                "semi_gradient_share": 0.02 if pseudo_images else None,
                "mask_ap50": value,
                "box_ap50": value - 0.1,
                "seconds": {
                    "train": 60.0,
                    "score": 5.0 if cycle < len(ap50) else 0.0,
                    "evaluate": 10.0,
                    "cycle": 80.0,
                },
                "cell": name,
                "machine": f"abacus {seed}",
            }
        )
    if rows:
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "picked.json").write_text(json.dumps(picked))
    return folder


def write_grid(out: Path) -> Path:
    """Two seeds of random and TSP + SSL, and what all labels give: 0.8 in the mean."""
    write_cell(out, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    write_cell(out, "random", 1, [0.3, 0.5, 0.7], strategy="random")
    write_cell(out, "tsp + SSL", 0, [0.2, 0.7, 0.75])
    write_cell(out, "tsp + SSL", 1, [0.3, 0.7, 0.82])
    write_cell(out, "full data", 0, [0.75], {"per_cycle": POOL}, ssl=False)
    write_cell(out, "full data", 1, [0.85], {"per_cycle": POOL}, ssl=False)
    return out


def context_of(out: Path, grid: GridResults | None = None, **changes: Any) -> Context:
    made = Context(grid or read_results(out), out / "report", None, None, "there are no images", 4, 8.5)
    return dataclasses.replace(made, **changes)


def table_of(section: Section, place: int = 0) -> Table:
    return [part for part in section.parts if isinstance(part, Table)][place]


def row_of(table: Table, name: str) -> list[str]:
    (found,) = [list(row) for row in table.rows if row[0] == name]
    return found


def said(section: Section) -> str:
    """Everything that a section says in words."""
    words = [part.text for part in section.parts if isinstance(part, Text | Absent)]
    return "\n".join(
        [*words, *(one for part in section.parts if isinstance(part, Sentences) for one in part.sentences)]
    )


def rle(left: int, top: int, side: int) -> dict[str, Any]:
    return masks.encode(square(left, top, side).numpy()[None])[0]


def found_squares(
    key: str, squares: Sequence[tuple[int, int, int]], c: Sequence[float], b: float, m: float
) -> Prediction:
    """Detections of class 1, (left, top, side) each, all with the same b and m."""
    rles = [rle(*one) for one in squares]
    count = len(squares)
    return Prediction(
        key=key, height=SIZE, width=SIZE, labels=[1] * count, boxes=masks.boxes(rles).tolist(), scores=list(c),
        box_scores=[b] * count, mask_scores=[m] * count, instance_scores=list(c), entropies=[0.1] * count,
        counts=[one["counts"] for one in rles], max_class_score=max(c, default=0.2), image_score=0.5,
    )  # fmt: skip


def squares_set(*images: Sequence[tuple[int, int, int]], folder: Path = Path("none")) -> ImageSet:
    """Images "0.png", "1.png", ... with squares (left, top, side) of the one class."""
    items = [
        Item(f"{index}.png", folder / f"{index}.png", tuple(Instance(1, rle(*one)) for one in squares))
        for index, squares in enumerate(images)
    ]
    return ImageSet(items, ["nucleus"])
