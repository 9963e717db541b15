"""The report's times: medians of cycles that nothing interrupted, by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from scripts.reporting.times import interrupted, times
from tests.grid_cells import POOL, context_of, row_of, said, table_of, write_cell


def write_seconds(cell: Path, *of_cycles: Sequence[float]) -> None:
    """Training, scoring, evaluating and the whole cycle, cycle by cycle."""
    rows = [json.loads(line) for line in (cell / "results.jsonl").read_text().splitlines()]
    for row, seconds in zip(rows, of_cycles, strict=True):
        row["seconds"] = dict(zip(("train", "score", "evaluate", "cycle"), seconds, strict=True))
    (cell / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_times_are_medians_of_the_cycles_after_the_first(tmp_path: Path) -> None:
    random = write_cell(tmp_path, "random", 0, [0.2, 0.3, 0.4, 0.5], strategy="random")
    ours = write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.3, 0.4, 0.5])
    write_cell(tmp_path, "full data", 0, [0.85], {"per_cycle": POOL}, ssl=False)
    first = [6177, 30, 10, 218]  # trained by another cell
    write_seconds(random, first, [40, 8, 10, 60], [50, 9, 11, 80], [90, 0, 18, 110])
    # The third cycle took 70 s itself, of which 28 for the rest: 900 s of training are of an earlier process, too.
    write_seconds(ours, first, [60, 12, 16, 95], [900, 20, 8, 70], [80, 0, 12, 100])
    section = times(context_of(tmp_path))
    table = table_of(section)
    assert table.caption.startswith("Seconds of a cycle, seed 0.")
    # In hours 6177 + 40 + 50 + 90 and 60 seconds; the run that was interrupted has none.
    assert row_of(table, "random") == ["random", "3", "50.0", "0", "8.5", "11.0", "1.00x", "1.77"]
    assert row_of(table, "TSP + SSL") == ["TSP + SSL", "3", "70.0", "1", "16.0", "12.0", "1.40x", "-"]
    assert row_of(table, "all labels at once") == ["all labels at once", "1", "60.0", "0", "-", "10.0", "-", "0.02"]
    assert "left out of the training" in said(section) and "not to be compared closely" in said(section)


def test_a_median_is_over_the_cycles_of_all_seeds_and_a_ratio_within_one(tmp_path: Path) -> None:
    for name, trains in (("random", ((20, 30), (40, 70))), ("tsp", ((40, 60), (50, 60)))):
        for seed, train in enumerate(trains):
            cell = write_cell(tmp_path, name, seed, [0.2, 0.3, 0.4], strategy=name)
            write_seconds(cell, [500, 5, 5, 510], [train[0], 5, 5, 90], [train[1], 0, 5, 90])
    table = table_of(times(context_of(tmp_path)))
    assert "median over seeds 0, 1" in table.caption
    # 500 + 20 + 30 and 500 + 40 + 70 seconds of a run, 580 in the mean; 600 and 610, 605.
    assert row_of(table, "random") == ["random", "4", "35.0", "0", "5.0", "5.0", "1.00x, 1.00x", "0.16"]
    # 50 to 25 and 55 to 55; all medians together would say 55 to 35.
    assert row_of(table, "TSP") == ["TSP", "4", "55.0", "0", "5.0", "5.0", "2.00x, 1.00x", "0.17"]


def test_a_seed_with_half_of_its_cycles_interrupted_has_neither_ratio_nor_hours(tmp_path: Path) -> None:
    for name, second in (("random", 60), ("tsp", 900)):
        for seed, train in enumerate((60, second)):
            cell = write_cell(tmp_path, name, seed, [0.2, 0.3, 0.4], strategy=name)
            write_seconds(cell, [540, 5, 5, 550], [30, 5, 5, 40], [train, 0, 5, 80])
    table = table_of(times(context_of(tmp_path)))
    # The median of what is left of seed 1 would be 30 to 45. Hours: 540 + 30 + 60 seconds.
    assert row_of(table, "TSP")[-2:] == ["1.00x, -", "0.17"]
    assert row_of(table, "random")[-2:] == ["1.00x, 1.00x", "0.17"]


def test_where_every_cycle_was_interrupted_no_time_of_training_is_told(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "random", 0, [0.2, 0.3], strategy="random")
    write_seconds(cell, [60, 5, 5, 80], [81, 0, 5, 80])
    table = table_of(times(context_of(tmp_path)))
    assert row_of(table, "random") == ["random", "1", "-", "1", "-", "5.0", "-", "-"]


def test_rounding_to_hundredths_interrupts_no_cycle() -> None:
    assert not interrupted({"train": 1.11, "score": 1.11, "evaluate": 1.11, "cycle": 3.32})
    assert interrupted({"train": 1.11, "score": 1.11, "evaluate": 1.11, "cycle": 3.3})
