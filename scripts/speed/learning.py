"""Does a network learn as much the quick way? `python -m scripts.benchmark learning`.

The same network is trained from the same initial weights on the same images in the same order, once in float32 with
torchvision's RoIAlign and once as the package trains on this machine, and both are evaluated in float32. Rounding alone
sends two trainings apart, so single differences say little: seeds are many, and differences are paired by seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from scripts.speed.agreement import Case, predictions, train_from_nothing
from scripts.table import markdown
from tsp_model import checkpoints
from tsp_model.evaluation import average_precision
from tsp_model.execution import Execution, default_device
from tsp_model.settings import Settings

REFERENCE, QUICK = "float32", "quick"
KINDS = ("mask_ap50", "box_ap50")


def compare_learning(case: Case, seeds: Sequence[int]) -> dict[str, Any]:
    """AP50 of both for each seed; trained networks are kept, and what is there is not trained again."""
    labelled, _, test = case.splits()
    device = default_device()
    rows = []
    for seed in seeds:
        row: dict[str, Any] = {"seed": seed}
        for kind in (REFERENCE, QUICK):
            version = case.version(f"seed{seed}", kind)
            train_from_nothing(version, labelled, case, seed, Execution(device=device) if kind == REFERENCE else None)
            model, card = checkpoints.load(version, Execution(device=device))
            settings = Settings.from_dict(card["settings"])
            found = predictions(model, test, settings, f"{version.name}: test split")
            quality = average_precision(test, found)
            row[kind] = {name: quality[name] for name in KINDS} | {"train_seconds": card["train_seconds"]}
        rows.append(row)
    return {"case": str(case), "rows": rows}


def differences(rows: Sequence[dict[str, Any]], kind: str) -> list[float]:
    """AP50 of the quick way less that of float32, seed by seed."""
    return [row[QUICK][kind] - row[REFERENCE][kind] for row in rows]


def table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table a data set: the seeds, then mean and standard deviation."""
    parts = []
    for result in results:
        rows = result["rows"]
        cells = [["seed", "mask AP50 float32", "quick", "box AP50 float32", "quick", "times as fast"]]
        for row in rows:
            seconds = [row[kind]["train_seconds"] for kind in (REFERENCE, QUICK)]
            values = [f"{row[way][kind]:.3f}" for kind in KINDS for way in (REFERENCE, QUICK)]
            cells.append([str(row["seed"]), *values, f"{seconds[0] / seconds[1]:.2f}"])
        said = ", ".join(f"{kind} {_spread(differences(rows, kind))}" for kind in KINDS)
        noise = ", ".join(f"{kind} {_deviation([row[REFERENCE][kind] for row in rows])}" for kind in KINDS)
        parts.append(
            f"{result['case']}\n\n{markdown(cells)}\n\nquick less float32: {said}; float32 over the seeds: {noise}"
        )
    return "\n\n".join(parts)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):+.3f} {_deviation(values)}"


def _deviation(values: Sequence[float]) -> str:
    return f"± {statistics.stdev(values):.3f}" if len(values) > 1 else "(one seed)"
