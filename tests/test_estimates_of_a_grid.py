"""scripts.benchmark estimate: estimates beside the truth, in cells whose predictions are made by hand."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from scripts import benchmark
from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.grid.cell import IDENTITY, PICKED, RESULTS
from scripts.reporting.estimates import METHODS, OURS, by_picks, estimate_rows, summary, tables
from scripts.reporting.runs import NEEDED, SECONDS
from scripts.results import write_rows
from tests.builders import truth_told
from tsp_model.files import write_json
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import write_predictions

COUNTS = (40, 2)
SIZE = 64


def write_cell(grid: Path, name: str, found_by_first: bool, **settings: int) -> Path:
    """Three cycles of eight images; M_2 finds everything, M_1 everything or nothing."""
    images, _ = load_sets("synthetic", *COUNTS, grid, SIZE, seed=0)
    cell = grid / name / "seed4"
    identity = {
        "data": "synthetic",
        "train_images": 40,
        "test_images": 2,
        "per_cycle": 8,
        "image_size": SIZE,
        "seed": 4,
    }
    known = identity | settings | {"strategy": name, "ssl": False}
    write_json(cell / IDENTITY, known)
    picked = {str(k): images.keys[8 * k - 8 : 8 * k] for k in (1, 2, 3)}
    write_json(cell / PICKED, picked)
    told = truth_told(images, SIZE)
    for k in (1, 2):
        pool = [told[key].above(0.3) for key in images.keys[8 * k :]]
        if k == 1 and not found_by_first:
            pool = [one.keep([]) for one in pool]
        write_predictions(cell / f"M{k}" / PREDICTIONS, [dataclasses.replace(one, kept_above=0.3) for one in pool])
    same = dict.fromkeys(NEEDED) | known | {"cell": name, "seconds": dict.fromkeys(SECONDS, 1.0)}
    rows = [same | {"cycle": k, "labels": 8 * k, "mask_ap50": 0.25 * k} for k in (1, 2, 3)]
    write_rows(cell / RESULTS, rows)
    return cell


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    write_cell(folder, "tsp", found_by_first=False)
    write_cell(folder, "random", found_by_first=True)
    return folder


def test_each_cycle_with_a_pool_has_its_estimate_and_truth(grid: Path) -> None:
    rows = estimate_rows(grid)
    assert [(row["cell"], row["cycle"], row["labels"]) for row in rows] == [
        ("random, seed 4", 1, 8),
        ("random, seed 4", 2, 16),
        ("tsp, seed 4", 1, 8),
        ("tsp, seed 4", 2, 16),
    ]
    assert [row["truth"] for row in rows] == [1.0, 1.0, 0.0, 1.0]
    assert [row["test_ap50"] for row in rows] == [0.25, 0.5, 0.25, 0.5]
    for row in rows:
        assert row["low"] <= row["estimate"] <= row["high"]
        assert row["estimate"] == pytest.approx(row["truth"], abs=0.2)


def test_what_could_be_said_at_once_knows_the_version_before_only(grid: Path) -> None:
    found = {(row["cell"][:3], row["cycle"]): row for row in estimate_rows(grid, ["at once: the version before"])}
    assert set(found) == {("ran", 2), ("tsp", 2)}, "nothing comes before the first"
    assert found["ran", 2]["estimate"] > 0.8
    assert found["tsp", 2]["estimate"] == 0.0
    assert found["tsp", 2]["truth"] == 1.0


def test_the_picks_alone_and_the_naive_way(grid: Path) -> None:
    rows = estimate_rows(grid, ["AP50 of the picks", "naive: c x b x m"])
    picks = [row["estimate"] for row in rows if row["method"] == "AP50 of the picks"]
    naive = [row["estimate"] for row in rows if row["method"] != "AP50 of the picks"]
    assert picks == [1.0, 1.0, 0.0, 1.0]
    # Every detection has the same score: right with 0.9 ** 3 at each recall.
    assert naive == pytest.approx([0.9**3, 0.9**3, 0.0, 0.9**3])


def test_a_cell_that_still_runs_gives_what_it_has(grid: Path, tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "tsp", found_by_first=True)
    rows = [json.loads(line) for line in (cell / RESULTS).read_text().splitlines()]
    write_rows(cell / RESULTS, rows[:2])
    assert [row["cycle"] for row in estimate_rows(tmp_path)] == [1]
    (cell / RESULTS).unlink()
    assert estimate_rows(tmp_path) == []


def test_methods_are_judged() -> None:
    def row(cell: str, cycle: int, estimate: float, truth: float) -> dict:
        known = {"cell": cell, "cycle": cycle, "labels": 8, "method": OURS, "test_ap50": 0.5}
        known |= {"seed": 0, "by_chance": False, "remains": cell}
        return known | {"estimate": estimate, "low": estimate - 0.15, "high": estimate + 0.15, "truth": truth}

    rows = [row("a", 1, 0.1, 0.2), row("a", 2, 0.4, 0.3), row("a", 3, 0.6, 0.4), row("b", 1, 0.5, 0.5)]
    (judged,) = summary(rows)
    assert judged["pools"] == 4
    assert judged["mean_absolute_error"] == pytest.approx(0.1)
    assert judged["bias"] == pytest.approx(0.05)
    assert judged["rank_correlation"] == pytest.approx(1.0)
    assert judged["coverage"] == pytest.approx(0.75)
    assert judged["width"] == pytest.approx(0.3)
    assert judged["test_mean_absolute_error"] == pytest.approx((0.4 + 0.1 + 0.1 + 0.0) / 4)
    errors = [line.split("|")[7].strip() for line in tables(rows).splitlines()[2:6]]
    assert errors == ["-0.100", "+0.100", "+0.200", "+0.000"]
    assert "no estimate" not in tables(rows)
    without_ours = rows + [one | {"method": "naive"} for one in rows] + [row("b", 2, 0.5, 0.5) | {"method": "naive"}]
    assert "1 of 5 pools have no estimate: fewer than" in tables(without_ours)


def test_the_command_writes_all_methods(grid: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "estimates.json"
    monkeypatch.setattr(sys, "argv", ["benchmark", "estimate", str(grid), "--out", str(out)])
    benchmark.main()
    printed = capsys.readouterr().out
    written = json.loads(out.read_text())
    for kind in ("random picks", "picks of a strategy"):
        pools = {line["method"]: line["pools"] for line in written["summary"][kind]}
        # what could be said at once begins with the second model
        assert pools == {method: 1 if method.startswith("at once") else 2 for method in METHODS}
    assert len(written["pools"]) == 3 * 4 + 3 * 2
    assert all(name in printed for name in METHODS)


def test_a_pool_that_cells_share_is_judged_once(tmp_path: Path) -> None:
    for name in ("random", "tsp", "entropy"):
        write_cell(tmp_path, name, found_by_first=name != "entropy")
    # M_1 is not the same in both strategies' cells, M_2 is.
    pools = {kind: [line["pools"] for line in lines] for kind, lines in by_picks(estimate_rows(tmp_path)).items()}
    assert pools == {"random picks": [2], "picks of a strategy": [3]}


def test_what_chance_picked_before_a_strategy_is_judged_as_chance(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", found_by_first=True, random_labels=16)
    assert [(row["labels"], row["by_chance"]) for row in estimate_rows(tmp_path)] == [(8, True), (16, False)]


def test_a_folder_without_cells_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no cells"):
        estimate_rows(tmp_path)


def test_a_grid_without_a_pool_to_estimate_is_one_line(tmp_path: Path, monkeypatch) -> None:
    cell = write_cell(tmp_path, "tsp", found_by_first=True)
    write_rows(cell / RESULTS, [json.loads(line) for line in (cell / RESULTS).read_text().splitlines()][:1])
    monkeypatch.setattr(sys, "argv", ["benchmark", "estimate", str(tmp_path)])
    with pytest.raises(CommandError, match="no cell with two finished cycles yet"):
        benchmark.main()
