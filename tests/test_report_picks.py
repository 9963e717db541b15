"""The report's section on what is picked: features made by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from scripts.reporting.picks import Pool, nearest_by_rank, picks
from scripts.results import write_rows
from tests.grid_cells import POOL, context_of, found_squares, row_of, said, table_of, write_cell
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import write_predictions


def test_what_is_to_be_expected_by_chance_is_the_mean_over_all_draws() -> None:
    points = {"a": 0.0, "b": 1.0, "c": 3.0, "d": 3.5, "e": 9.0}
    for count in (2, 3, 5):
        nearest = [
            min(abs(points[one] - points[other]) for other in drawn if other != one)
            for drawn in itertools.combinations(points, count)
            for one in drawn
        ]
        pool = Pool.of({name: np.array([value]) for name, value in points.items()}, count)
        assert pool.by_chance == pytest.approx(np.mean(nearest))
    assert pool.alone == pytest.approx((1 + 1 + 0.5 + 0.5 + 5.5) / 5)
    assert nearest_by_rank(5, 3).sum() == pytest.approx(1)


def test_near_duplicates_are_near_and_odd_images_are_alone() -> None:
    pool = Pool(
        {name: np.array([value]) for name, value in {"a": 0.0, "b": 1.0, "c": 10.0, "d": 30.0}.items()}, 4.0, 8.0
    )
    # to the next pick: 1 and 1 of 8; to the next image: 9 and 20 of 4
    assert pool.to_the_next_pick(["a", "b"]) == pytest.approx(1 / 8)
    assert pool.to_the_next_image(["c", "d"]) == pytest.approx(14.5 / 4)


def write_features(cell: Path, places: Sequence[float]) -> None:
    """M_1's predictions of the pool, images 10, 11, ... at these places."""
    told = [found_squares(f"{number}.png", [(8, 8, 20)], [0.9], 0.9, 0.9) for number in range(10, POOL)]
    told = [dataclasses.replace(one, signals={"features": [at]}) for one, at in zip(told, places, strict=True)]
    (cell / "M1").mkdir()
    write_predictions(cell / "M1" / PREDICTIONS, told)


@pytest.mark.parametrize("strategy", ["core_set", "tsp_diverse"])
def test_every_strategy_is_measured_with_the_same_features(tmp_path: Path, strategy: str) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])  # picks images 10 to 19
    cell = write_cell(tmp_path, strategy, 0, [0.2, 0.4], strategy=strategy)
    # the picks 10 apart, all others 1 apart from each other
    places = [1000 + 10 * place for place in range(10)] + list(range(80))
    write_features(cell, places)
    section = picks(context_of(tmp_path))
    (table,) = section.printed  # there is no random cell
    row = row_of(table, "TSP")
    assert row[1:] == row_of(table, {"core_set": "core-set", "tsp_diverse": "diverse TSP"}[strategy])[1:]
    # 90 images, 10 of them 10 from the next and 80 of them 1: 2 on average; two objects an image
    assert row[1] == "1" and row[3:] == ["5.00", "2.0"]
    by_chance = Pool.of({str(place): np.array([float(place)]) for place in places}, 10).by_chance
    assert row[2] == f"{10 / by_chance:.2f}"


def test_what_chance_picks_before_a_strategy_is_not_its_own(tmp_path: Path) -> None:
    late = write_cell(tmp_path, "tsp", 0, [0.2, 0.3, 0.4], random_labels=20)  # its own are images 20 to 29
    rows = [json.loads(line) for line in (late / "results.jsonl").read_text().splitlines()]
    write_rows(
        late / "results.jsonl", [row | {"objects": count} for row, count in zip(rows, (9, 99, 129), strict=True)]
    )
    cell = write_cell(tmp_path, "core_set", 0, [0.2, 0.3, 0.4], strategy="core_set", random_labels=20)
    write_features(cell, [1000 + 10 * place for place in range(10)] + list(range(80)))
    (table,) = picks(context_of(tmp_path)).printed
    # 90 images, the ten that chance picked 10 from the next, all others 1: 2 on average.
    assert row_of(table, "TSP")[3:] == ["0.50", "3.0"]
    assert row_of(table, "core-set")[3:] == ["0.50", "2.0"]


def test_what_an_object_brings_is_compared_at_as_many_objects(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.5], strategy="random")  # 20, 40, 60 objects
    fewer = write_cell(tmp_path, "tsp", 0, [0.2, 0.3, 0.45])
    rows = [json.loads(line) for line in (fewer / "results.jsonl").read_text().splitlines()]
    rows = [row | {"objects": count} for row, count in zip(rows, (20, 30, 50), strict=True)]
    write_rows(fewer / "results.jsonl", rows)
    table = table_of(picks(context_of(tmp_path)))
    # by images: (0 - 0.1) / 2 and (-0.1 - 0.05) / 2, the mean; by objects: 0.3 is what random has at 30, at 40 it is
    # 0.025 behind (0.375, 0.4), at 50 level (0.45, 0.45): over 10, 10, 10 objects 0, -0.0125 and -0.0125
    assert row_of(table, "TSP") == ["TSP", "1", "50", "-0.062 (one pair)", "-0.008 (one pair)"]
    assert row_of(table, "random") == ["random", "1", "60", "-", "-"]


def test_where_there_are_no_features_it_is_said(tmp_path: Path) -> None:
    write_cell(one_a_cycle := tmp_path / "one", "tsp", 0, [0.2, 0.4], {"per_cycle": 1})
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])
    assert "a cycle picks one image" in said(picks(context_of(one_a_cycle)))
    assert "they need a cell of core_set or tsp_diverse" in said(picks(context_of(tmp_path)))
    write_cell(tmp_path, "core_set", 0, [0.2, 0.4], strategy="core_set")
    assert "score the pool first" in said(picks(context_of(tmp_path)))
