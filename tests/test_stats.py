"""Curves, paired differences, correlations and matches with the truth, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scripts.reporting.curves import area, labels_to_reach
from scripts.reporting.matching import calibration, judge_pseudo_labels, match, reliability
from scripts.reporting.pseudo import pseudo
from scripts.stats import paired_difference, pearson, spearman, student_probability, student_quantile
from tests.grid_cells import (
    POOL,
    context_of,
    found_squares,
    rle,
    row_of,
    said,
    squares_set,
    table_of,
    write_cell,
)
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.predictions import write_predictions

# What a curve says


@pytest.mark.parametrize(
    ("target", "needed"), [(0.1, 10), (0.2, 10), (0.3, 15), (0.4, 20), (0.45, 25), (0.5, 30), (0.51, None)]
)
def test_labels_to_reach_lie_on_straight_lines_between_cycles(target: float, needed: float | None) -> None:
    found = labels_to_reach([10, 20, 30], [0.2, 0.4, 0.5], target)
    assert found is None if needed is None else found == pytest.approx(needed)


def test_the_first_crossing_counts_though_the_curve_falls_again() -> None:
    assert labels_to_reach([10, 20, 30, 40], [0.2, 0.6, 0.3, 0.7], 0.5) == pytest.approx(17.5)


def test_area_is_the_mean_height_over_uneven_steps() -> None:
    assert area([10, 20, 40], [0.2, 0.4, 0.6]) == pytest.approx((10 * 0.3 + 20 * 0.5) / 30)
    assert area([10], [0.2]) is None


def test_a_paired_difference_by_hand() -> None:
    # Differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t of two degrees 4.303.
    found = paired_difference({0: 0.5, 1: 0.6, 2: 0.7, 8: 9.0}, {0: 0.4, 1: 0.4, 2: 0.4, 9: 0.1})
    assert (found.mean, found.pairs) == (pytest.approx(0.2), 3)
    assert found.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert not found.clear_of_zero
    assert paired_difference({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}).clear_of_zero
    one = paired_difference({0: 0.5}, {0: 0.4})
    assert (one.mean, one.interval, one.clear_of_zero) == (pytest.approx(0.1), None, False)
    assert paired_difference({0: 0.5}, {1: 0.4}) is None


def test_a_difference_in_another_unit_keeps_its_interval_in_order() -> None:
    # Differences 1 and 3: mean 2, half of the interval 12.7062.
    found = paired_difference({0: 5, 1: 7}, {0: 4, 1: 4}).times(-4)
    assert (found.mean, found.pairs) == (-8, 2)
    assert found.interval == pytest.approx((-8 - 4 * 12.7062, -8 + 4 * 12.7062), rel=1e-5)
    assert paired_difference({0: 5}, {0: 4}).times(-4).interval is None


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_student_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-5)
    assert student_probability(student_quantile(0.9, degrees), degrees) == pytest.approx(0.9)
    assert student_probability(0, degrees) == 0.5


def test_correlation_of_what_does_not_vary_is_not_a_number() -> None:
    assert pearson(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])) == pytest.approx(1)
    assert math.isnan(pearson(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
    assert math.isnan(spearman(np.array([1.0]), np.array([1.0])))


def test_precision_and_both_recalls_of_pseudo_labels_by_hand() -> None:
    pool = squares_set([(4, 4, 10), (30, 30, 10)], [(4, 4, 10)], [(4, 4, 10), (20, 20, 10), (40, 40, 10)], [])
    pseudo_labels = {
        # One right, one twice, one where nothing is.
        "0.png": found_squares("0.png", [(4, 4, 10), (5, 4, 10), (50, 4, 8)], [0.95, 0.93, 0.92], 0.9, 0.9),
        "2.png": found_squares("2.png", [(20, 20, 10)], [0.95], 0.9, 0.9),
    }
    found = judge_pseudo_labels(pool, pseudo_labels)
    assert (found.taken, found.correct, found.objects_beside, found.objects) == (4, 2, 5, 6)
    assert (found.precision, found.recall_beside, found.recall) == (0.5, 0.4, pytest.approx(1 / 3))
    nothing = judge_pseudo_labels(pool, {})
    assert (nothing.precision, nothing.recall_beside, nothing.recall) == (None, None, 0)


def test_the_heads_are_judged_on_matched_detections_and_false_positives_apart() -> None:
    test = squares_set([(4, 4, 10), (30, 30, 10)], [(4, 4, 10)])
    predictions = [
        # Half of the square to the right: IoU of boxes and masks 80 / 120. Then the same object again: false.
        found_squares("0.png", [(6, 4, 10), (4, 4, 10), (50, 50, 8)], [0.9, 0.8, 0.7], 0.6, 0.5),
        found_squares("1.png", [(4, 4, 10), (5, 4, 10)], [0.95, 0.2], 0.8, 0.7),
    ]
    found = match(test, predictions, above=0.3)
    assert found.box_ious == pytest.approx([2 / 3, 1])
    assert found.mask_ious == pytest.approx([2 / 3, 1])
    assert found.false_box_scores == pytest.approx([0.6, 0.6])
    b = calibration(found.box_scores, found.box_ious, found.false_box_scores)
    assert (b.count, b.false_positives, b.false_mean) == (2, 2, pytest.approx(0.6))
    assert b.error == pytest.approx((2 / 3 - 0.6 + 0.2) / 2)
    assert b.bias == pytest.approx(-b.error)
    assert (b.pearson, b.spearman) == (pytest.approx(1), pytest.approx(1))
    m = calibration(found.mask_scores, found.mask_ious, found.false_mask_scores)
    assert m.error == pytest.approx((2 / 3 - 0.5 + 0.3) / 2)
    assert reliability(found.box_scores, found.box_ious) == [
        (pytest.approx(0.6), pytest.approx(2 / 3), 1),
        (pytest.approx(0.8), pytest.approx(1), 1),
    ]


def test_a_detection_of_another_class_matches_nothing() -> None:
    test = ImageSet([Item("0.png", Path("none"), (Instance(2, rle(4, 4, 10)),))], ["rod", "cone"])
    found = match(test, [found_squares("0.png", [(4, 4, 10)], [0.9], 0.6, 0.5)], above=0.3)
    assert (len(found.box_scores), found.false_mask_scores.tolist()) == (0, [0.5])
    assert math.isnan(calibration(found.box_scores, found.box_ious, found.false_box_scores).error)


def test_recall_of_a_grid_counts_the_pool_without_its_labelled_images(tmp_path: Path) -> None:
    run = write_cell(tmp_path, "tsp + SSL", 0, [0.2, 0.4])
    train = squares_set(*[[(4, 4, 10)]] * POOL)
    for cycle, keys in ((1, []), (2, ["20.png", "21.png", "30.png"])):
        (run / f"M{cycle}").mkdir()
        labels = [found_squares(key, [(4, 4, 10)], [0.95], 0.9, 0.9) for key in keys]
        write_predictions(run / f"M{cycle}" / "pseudo_labels.jsonl", labels)
    section = pseudo(context_of(tmp_path, train=train))
    table = table_of(section)
    cells = dict(zip(table.head, row_of(table, "TSP + SSL"), strict=True))
    # 20 of 100 images are labelled in cycle 2: 3 of 80 objects are found, all in the images of D_semi.
    assert cells["recall in D_semi's images"] == "100%"
    assert cells["recall in the whole pool"] == "4%"
    assert (cells["precision"], cells["pseudo images"], cells["share of the pool in D_semi"]) == ("75%", "20", "25%")
    assert (cells["pseudo objects"], cells["gradient share of L_semi"]) == ("40", "2.0%")
    assert cells["picked images without an object"] == "30%"
    without = pseudo(context_of(tmp_path))
    assert "recall of pseudo labels; there are no images" in said(without)
    assert dict(zip(table.head, row_of(table_of(without), "TSP + SSL"), strict=True))["precision"] == "75%"
