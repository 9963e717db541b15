"""The report's section on the estimate of the pool's AP50: cells whose predictions are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.reporting.page import Figure, Sentences
from scripts.reporting.pool_estimate import pool_estimate
from scripts.stats import binomial_tail
from tests.grid_cells import POOL, context_of, found_squares, row_of, said, squares_set, table_of, write_cell
from tsp_model.data.image_set import ImageSet
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import Prediction, write_predictions

SQUARE = (8, 8, 20)
TRAIN = squares_set(*[[SQUARE]] * POOL)
PICKED = 30  # images, of a cell with three cycles
EMPTY_PICKS = squares_set(*[[]] * PICKED, *[[SQUARE]] * (POOL - PICKED))


def found(key: str) -> Prediction:
    return found_squares(key, [SQUARE], [0.95], 0.9, 0.9)


def overlooked(key: str) -> Prediction:
    return found_squares(key, [], [], 0.9, 0.9)


def write_predicted(out: Path, name: str, seed: int, cycles: int = 3, misses: Sequence[int] = (), **own: Any) -> Path:
    """A cell that finds every object; but the models of the cycles in `misses` none in the images picked next."""
    cell = write_cell(out, name, seed, [0.1 * cycle for cycle in range(1, cycles + 1)], **own)
    for k in range(1, cycles):
        told = []
        for number in range(10 * k, POOL):
            missed = k in misses and number < 10 * (k + 1)
            told.append((overlooked if missed else found)(f"{number}.png"))
        write_predictions(cell / f"M{k}" / PREDICTIONS, told)
    return cell


def sentences(out: Path, train: ImageSet = TRAIN) -> list[str]:
    section = pool_estimate(context_of(out, train=train))
    return [one for part in section.parts if isinstance(part, Sentences) for one in part.sentences]


@pytest.fixture
def misled(tmp_path: Path) -> Path:
    """Random picks tell the truth, TSP's are what it cannot find, in both of its cycles that have a pool."""
    write_predicted(tmp_path, "random", 0, strategy="random")
    write_predicted(tmp_path, "tsp", 0, misses=(1, 2))
    return tmp_path


def test_where_the_interval_breaks_its_word_it_is_said_in_plain_words(misled: Path) -> None:
    said_of = sentences(misled)
    assert said_of[0] == (
        "With random picks the 90% interval held the truth in 2 of 2 pools (100%): too few to judge it by."
    )
    # Two misses of two are 1% likely if nine in ten hold.
    assert said_of[1] == (
        "With picks of a strategy the 90% interval held the truth in 0 of 2 pools (0%): less often than it says."
    )
    assert said_of[2].startswith("The estimate is not to be relied on with picks of a strategy: label a small random")


def test_a_cell_that_leaves_the_first_picks_to_chance_has_a_part_in_both(tmp_path: Path) -> None:
    write_predicted(tmp_path, "tsp", 0, misses=(2,), random_labels=20)
    first, second, _ = sentences(tmp_path)
    assert first.startswith("With random picks the 90% interval held the truth in 1 of 1 pool")
    assert second.startswith("With picks of a strategy the 90% interval held the truth in 0 of 1 pool")


def test_few_pools_are_no_reason_to_rely_on_it(tmp_path: Path) -> None:
    write_predicted(tmp_path, "random", 0, strategy="random")
    assert sentences(tmp_path)[-1].startswith("So far that is no reason to rely on the estimate")


def test_many_pools_in_which_it_holds_are_said_with_its_width(tmp_path: Path) -> None:
    write_predicted(tmp_path, "random", 0, cycles=6, strategy="random")
    write_predicted(tmp_path, "random", 1, cycles=6, strategy="random")
    first, last = sentences(tmp_path)
    assert "10 of 10 pools (100%): as often as it says, within chance" in first
    assert "keeps its word; with a mean width of 0." in last


def test_the_numbers_are_of_estimate_and_truth(misled: Path) -> None:
    section = pool_estimate(context_of(misled, train=TRAIN))
    (table,) = section.printed
    pools, of_picks, of_rest, error, bias, alone, _, holds, _ = row_of(table, "TSP")[1:]
    assert (pools, of_picks, of_rest, alone, holds) == ("2", "0.000", "1.000", "1.000", "0 of 2 (0%)")
    assert float(error) == -float(bias) > 0.3
    assert row_of(table, "random")[2:4] == ["1.000", "1.000"] and row_of(table, "random")[6] == "0.000"
    every = table_of(section, 1).rows
    assert [list(row[:4]) for row in every] == [
        ["random", "0", "1", "10"],
        ["random", "0", "2", "20"],
        ["TSP", "0", "1", "10"],
        ["TSP", "0", "2", "20"],
    ]
    assert [(row[6], row[7], row[8]) for row in every][1:3] == [("1.000", "yes", "0.200"), ("1.000", "no", "0.100")]
    pictures = [part.path for part in section.parts if isinstance(part, Figure)]
    assert [path.name for path in pictures] == ["estimate_over_the_cycles.png", "estimate_against_the_truth.png"]
    assert all(path.stat().st_size > 5000 for path in pictures)


def test_a_pool_that_cells_share_counts_once(misled: Path) -> None:
    write_predicted(misled, "tsp + SSL", 0, misses=(1,))
    (table,) = pool_estimate(context_of(misled, train=TRAIN)).printed
    assert row_of(table, "TSP + SSL")[1] == "2"
    # Cycle 1 is the same with pseudo labels and without.
    assert row_of(table, "all picks of a strategy")[1] == "3"
    assert row_of(table, "all picks of a strategy")[-2] == "1 of 3 (33%)"


def test_it_is_told_what_is_being_done(misled: Path) -> None:
    told: list[str] = []
    pool_estimate(context_of(misled, train=TRAIN, working=told.append))
    assert told == ["estimate of random, seed 0", "estimate of TSP, seed 0"]


# What is missing


def test_without_images_or_cycles_it_is_a_line(tmp_path: Path) -> None:
    write_predicted(tmp_path, "random", 0, cycles=1, strategy="random")
    assert said(pool_estimate(context_of(tmp_path))) == "the estimate of the pool's AP50; there are no images"
    section = pool_estimate(context_of(tmp_path, train=TRAIN))
    assert len(section.parts) == 1 and "no cell with the common settings has two finished cycles" in said(section)


def test_a_cell_without_its_predictions_is_named_and_the_rest_is_there(misled: Path) -> None:
    (misled / "tsp" / "seed0" / "M2" / PREDICTIONS).unlink()
    section = pool_estimate(context_of(misled, train=TRAIN))
    assert "the estimate in TSP, seed 0 (there is no predictions file" in said(section)
    assert [row[0] for row in section.printed[0].rows] == ["random", "all random picks"]


def test_pools_with_too_little_to_learn_from_are_counted(misled: Path) -> None:
    section = pool_estimate(context_of(misled, train=EMPTY_PICKS))
    assert said(section) == (
        "the estimate of 4 pools; fewer than 5 images or 5 objects were labelled last, too little to learn from."
    )
    assert section.printed == []


def test_how_likely_so_few_are() -> None:
    # All three miss 0.1 ** 3, two of three 3 * 0.9 * 0.1 ** 2.
    assert binomial_tail(0, 3, 0.9) == pytest.approx(0.001)
    assert binomial_tail(1, 3, 0.9) == pytest.approx(0.028)
    assert binomial_tail(3, 3, 0.9) == pytest.approx(1)
