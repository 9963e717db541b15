"""The estimate of AP50 without labels, against cases worked by hand and against labels that are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.builders import prediction
from tsp_model.estimate import Checked, Estimate, EstimateError, _counts, expected_ap, pool_ap50
from tsp_model.predictions import Prediction

SURE, UNSURE = (0.9, 0.9, 0.9), (0.4, 0.6, 0.6)


def seen(key: str, triplets: list[tuple[float, float, float]], correct: list[bool], missed: int = 0) -> Checked:
    return Checked(prediction(key, triplets), np.array(correct, dtype=bool), [1] * missed)


def relabelled(one: Prediction, label: int) -> Prediction:
    return dataclasses.replace(one, labels=[label] * len(one))


def estimated(picks: list[Checked], pool: list[Prediction], objects=(1,), seed: int = 0) -> Estimate:
    return pool_ap50(pool, picks, objects, seed)


POOL = [prediction(f"pool {index}", [SURE, UNSURE]) for index in range(40)]


def test_every_detection_right_and_nothing_missed_is_one() -> None:
    assert expected_ap(np.ones(7), 7) == 1.0


def test_nothing_right_found_or_there_is_zero() -> None:
    assert expected_ap(np.zeros(5), 3) == expected_ap(np.zeros(0), 3) == expected_ap(np.zeros(5), 0) == 0.0


def test_half_of_the_objects_found_reaches_51_of_101_recall_points() -> None:
    assert expected_ap(np.array([1.0]), 2) == pytest.approx(51 / 101)


def test_a_duplicate_in_between_is_counted_as_coco_does() -> None:
    # Precision 1/1, 1/2, 2/3 in order; recall 0 to 0.5 has precision 1, the 50 points above it 2/3.
    assert expected_ap(np.array([1, 0, 1]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_probabilities_give_expected_precision_and_recall() -> None:
    # Expected right ones 0.8, 1.2; precision 0.8, 0.6; of 2 objects recall 0.4, 0.6: 41 points, 20 points, 40 of none.
    assert expected_ap(np.array([0.8, 0.4]), 2) == pytest.approx((41 * 0.8 + 20 * 0.6) / 101)


def test_a_perfect_detector_is_near_one() -> None:
    checked = [seen(str(index), [SURE], [True]) for index in range(40)]
    pool = [prediction(f"pool {index}", [SURE]) for index in range(40)]
    assert estimated(checked, pool).estimate > 0.97


def test_a_detector_that_is_always_wrong_is_near_zero() -> None:
    checked = [seen(str(index), [SURE, UNSURE], [False, False], missed=1) for index in range(40)]
    found = estimated(checked, POOL)
    assert found.estimate < 0.01 and found.high < 0.05


def test_the_estimate_is_what_the_known_chances_give() -> None:
    # The sure ones are right 3 in 4 times, the others never; one object in four is missed. In the pool 40 sure ones:
    # precision about 0.75 up to recall 0.75, nothing beyond. The envelope of a real ranking is a little above.
    checked = [seen(str(index), [SURE, UNSURE], [index % 4 > 0, False], missed=index % 4 == 0) for index in range(200)]
    found = estimated(checked, POOL)
    assert found.estimate == pytest.approx(0.75 * 0.75, abs=0.06)
    assert found.low < 0.75 * 0.75 < found.high


def test_more_objects_missed_lower_the_estimate() -> None:
    few, many = (
        [seen(str(index), [SURE, UNSURE], [True, False], missed=missed) for index in range(30)] for missed in (0, 2)
    )
    assert estimated(many, POOL).estimate < estimated(few, POOL).estimate / 2


def test_images_in_which_nothing_is_found_are_not_empty() -> None:
    checked = [seen(str(index), [SURE], [True]) for index in range(20)]
    sparse = [prediction(f"pool {index}", [SURE] if index < 10 else []) for index in range(40)]
    assert estimated(checked, sparse).estimate < 0.75


def test_the_interval_holds_the_estimate_and_narrows_with_more_picks() -> None:
    def of(count: int) -> Estimate:
        checked = [seen(str(index), [SURE, UNSURE], [index % 3 > 0, False], missed=index % 2) for index in range(count)]
        return estimated(checked, POOL)

    few, many = of(6), of(120)
    for found in (few, many):
        assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert many.high - many.low < (few.high - few.low) * 0.75


def test_the_same_seed_gives_the_same_and_another_nearly_so() -> None:
    checked = [seen(str(index), [SURE, UNSURE], [index % 3 > 0, False], missed=index % 2) for index in range(30)]
    assert estimated(checked, POOL) == estimated(checked, POOL)
    other = estimated(checked, POOL, seed=1)
    assert other != estimated(checked, POOL)
    assert other.estimate == pytest.approx(estimated(checked, POOL).estimate, abs=0.05)


def test_the_order_of_images_and_the_unused_class_do_not_matter() -> None:
    checked = [seen(str(index), [SURE, UNSURE], [True, False], missed=index % 2) for index in range(30)]
    scored = [prediction(f"pool {i}", [(0.9 - i / 100, 0.9, 0.9), (0.3 + i / 1000, 0.6, 0.6)]) for i in range(40)]
    there = estimated(checked, scored)
    assert estimated(checked, scored[::-1]).estimate == pytest.approx(there.estimate, abs=0.03)
    assert estimated(checked, scored, objects=(7, 0)) == there


def test_a_class_that_is_never_found_takes_its_share_of_the_mean() -> None:
    checked = [seen(str(index), [SURE], [True]) for index in range(40)]
    pool = [prediction(f"pool {index}", [SURE]) for index in range(40)]
    one = estimated(checked, pool, objects=(20, 0)).estimate
    both = estimated(checked, pool, objects=(20, 20)).estimate
    assert both == pytest.approx(one / 2, abs=0.03)
    # The other way round: all are found in class 2.
    second = [relabelled(one, 2) for one in pool]
    of_second = [Checked(relabelled(one.prediction, 2), one.correct, one.missed) for one in checked]
    assert estimated(of_second, second, objects=(0, 20)).estimate == pytest.approx(one, abs=0.03)


def test_images_in_which_everything_is_wrong_come_together() -> None:
    # As many detections right in both; where whole images are wrong, which ones are in the pool is a matter of luck.
    apart = [seen(str(index), [SURE] * 4, [True, True, True, False], missed=1) for index in range(16)]
    together = [seen(str(index), [SURE] * 4, [index % 4 > 0] * 4, missed=4 * (index % 4 == 0)) for index in range(16)]
    pool = [prediction(f"pool {index}", [SURE] * 4) for index in range(16)]
    widths = [found.high - found.low for found in (estimated(apart, pool), estimated(together, pool))]
    assert widths[0] < widths[1]


def test_picks_without_a_detection_are_learned_from() -> None:
    checked = [seen(str(index), [], [], missed=2) for index in range(20)]
    found = estimated(checked, [prediction("pool", [SURE])] * 20)
    assert 0 <= found.low <= found.estimate <= found.high < 0.6


@pytest.mark.parametrize(
    ("found", "objects", "counts"),
    [
        ([3, 1], 8, [4, 4]),  # as the labelled images share them
        ([5, 1], 8, [5, 3]),  # more of the first were found than that
        ([5, 3], 6, [5, 3]),  # nothing is missed
        ([0, 0], 0, [0, 0]),
    ],
)
def test_what_is_missed_is_shared_among_the_classes(found: list[int], objects: float, counts: list[int]) -> None:
    share = np.array([0.5, 0.5])
    assert _counts(np.array(found, dtype=float), objects, share).tolist() == pytest.approx(counts)


def world(rng: np.random.Generator, images: int) -> list[Checked]:
    """Images as the estimate sees them, with their truth: P(right) is lower than c, some images are harder."""
    made = []
    for index in range(images):
        c = rng.uniform(0.3, 0.99, rng.poisson(4))
        right = 1 / (1 + np.exp(-(np.log(c / (1 - c)) - 1 + rng.normal(0, 1))))
        correct = rng.random(len(c)) < right
        scores = [(score, 0.8, 0.7) for score in c]
        made.append(Checked(prediction(str(index), scores), correct, [1] * rng.poisson(1)))
    return made


def test_most_intervals_hold_the_truth_of_simulated_pools() -> None:
    errors, inside = [], 0
    for seed in range(20):
        images = world(np.random.default_rng(seed), 92)
        picks, pool = images[:12], images[12:]
        order = np.argsort([-score for one in pool for score in one.prediction.scores])
        right = np.concatenate([one.correct for one in pool])[order]
        truth = expected_ap(right, right.sum() + sum(len(one.missed) for one in pool))
        found = estimated(picks, [one.prediction for one in pool])
        errors.append(found.estimate - truth)
        inside += found.low <= truth <= found.high
    assert inside >= 17
    assert abs(np.mean(errors)) < 0.04
    assert np.mean(np.abs(errors)) < 0.1


@pytest.mark.parametrize(
    ("checked", "pool", "said"),
    [
        ([], POOL, "only 0 images with 0 objects"),
        ([seen("a", [SURE] * 9, [True] * 9)], POOL, "only 1 images with 9 objects"),
        ([seen(str(index), [SURE], [False]) for index in range(9)], POOL, "only 9 images with 0 objects"),
        ([seen(str(index), [SURE], [True]) for index in range(9)], [], "no image is unlabelled"),
    ],
)
def test_too_little_is_one_line_with_the_reason(checked: list[Checked], pool: list[Prediction], said: str) -> None:
    with pytest.raises(EstimateError, match=said) as caught:
        estimated(checked, pool)
    assert len(str(caught.value).splitlines()) == 1


def test_json_has_four_decimals() -> None:
    assert Estimate(0.123456, 0.1, 0.2).to_dict() == {"estimate": 0.1235, "low": 0.1, "high": 0.2}
