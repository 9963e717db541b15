"""How good is the estimate of the pool's AP50 (tsp_model.estimate)? In the cells of a grid the truth is known.

M_k predicts its pool, the images of cycle k + 1 are picked and labelled, and then M_k's AP50 on what remains can be
estimated. Estimate and truth are of the same detections of these images: those that ranking or pseudo labels look at,
which is what a cell keeps. The last cycle of a cell predicts no pool.

What it showed is why no live project is told: where TSP picks, what it picks is unlike the rest, and the interval holds
the truth far less often than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data_sets import load_sets
from scripts.reporting.runs import Run, read_runs
from scripts.stats import spearman
from scripts.table import markdown
from tsp_model.data.image_set import ImageSet
from tsp_model.estimate import LEAST_IMAGES, LEAST_OBJECTS, LEVEL, Checked, EstimateError, expected_ap, pool_ap50
from tsp_model.evaluation import average_precision, check
from tsp_model.predictions import Prediction, read_predictions


@dataclass(frozen=True)
class Known:
    """What is known of M_k when the images of cycle k + 1 are labelled.

    Attributes:
        pool: M_k's predictions of what remains. picks: M_k's of the images of cycle k + 1.
        before: the picks of each model before, the oldest first. pool_before: M_(k-1)'s of what remains, if k > 1.
        objects: of each class among the labelled images, [C].
        seed: the cell's.
    """

    pool: Sequence[Prediction]
    picks: Sequence[Checked]
    before: Sequence[Sequence[Checked]]
    pool_before: Sequence[Prediction]
    objects: np.ndarray
    seed: int


def calibrated(known: Known) -> dict[str, float]:
    """What tsp_model.estimate says."""
    return pool_ap50(known.pool, known.picks, known.objects, known.seed).to_dict()


def carried_over(known: Known) -> dict[str, float]:
    """What could be said as soon as M_k is trained: as if its scores meant what M_(k-1)'s did."""
    return pool_ap50(known.pool, known.before[-1] if known.before else [], known.objects, known.seed).to_dict()


def all_carried_over(known: Known) -> dict[str, float]:
    """The same, with the picks of all models before M_k."""
    picks = [one for of_model in known.before for one in of_model]
    return pool_ap50(known.pool, picks, known.objects, known.seed).to_dict()


def version_before(known: Known) -> dict[str, float]:
    """The other thing that could be said as soon as M_k is trained: the estimate of M_(k-1)."""
    return pool_ap50(known.pool_before, known.before[-1] if known.before else [], known.objects, known.seed).to_dict()


def on_the_picks(known: Known) -> dict[str, float]:
    """AP50 of M_k on the picks alone."""
    missed = np.bincount([label for one in known.picks for label in one.missed], minlength=len(known.objects) + 1)[1:]
    ap = _mean_ap([one.prediction for one in known.picks], [one.correct for one in known.picks], missed)
    return {"estimate": ap}


def naive(known: Known) -> dict[str, float]:
    """A detection is right with probability c * b * m, and nothing is missed."""
    scores = ([one.scores, one.box_scores, one.mask_scores] for one in known.pool)
    right = [np.prod(np.reshape(triplet, (3, -1)), axis=0) for triplet in scores]
    return {"estimate": _mean_ap(known.pool, right, np.zeros(len(known.objects)))}


def _mean_ap(predictions: Sequence[Prediction], right: Sequence[np.ndarray], missed: np.ndarray) -> float:
    """AP50 over the classes of which there is anything. missed: objects of each class that nothing found, [C]."""
    labels = np.concatenate([one.labels for one in predictions])
    order = np.argsort(-np.concatenate([one.scores for one in predictions]), kind="stable")
    labels, ordered = labels[order], np.concatenate(right)[order].astype(float)
    by_class = [ordered[labels == label] for label in range(1, len(missed) + 1)]
    counts = [found.sum() + lost for found, lost in zip(by_class, missed, strict=True)]
    values = [expected_ap(found, count) for found, count in zip(by_class, counts, strict=True) if count > 0]
    return float(np.mean(values)) if values else 0.0


TOO_LITTLE = f"fewer than {LEAST_IMAGES} images or {LEAST_OBJECTS} objects were labelled last, too little to learn from"
OURS, ON_THE_PICKS = "calibrated", "AP50 of the picks"
PICKS = {True: "random picks", False: "picks of a strategy"}  # by `by_chance` of a row
METHODS: dict[str, Callable[[Known], dict[str, float]]] = {
    OURS: calibrated,
    ON_THE_PICKS: on_the_picks,
    "naive: c x b x m": naive,
    "at once: the version before": version_before,
    "at once: its calibration": carried_over,
    "at once: all before": all_carried_over,
}


def estimate_rows(folder: Path, methods: Sequence[str] = (OURS,)) -> list[dict[str, Any]]:
    """The estimates of every cell and cycle of a grid that has one: see `rows_of_cell`.

    Raises:
        CommandError: see read_runs. DataError: the images are no longer there.
    """
    load = cache(load_sets)  # cells of a grid look at the same images
    rows: list[dict[str, Any]] = []
    for run in read_runs(folder):
        counts = (run.identity["train_images"], run.identity["test_images"])
        images, _ = load(run.identity["data"], *counts, folder, run.settings.image_size, seed=0)
        rows += rows_of_cell(run, images, methods)
    return rows


