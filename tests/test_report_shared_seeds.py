"""A cell that is not finished tilts no mean of the report, and what is left out for it is said."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from scripts.reporting import plots
from scripts.reporting.labels_saved import labels_saved
from scripts.reporting.learning_curves import learning_curves
from scripts.reporting.lines import GridResults, read_results
from scripts.reporting.page import Figure
from scripts.reporting.plots import End, draw_learning_curve, name_ends, panels
from scripts.reporting.pseudo import pseudo
from scripts.reporting.shared_seeds import SharedSeeds
from scripts.reporting.times import times
from tests.grid_cells import context_of, row_of, said, table_of, write_cell


def shared(out: Path) -> SharedSeeds:
    grid = read_results(out)
    return SharedSeeds.of(grid, grid.strategies)


def drawn(grid: GridResults, seeds: SharedSeeds, name: str) -> tuple[list[float], str]:
    """The heights of a curve, and the colour inside its points."""
    _, (axes,) = panels(1)
    (line,) = [line for line in grid.lines if line.name == name]
    draw_learning_curve(axes, seeds, line, name, ("black", "o"))
    (curve,) = axes.lines
    return list(curve.get_ydata()), curve.get_markerfacecolor()


def leave_no_pseudo_labels(cell: Path, cycles: Sequence[int] = (1, 2, 3)) -> None:
    rows = [json.loads(line) for line in (cell / "results.jsonl").read_text().splitlines()]
    none = {"pseudo_images": 0, "pseudo_objects": 0, "pseudo_precision": None, "semi_gradient_share": None}
    changed = [row | none if row["cycle"] in cycles else row for row in rows]
    (cell / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))


# Which seeds


@pytest.fixture
def cut_short(tmp_path: Path) -> Path:
    """Random and TSP + SSL in two seeds, of which random has not finished the second; TSP is at its first cycle."""
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    write_cell(tmp_path, "random", 1, [0.8, 0.8], strategy="random")
    write_cell(tmp_path, "tsp", 0, [0.2])
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.5, 0.7])
    write_cell(tmp_path, "tsp + SSL", 1, [0.8, 0.9, 0.9])
    return tmp_path


def test_curves_are_over_the_seeds_that_all_have_finished(cut_short: Path) -> None:
    seeds = shared(cut_short)
    assert seeds.seeds == (0,)
    assert drawn(seeds.grid, seeds, "random") == ([0.2, 0.4, 0.6], "black")
    assert drawn(seeds.grid, seeds, "tsp + SSL")[0] == [0.2, 0.5, 0.7]
    assert drawn(seeds.grid, seeds, "tsp") == ([0.2], "white")


def test_what_curves_leave_out_is_said_in_a_line(cut_short: Path) -> None:
    (absent,) = shared(cut_short).left_out()
    assert absent.text == (
        "seed 1, not finished by random, TSP; TSP after cycle 1, not finished (hollow points). "
        "All means of this picture are over the same seeds."
    )
    section = learning_curves(context_of(cut_short))
    assert absent in section.parts
    assert "labelled images: seed 0." in next(part.caption for part in section.parts if isinstance(part, Figure))


def test_a_whole_grid_leaves_nothing_out_and_averages_all_seeds(tmp_path: Path) -> None:
    for seed, last in ((0, 0.3), (1, 0.5), (4, 0.7)):
        write_cell(tmp_path, "random", seed, [0.1, last], strategy="random")
    seeds = shared(tmp_path)
    assert seeds.left_out() == [] and seeds.note == ""
    assert seeds.in_words() == "mean over seeds 0, 1, 4"
    assert drawn(seeds.grid, seeds, "random")[0] == pytest.approx([0.1, 0.5])


def test_where_no_seed_is_finished_by_all_one_that_most_have_begun_is_shown(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 1, [0.2, 0.4, 0.6], strategy="random")
    write_cell(tmp_path, "tsp", 0, [0.2, 0.3, 0.5])
    write_cell(tmp_path, "tsp", 1, [0.3, 0.4])
    write_cell(tmp_path, "tsp + SSL", 0, [])
    seeds = shared(tmp_path)
    assert seeds.seeds == (1,)
    assert drawn(seeds.grid, seeds, "tsp") == ([0.3, 0.4], "white")
    assert seeds.left_out()[0].text.startswith(
        "seed 0, not finished by random, TSP + SSL; TSP + SSL, without a cycle of seed 1; TSP after cycle 2, not"
    )


def test_a_panel_without_a_curve_is_not_drawn(cut_short: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    write_cell(alone, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    write_cell(alone, "tsp + SSL", 1, [0.3])
    widths = []
    for out in (cut_short, alone):
        figure = next(part for part in learning_curves(context_of(out)).parts if isinstance(part, Figure))
        with Image.open(figure.path) as image:
            widths.append(image.width)
    assert widths[1] * 2 == widths[0]


# Tables


def test_means_of_tables_are_over_the_same_seeds_and_differences_paired(cut_short: Path) -> None:
    table = learning_curves(context_of(cut_short)).printed[0]
    # Areas of seed 0: 0.4 and (0.35 + 0.6) / 2; with seed 1 theirs would be 0.678.
    assert row_of(table, "random")[1:3] == ["1 of 2", "0.400"]
    assert row_of(table, "TSP + SSL")[1:4] == ["2", "0.475", "+0.075 (one pair)"]
    assert row_of(table, "TSP + SSL")[4:6] == ["0.500", "0.700"]
    assert table.caption.endswith("Means are over seed 0, so that all are over the same.")


def test_labels_are_counted_in_the_seeds_that_all_have(cut_short: Path) -> None:
    write_cell(cut_short, "full data", 0, [0.5], {"per_cycle": 100}, ssl=False)
    table = labels_saved(context_of(cut_short)).printed[0]
    assert "all 100 labels: 0.500 (1 of 2 seeds)" in table.caption
    # 80% are 0.4: after 20 labels of random, 10 + 10 * 2 / 3 of TSP + SSL; in seed 1 it begins above.
    assert row_of(table, "random (1 of 2 seeds)")[1] == "20"
    assert row_of(table, "TSP + SSL")[1:3] == ["17", "3; 13; $28; one seed, no interval"]
    assert row_of(table, "TSP (0 of 2 seeds)")[1] == "unfinished"


def test_a_difference_names_its_seeds_where_it_has_not_all(cut_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(plots, "draw_intervals", lambda axes, rows: named.extend(name for name, _, _ in rows))
    learning_curves(context_of(cut_short))
    assert named == ["TSP + SSL (1 of 2 seeds)"]


def test_times_are_of_the_seeds_that_all_have(cut_short: Path) -> None:
    path = cut_short / "tsp___SSL" / "seed1" / "results.jsonl"
    path.write_text(path.read_text().replace('"train": 60.0', '"train": 600.0').replace("80.0", "800.0"))
    table = table_of(times(context_of(cut_short)))
    assert table.caption.startswith("Seconds of a cycle, seed 0.")
    assert row_of(table, "TSP + SSL")[1:3] == ["2", "60.0"] and row_of(table, "TSP + SSL")[-2] == "1.00x"
    assert row_of(table, "TSP")[1:] == ["0", "-", "0", "-", "-", "-", "-"]


# Pseudo labels


def test_means_of_pseudo_labels_do_not_change_their_seeds_on_the_way(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.5, 0.7])
    leave_no_pseudo_labels(write_cell(tmp_path, "tsp + SSL", 1, [0.2, 0.5]))
    section = pseudo(context_of(tmp_path))
    every = [row for row in table_of(section, 1).rows if row[0].startswith("TSP")]
    place = list(table_of(section, 1).head).index("pseudo images")
    assert [(row[0], row[place]) for row in every] == [
        ("TSP + SSL (1 of 2 seeds)", "0"),
        ("TSP + SSL (1 of 2 seeds)", "20"),
        ("TSP + SSL (1 of 2 seeds)", "20"),
    ]
    assert "seed 1, not finished by random, TSP + SSL." in said(section)


def test_without_a_line_with_pseudo_labels_there_is_no_picture_of_them(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.4], strategy="random")
    context = context_of(tmp_path)
    section = pseudo(context)
    assert not any(isinstance(part, Figure) for part in section.parts)
    assert not (context.out / "pseudo_labels.png").exists()
    assert said(section) == (
        "the picture of pseudo labels by cycle; no cell with the common settings has pseudo labels."
    )
    assert list(table_of(section).head) == ["", "cycle", "picked images without an object"]


def test_where_nothing_has_passed_the_thresholds_there_is_no_picture_either(tmp_path: Path) -> None:
    leave_no_pseudo_labels(write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.4]))
    context = context_of(tmp_path)
    section = pseudo(context)
    assert not (context.out / "pseudo_labels.png").exists()
    assert "no image has passed the thresholds in seed 0 yet" in said(section)
    assert "SSL can change little or nothing" in said(section)


def test_a_cycle_without_pseudo_labels_is_a_gap_in_their_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_no_pseudo_labels(write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.3, 0.4, 0.5]), cycles=[3])
    given: list[tuple[list[float], list[float]]] = []

    def draw_points(axes: Axes, x: Sequence[float], y: Sequence[float], *_: object) -> None:
        given.append((list(x), list(y)))

    monkeypatch.setattr(plots, "draw_points", draw_points)
    pseudo(context_of(tmp_path))
    cycles, precision = given[0]
    assert cycles == [2, 3, 4]
    assert precision == pytest.approx([0.75, math.nan, 0.75], nan_ok=True)


# Names of curves


def arrows(ends: Sequence[End]) -> list[tuple[float, float]]:
    """The points that leaders go to."""
    canvas, (axes,) = panels(1)
    axes.set_xlim(0, 32)
    canvas.draw_without_rendering()
    name_ends(axes, ends, labels=30)
    return [text.xy for text in axes.texts if text.arrow_patch is not None]


def test_no_leader_crosses_a_panel_from_a_curve_that_ends_early() -> None:
    whole, point = End("random", ("black", "o"), (30, 0.5)), End("TSP", ("red", "s"), (10, 0.3))
    assert arrows([whole, point]) == [(30, 0.5)]
    assert arrows([point]) == []
