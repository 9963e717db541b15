"""The report of a grid: every number worked out by hand, and what is missing said."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import report as report_module
from scripts.reporting.ablations import ablations
from scripts.reporting.conditions import conditions
from scripts.reporting.curves import overtaking, reached
from scripts.reporting.labels_saved import labels_saved
from scripts.reporting.learning_curves import learning_curves
from scripts.reporting.lines import read_results
from scripts.reporting.page import Figure, Section
from tests.grid_cells import POOL, context_of, row_of, said, table_of, write_cell, write_grid

# Labels, images, minutes and money


def test_labels_and_savings_of_a_grid_by_hand(tmp_path: Path) -> None:
    grid = read_results(write_grid(tmp_path))
    assert grid.ceiling_ap50 == pytest.approx(0.8)
    # AP50 0.64: TSP + SSL after 10 + 10 * 0.44 / 0.5 = 18.8 and 10 + 10 * 0.34 / 0.4 = 18.5 labels; random never in
    # seed 0, where all its 30 count, and after 27 in seed 1.
    found = reached(grid, grid.method, 0.64)
    assert (found.labels.mean, found.by_all, found.bound) == (pytest.approx(18.65), True, "≥")
    assert found.saved.mean == pytest.approx(((30 - 18.8) + (27 - 18.5)) / 2)
    against_itself = reached(grid, grid.random, 0.64)
    assert (against_itself.labels.count, against_itself.tried, against_itself.by_all) == (1, 2, False)
    # Random's last: 0.6 after 18 labels, 0.7 after 20, of 30.
    at_last = overtaking(grid, grid.method, grid.random)
    assert at_last.labels.mean == pytest.approx(19)
    assert at_last.share.mean == pytest.approx((18 / 30 + 20 / 30) / 2)


def test_the_managers_table_has_labels_images_minutes_and_dollars(tmp_path: Path) -> None:
    section = labels_saved(context_of(write_grid(tmp_path)))
    (table,) = section.printed
    assert list(table.head[:2]) == ["strategy", "labels to 80% (0.640)"]
    ours = row_of(table, "TSP + SSL")
    # 11.2 and 8.5 images saved, 9.85 in the mean: 39.4 minutes, 83.725 dollars. Half of the interval, with Student's t
    # of one degree: 12.7062 * 1.35 = 17.153 images.
    assert ours[1:3] == ["19 ± 0", "≥ 10 (-7 to 27); ≥ 39 (-29 to 108); ≥ $84 (-$62 to $230); not clear of zero"]
    assert ours[-2:] == ["19 ± 1", "63%"]
    # 0.72: 10 * 0.02 / 0.05 after 20 labels and 10 * 0.02 / 0.12, where random never is: 6 and 25 / 3.
    assert ours[3:5] == ["23 ± 2", "≥ 7 (-8 to 22); ≥ 29 (-31 to 88); ≥ $61 (-$65 to $187); not clear of zero"]
    # 0.76: out of reach in one of the seeds.
    assert ours[5:7] == ["25 (1 of 2)", "-"]
    assert row_of(table, "random")[1:3] == ["27 (1 of 2)", "-"]
    dearer = labels_saved(context_of(tmp_path, minutes_per_image=10, cost_per_image=2))
    assert row_of(dearer.printed[0], "TSP + SSL")[2] == (
        "≥ 10 (-7 to 27); ≥ 98 (-73 to 270); ≥ $20 (-$15 to $54); not clear of zero"
    )
    words = said(section)
    assert "TSP + SSL reaches random's final AP50 with 19 of 30 labels (63%) in 2 seeds." in words
    assert (
        "against random that saves at least 7 (-8 to 22) images, 29 (-31 to 88) minutes and $61 (-$65 to $187) "
        "(95% intervals over 2 seeds, not clear of zero)."
    ) in words


def test_savings_that_are_clear_of_zero_and_labels_that_the_method_costs(tmp_path: Path) -> None:
    write_cell(tmp_path, "full data", 0, [0.5], {"per_cycle": POOL}, ssl=False)
    # 90% are 0.45. Random reaches it after 20 and 15 labels, TSP + SSL after 24 and 19.1, TSP after 16 and 11.1.
    write_cell(tmp_path, "random", 0, [0.2, 0.45, 0.5], strategy="random")
    write_cell(tmp_path, "random", 1, [0.4, 0.5, 0.5], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.41, 0.51])
    write_cell(tmp_path, "tsp + SSL", 1, [0.359, 0.459, 0.5])
    write_cell(tmp_path, "tsp", 0, [0.39, 0.49, 0.5])
    write_cell(tmp_path, "tsp", 1, [0.439, 0.539, 0.6])
    section = labels_saved(context_of(tmp_path))
    table = section.printed[0]
    # 4 and 3.9 images saved: 3.95, half of the interval 12.7062 * 0.05 = 0.635; -4 and -4.1 the other way.
    assert row_of(table, "TSP")[4] == "4 (3 to 5); 16 (13 to 18); $34 ($28 to $39)"
    assert row_of(table, "TSP + SSL")[4] == "-4 (-5 to -3); -16 (-19 to -14); -$34 (-$40 to -$29)"
    assert (
        "with 22 labels; against random that costs 4 (3 to 5) images, 16 (14 to 19) minutes and $34 ($29 to $40) "
        "(95% intervals over 2 seeds, clear of zero)."
    ) in said(section)


def test_who_never_gets_there_is_counted_with_all_its_labels_whoever_it_is(tmp_path: Path) -> None:
    write_cell(tmp_path, "full data", 0, [0.5], {"per_cycle": POOL}, ssl=False)
    # 80%, 90% and 95% are 0.4, 0.45 and 0.475. Random reaches them after 20, 25 and, in seed 0 alone, 27.5 labels.
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.5], strategy="random")
    write_cell(tmp_path, "random", 1, [0.2, 0.4, 0.45], strategy="random")
    # TSP + SSL reaches 0.45 in neither seed: 30 - 25 and 30 - 30 labels more, at least; who needs 30 loses nothing yet.
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.3, 0.4])
    write_cell(tmp_path, "tsp + SSL", 1, [0.2, 0.3, 0.4])
    # TSP reaches 0.475 in the seed in which random does not, and does not in that in which random does.
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4, 0.46])
    write_cell(tmp_path, "tsp", 1, [0.2, 0.4, 0.55])
    section = labels_saved(context_of(tmp_path))
    table = section.printed[0]
    # 5 and 0 labels: 2.5, half of the interval 12.7062 * 2.5 = 31.8
    lost = row_of(table, "TSP + SSL")
    assert lost[1:3] == ["30 ± 0", "-10 (-10 to -10); -40 (-40 to -40); -$85 (-$85 to -$85)"]
    assert lost[3:5] == [
        "not reached",
        "≤ -2 (-34 to 29); ≤ -10 (-137 to 117); ≤ -$21 (-$291 to $249); not clear of zero",
    ]
    assert lost[5:7] == ["not reached", "-"], "in seed 1 neither gets there"
    assert row_of(table, "TSP")[5:7] == ["25 (1 of 2)", "-"], "in each seed another one gets there"
    assert (
        "TSP + SSL does not reach 90% of the full-data AP50 in 2 seeds; against random that costs at least 2 (-29 to "
        "34) images"
    ) in said(section)


def test_a_bound_on_the_wrong_side_of_zero_says_nothing_of_which_is_better(tmp_path: Path) -> None:
    write_cell(tmp_path, "full data", 0, [0.5], {"per_cycle": POOL}, ssl=False)
    # 0.45 after 10 labels by chance and never; after 15 and 25 by TSP + SSL.
    write_cell(tmp_path, "random", 0, [0.45, 0.5, 0.5], strategy="random")
    write_cell(tmp_path, "random", 1, [0.2, 0.3, 0.4], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.4, 0.5, 0.5])
    write_cell(tmp_path, "tsp + SSL", 1, [0.2, 0.4, 0.5])
    # Random's 10 and at least 30 less 15 and 25: -5 and 5 at least; in the mean 0, half of the interval 63.5.
    table = labels_saved(context_of(tmp_path)).printed[0]
    assert row_of(table, "TSP + SSL")[4].startswith("≥ 0 (-64 to 64); ") and "leaves open" not in str(table.rows)
    write_cell(tmp_path, "learning_loss", 0, [0.2, 0.3, 0.45], strategy="learning_loss")  # 30
    write_cell(tmp_path, "learning_loss", 1, [0.2, 0.3, 0.45], strategy="learning_loss")
    # 10 - 30 and at least 30 - 30: -10 in the mean, but random may need any number in seed 1.
    table = labels_saved(context_of(tmp_path)).printed[0]
    assert row_of(table, "learning loss")[4].endswith("; a bound that leaves open which is better")


def test_sentences_are_of_the_seeds_of_the_table_and_one_has_no_interval(tmp_path: Path) -> None:
    write_cell(tmp_path, "full data", 0, [0.5], {"per_cycle": POOL}, ssl=False)
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.5], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.25, 0.5, 0.6])
    write_cell(tmp_path, "tsp + SSL", 1, [0.6, 0.7, 0.8])
    section = labels_saved(context_of(tmp_path))
    # 90% are 0.45: after 25 labels of random and 18 of TSP + SSL, whose seed 1 random has not.
    assert row_of(section.printed[0], "TSP + SSL")[3:5] == ["18", "7; 28; $60; one seed, no interval"]
    words = said(section)
    assert (
        "with 18 labels; against random that saves 7 images, 28 minutes and $60 "
        "(one seed, so that nothing is said about chance)."
    ) in words
    assert "reaches random's final AP50 with 20 of 30 labels (67%) in 1 seed." in words
    assert "stands at an AP50 of 0.600;" in words


def test_without_full_data_or_random_the_rest_is_there_and_it_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.7, 0.75])
    section = labels_saved(context_of(tmp_path))
    assert section.printed == []
    assert "full_data = true" in said(section) and "no random cells" in said(section)
    assert "no random cells" in said(learning_curves(context_of(tmp_path)))


def test_where_nothing_was_learned_nothing_is_reached(tmp_path: Path) -> None:
    write_cell(tmp_path, "full data", 0, [0.0], {"per_cycle": POOL}, ssl=False)
    write_cell(tmp_path, "random", 0, [0.0, 0.0], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.0, 0.0])
    section = labels_saved(context_of(tmp_path))
    assert "nothing was learned" in said(section)
    assert list(section.printed[0].head) == ["strategy", "labels to random's final AP50", "of random's labels"]
    assert all(not any(letter.isdigit() for letter in "".join(row)) for row in section.printed[0].rows)


# Areas and last cycles


def test_every_number_of_the_area_table_comes_from_the_rows(tmp_path: Path) -> None:
    section = learning_curves(context_of(write_grid(tmp_path)))
    table = section.printed[0]
    assert row_of(table, "random") == [
        "random", "2", "0.450 ± 0.071", "-", "0.400 ± 0.000", "0.650 ± 0.071", "-", "0.550 ± 0.071"
    ]  # fmt: skip
    # Areas 0.5875 and 0.63 against 0.4 and 0.5: differences 0.1875 and 0.13, their deviation 0.0575 / sqrt(2).
    half = 12.7062 * 0.0575 / 2
    seeds, mean, difference, gain, last, at_last, boxes = row_of(table, "TSP + SSL")[1:]
    assert gain == "0.535 ± 0.021"  # 0.55 and 0.52
    assert (seeds, mean, last, boxes) == ("2", "0.609 ± 0.030", "0.785 ± 0.049", "0.685 ± 0.049")
    assert difference == f"+0.159 ({0.15875 - half:+.3f} to {0.15875 + half:+.3f})"
    assert at_last == f"+0.135 ({0.135 - 12.7062 * 0.015:+.3f} to {0.135 + 12.7062 * 0.015:+.3f})"
    figures = [part for part in section.parts if isinstance(part, Figure)]
    assert len(figures) == 2 and all(figure.path.stat().st_size > 5000 for figure in figures)


def test_what_pseudo_labels_and_diversity_add_is_paired_by_seed(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4, 0.6])
    write_cell(tmp_path, "tsp", 1, [0.3, 0.5, 0.7])
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.5, 0.7])
    write_cell(tmp_path, "tsp + SSL", 1, [0.3, 0.5, 0.6])
    write_cell(tmp_path, "tsp_diverse", 1, [0.3, 0.6, 0.9], strategy="tsp_diverse")
    write_cell(tmp_path, "core_set", 0, [0.3, 0.6, 0.9], strategy="core_set")
    section = learning_curves(context_of(tmp_path))
    table = section.printed[1]
    assert table in section.parts and [row[0] for row in table.rows] == ["TSP + SSL less TSP", "diverse TSP less TSP"]
    # Areas 0.475 and 0.475 less 0.4 and 0.5: 0.075 and -0.025, half of the interval 12.7062 * 0.05. Last 0.1 and -0.1.
    assert row_of(table, "TSP + SSL less TSP")[1:] == [
        "2",
        f"+0.025 ({0.025 - 12.7062 * 0.05:+.3f} to {0.025 + 12.7062 * 0.05:+.3f})",
        f"+0.000 ({-12.7062 * 0.1:+.3f} to {12.7062 * 0.1:+.3f})",
    ]
    # Of seed 1 alone: 0.6 less 0.5, and 0.9 less 0.7.
    assert row_of(table, "diverse TSP less TSP")[1:] == ["1", "+0.100 (one pair)", "+0.200 (one pair)"]


def test_the_method_is_compared_with_random_of_the_same_variant(tmp_path: Path) -> None:
    for name, last, own in (
        ("tsp + SSL", 0.5, {}),
        ("random", 0.4, {"strategy": "random"}),
        ("entropy", 0.4, {"strategy": "entropy"}),
        ("from initial weights", 0.35, {"ssl": True, "learning_rate": 0.5}),
        ("random, from initial weights", 0.25, {"strategy": "random", "learning_rate": 0.5}),
    ):
        write_cell(tmp_path, name, 0, [0.15, last], **own)
    context = context_of(tmp_path)
    table = learning_curves(context).printed[1]
    assert [row[0] for row in table.rows] == ["from initial weights less random, from initial weights"]
    assert table.rows[0][1:] == ["1", "+0.050 (one pair)", "+0.100 (one pair)"]
    own = ablations(context).printed[-1]
    assert row_of(own, "from initial weights")[1] == "learning_rate 0.5"
    assert row_of(own, "random, from initial weights")[1] == "strategy random, ssl False, learning_rate 0.5"


def test_without_pairs_it_is_said_and_no_table_is_printed(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])
    write_cell(tmp_path, "tsp + SSL", 1, [0.2, 0.4])
    section = learning_curves(context_of(tmp_path))
    assert len(section.printed) == 1 and "what pseudo labels and diversity add; no strategy" in said(section)


def captions(section: Section) -> str:
    return "\n".join(part.caption for part in section.parts if isinstance(part, Figure))


def test_strategies_with_a_network_of_their_own_are_said_to_begin_with_another_model(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])
    write_cell(tmp_path, "learning_loss", 0, [0.1, 0.35], strategy="learning_loss")
    section = learning_curves(context_of(tmp_path))
    sentence = "Learning loss (with a loss head) trains another network than the other strategies."
    assert sentence in captions(section) and sentence in said(section)
    cells = dict(zip(section.printed[0].head, row_of(section.printed[0], "learning loss"), strict=True))
    assert cells["gain since M_1"] == "0.250"
    write_cell(tmp_path, "mc_dropout", 0, [0.1, 0.3], strategy="mc_dropout", dropout=0.25)
    both = "Learning loss (with a loss head) and MC dropout (with dropout) train another network"
    assert both in said(learning_curves(context_of(tmp_path)))


def test_a_grid_of_one_network_says_nothing_of_others_nor_of_warm_starts(tmp_path: Path) -> None:
    section = learning_curves(context_of(write_grid(tmp_path)))
    assert "another network" not in captions(section) + said(section)
    assert "goes on from the model before" not in captions(section)


def test_a_warm_start_of_all_is_told_under_the_curves(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4], warm_start=True)
    assert "each further cycle goes on from the model before" in captions(learning_curves(context_of(tmp_path)))


def test_an_unfinished_grid_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    write_cell(tmp_path, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    write_cell(tmp_path, "random", 1, [0.3, 0.5], strategy="random")
    write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.7, 0.75])
    write_cell(tmp_path, "tsp + SSL", 1, [0.3, 0.7, 0.8])
    write_cell(tmp_path, "tsp", 0, [])
    (tmp_path / "entropy" / "seed0").mkdir(parents=True)
    (tmp_path / "entropy" / "seed0" / "lock").touch()
    context = context_of(tmp_path)
    assert context.grid.unfinished == (
        "random, seed 1: 2 of 3 cycles",
        "tsp, seed 0: 0 of 3 cycles",
        "tsp, seed 1: not begun",
        "entropy/seed0: begun, nothing written yet",
    )
    table = learning_curves(context).printed[0]
    assert row_of(table, "TSP + SSL")[3] == "+0.188 (one pair)"
    assert row_of(table, "random")[1:3] == ["1 of 2", "0.400"]
    assert row_of(table, "TSP")[1:] == ["0 of 2", *["-"] * 6]
    assert [row[0] for row in table_of(conditions(context), 1).rows] == list(context.grid.unfinished)
    assert len(report_module.report(context)) == len(report_module.SECTIONS)


def test_cells_of_the_grids_file_that_were_never_begun_are_named(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        'data = "data/ct"\ncycles = 4\nper_cycle = 10\nseeds = [0, 1]\nstrategies = ["random"]\nssl = [false]\n'
        '[settings]\npreset = "tiny"'
    )
    out = tmp_path / "out"
    write_cell(out, "random", 0, [0.2, 0.4, 0.6], strategy="random")
    grid = read_results(out, file)
    assert grid.unfinished == (
        "random, seed 0: 3 of 4 cycles",
        "full data, seed 0: not begun",
        "random, seed 1: not begun",
        "full data, seed 1: not begun",
    )


def test_a_whole_grid_says_that_nothing_is_left_out(tmp_path: Path) -> None:
    section = conditions(context_of(write_grid(tmp_path)))
    assert "No cell is left out" in said(section)
    assert table_of(section).rows[-2:] == [["machine", "abacus 0: 3 cells"], ["machine", "abacus 1: 3 cells"]]
    assert ["beta", "0.01"] in table_of(section, 1).rows


def test_one_machine_is_named_alone_and_a_cell_of_two_counts_in_both(tmp_path: Path) -> None:
    write_cell(tmp_path, "tsp", 0, [0.2, 0.4])
    assert table_of(conditions(context_of(tmp_path))).rows[-1] == ["machine", "abacus 0"]
    moved = write_cell(tmp_path, "random", 1, [0.2, 0.4], strategy="random") / "results.jsonl"
    moved.write_text(moved.read_text().replace("abacus 1", "abacus 0", 1))
    rows = table_of(conditions(context_of(tmp_path))).rows
    assert rows[-2:] == [["machine", "abacus 0: 2 cells"], ["machine", "abacus 1: 1 cell"]]


def test_what_all_cells_share_is_told_without_a_full_data_cell(tmp_path: Path) -> None:
    for name, own in {"a": {}, "b": {"beta": 0.05}, "c": {"beta": 0.09}, "d": {"epochs": 7}}.items():
        write_cell(tmp_path, name, 0, [0.1, 0.2], ssl=True, **own)
    grid = read_results(tmp_path)
    assert (grid.common.beta, grid.common.epochs) == (0.01, 50)
    assert {line.name: dict(line.differences) for line in grid.lines} == {
        "a": {},
        "b": {"beta": 0.05},
        "c": {"beta": 0.09},
        "d": {"epochs": 7},
    }