def rows_of_cell(run: Run, images: ImageSet, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The estimates of a cell, cycle by cycle, where there is enough to learn from.

    Args:
        run: the cell, as far as it is. images: the grid's pool. methods: of METHODS.

    Returns:
        Rows of cell (name and seed), seed, by_chance (whether the picks that M_k is judged by are), cycle (k), labels
        (that M_k was trained on), remains (which images, hashed), method, estimate, low, high (None where a method has
        no interval), truth (AP50 of the same detections) and test_ap50 (M_k's, of the test split).

    Raises:
        DataError: a cycle's predictions are not there, or are of images of another size.
    """
    # The last cycle predicts no pool, and what is still running has no row yet.
    predicted = [read_predictions(run.pool_predictions(k)) for k in range(1, len(run.rows))]
    checked = [
        [check(item, seen[item.key]) for item in images.subset(run.picked[str(k + 1)]).items]
        for k, seen in enumerate(predicted, start=1)
    ]
    for k, seen in enumerate(predicted, start=1):
        labelled = run.picked_until(k + 1)
        rest = images.subset([key for key in images.keys if key not in labelled])
        before = [predicted[k - 2][key] for key in rest.keys] if k > 1 else []
        objects = _objects(images.subset(sorted(labelled)))
        pool = [seen[key] for key in rest.keys]
        known = Known(pool, checked[k - 1], checked[: k - 1], before, objects, run.seed)
        truth = average_precision(rest, {one.key: one for one in pool})["mask_ap50"]
        if truth is None:  # a pool without an object has no AP50
            continue
        for method in methods:
            try:
                estimate = METHODS[method](known)
            except EstimateError:
                continue
            yield {
                "cell": f"{run.name}, seed {run.seed}",
                "seed": run.seed,
                "by_chance": run.settings.strategy_at(run.labels[k - 1]) == "random",
                "cycle": k,
                "labels": run.labels[k - 1],
                "remains": blake2b("\n".join(rest.keys).encode(), digest_size=8).hexdigest(),
                "method": method,
                **{"low": None, "high": None} | estimate,
                "truth": truth,
                "test_ap50": run.ap50[k - 1],
            }


def _objects(images: ImageSet) -> np.ndarray:
    """How many instances of each class there are, int64 [C]."""
    labels = [instance.label for item in images.items for instance in item.instances]
    return np.bincount(np.array(labels, dtype=int), minlength=len(images.classes) + 1)[1:]


def once(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows without copies: cells that begin with the same model and pick the same share a pool."""
    told = ("seed", "cycle", "remains", "method", "estimate", "low", "high", "truth")
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(tuple(row[name] for name in told), row)
    return list(first.values())


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By method, each pool once: pools, mean absolute error, bias (estimate - truth), rank correlation over a cell's
    cycles (Spearman, mean of all cells), share of truths inside the interval and its mean width (None without one)."""
    return [_judged(method, [row for row in rows if row["method"] == method]) for method in _in_order(rows, "method")]


def _judged(method: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    pools = once(rows)
    errors = np.array([row["estimate"] - row["truth"] for row in pools])
    ranged = [row for row in pools if row["low"] is not None]
    cells = [[row for row in rows if row["cell"] == cell] for cell in _in_order(rows, "cell")]
    order = [_spearman([row["estimate"] for row in cell], [row["truth"] for row in cell]) for cell in cells]
    order = [value for value in order if value is not None]
    return {
        "method": method,
        "pools": len(pools),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "rank_correlation": float(np.mean(order)) if order else None,
        "coverage": float(np.mean([row["low"] <= row["truth"] <= row["high"] for row in ranged])) if ranged else None,
        "width": float(np.mean([row["high"] - row["low"] for row in ranged])) if ranged else None,
        "test_mean_absolute_error": float(np.mean([abs(row["estimate"] - row["test_ap50"]) for row in pools])),
    }


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three values, or where one of them never changes."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return spearman(np.array(first), np.array(second))


def _in_order(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def by_picks(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """`summary` of the pools whose models are judged by random picks, and of those by a strategy's."""
    chosen = {name: [row for row in rows if row["by_chance"] is kind] for kind, name in PICKS.items()}
    return {name: summary(of_kind) for name, of_kind in chosen.items() if of_kind}


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two Markdown tables: the calibrated estimate by cell and cycle, and all methods by how the labels were picked,
    each pool once; and what has no estimate."""
    titles = ["cell", "cycle", "labels", "estimate", f"{LEVEL:.0%} interval", "truth", "error", "inside", "test AP50"]
    cells = [titles]
    for row in (row for row in rows if row["method"] == OURS):
        inside = "yes" if row["low"] <= row["truth"] <= row["high"] else "no"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        error = f"{row['estimate'] - row['truth']:+.3f}"
        known = [row["cell"], str(row["cycle"]), str(row["labels"]), f"{row['estimate']:.3f}", interval]
        cells.append([*known, f"{row['truth']:.3f}", error, inside, f"{row['test_ap50']:.3f}"])
    head = ["method", "pools", "mean error", "bias", "rank correlation", "coverage", "width", "mean error to test"]
    judged = [["picks", *head]]
    forms = ("{}", "{}", "{:.3f}", "{:+.3f}", "{:.2f}", "{:.0%}", "{:.3f}", "{:.3f}")
    left_out = pools = 0
    for kind, methods in by_picks(rows).items():
        counts = {line["method"]: line["pools"] for line in methods}
        there = max(counts.values())
        pools, left_out = pools + there, left_out + there - counts.get(OURS, 0)
        for line in methods:
            values = zip(forms, line.values(), strict=True)
            judged.append([kind, *("-" if value is None else form.format(value) for form, value in values)])
    missing = f"\n\n{left_out} of {pools} pools have no estimate: {TOO_LITTLE}." if left_out else ""
    return f"{markdown(cells)}\n\n{markdown(judged)}{missing}"
