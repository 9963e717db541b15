"""Which predictions become pseudo labels, and what D_semi is made of."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import prediction
from tsp_model import pseudo_labels
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.estimate import Checked
from tsp_model.settings import Settings

SURE = (0.95, 0.95, 0.85)
#   c, b, m: all above; one short each; on the threshold; all short
TRIPLETS = [SURE, (0.85, 0.95, 0.85), (0.95, 0.85, 0.85), (0.95, 0.95, 0.75), (0.9, 0.95, 0.85), (0.1, 0.1, 0.1)]


def detections(triplets):
    c, b, m = torch.tensor(triplets).T
    n = len(triplets)
    return {
        "boxes": torch.arange(4.0 * n).reshape(n, 4),
        "labels": torch.arange(n),
        "scores": c,
        "box_scores": b,
        "mask_scores": m,
        "masks": torch.zeros(n, 1, 4, 4),
        "max_class_score": 0.95,
    }


def test_all_three_scores_must_be_above_their_threshold():
    taken = pseudo_labels.select(detections(TRIPLETS))
    assert taken["labels"].tolist() == [0]
    assert taken["boxes"].shape == (1, 4)
    assert taken["masks"].shape == (1, 1, 4, 4)
    assert taken["max_class_score"] == 0.95


def test_literal_reading_drops_only_what_falls_short_thrice():
    taken = pseudo_labels.select(detections(TRIPLETS), rule="any")
    assert taken["labels"].tolist() == [0, 1, 2, 3, 4]


def test_raising_a_threshold_never_adds_an_instance():
    generator = torch.Generator().manual_seed(0)
    found = detections(torch.rand(200, 3, generator=generator).tolist())
    loose = set(pseudo_labels.select(found, 0.5, 0.5, 0.5)["labels"].tolist())
    for thresholds in [(0.7, 0.5, 0.5), (0.5, 0.7, 0.5), (0.5, 0.5, 0.7)]:
        tight = set(pseudo_labels.select(found, *thresholds)["labels"].tolist())
        assert tight < loose


def test_d_semi_holds_only_images_with_a_taken_instance():
    pool = ImageSet([Item(key, Path(key)) for key in ("sure", "unsure", "unseen", "empty")], ["lesion"])
    predictions = {
        "sure": prediction("sure", [SURE, (0.4, 0.9, 0.9)]),
        "unsure": prediction("unsure", [(0.4, 0.9, 0.9)]),
        "empty": prediction("empty", []),
        "labelled": prediction("labelled", [SURE]),  # no longer in the pool
    }
    chosen = pseudo_labels.from_predictions(predictions, pool, Settings())
    semi = pseudo_labels.as_image_set(chosen, pool)
    assert semi.keys == ("sure",)
    [instance] = semi.items[0].instances
    assert instance.label == 1
    assert instance.rle == predictions["sure"].rles[0]


def test_a_mask_that_is_empty_after_the_cut_is_no_pseudo_label():
    pool = ImageSet([Item("a", Path("a"))], ["lesion"])
    assert pseudo_labels.from_predictions({"a": prediction("a", [SURE], side=0)}, pool, Settings()) == {}


@pytest.mark.parametrize("rule", ["all", "any"])
def test_empty_detections(rule):
    one = detections([SURE])
    empty = {name: value[:0] if isinstance(value, torch.Tensor) else value for name, value in one.items()}
    assert len(pseudo_labels.select(empty, rule=rule)["labels"]) == 0


@pytest.mark.parametrize(("parts", "expected"), [("cbm", [0]), ("cm", [0, 1]), ("cb", [0, 2]), ("c", [0, 1, 2])])
def test_a_score_that_is_taken_away_leaves_the_filter_too(parts, expected):
    pool = ImageSet([Item(str(i), Path(str(i))) for i in range(4)], ["lesion"])
    triplets = [SURE, (0.95, 0.1, 0.85), (0.95, 0.95, 0.1), (0.1, 0.95, 0.85)]
    predictions = {str(i): prediction(str(i), [triplet]) for i, triplet in enumerate(triplets)}
    chosen = pseudo_labels.from_predictions(predictions, pool, Settings(score_parts=parts))
    assert [int(key) for key in chosen] == expected


def pool(*keys: str) -> ImageSet:
    return ImageSet([Item(key, Path(key)) for key in keys], ["lesion"])


def checked(triplets: list[tuple[float, float, float]], correct: list[bool]) -> Checked:
    return Checked(prediction("pick", triplets), np.array(correct), [])


def falling(count: int, from_: float = 0.9, step: float = 0.01) -> list[tuple[float, float, float]]:
    """Instances that a scale of 1, then 0.99 and so on of sigma = 0.9, 0.9, 0.8 no longer takes, by their c."""
    return [(from_ * (1 - step * index), 0.99, 0.99) for index in range(count)]


def test_thresholds_fall_as_far_as_the_target_precision_allows() -> None:
    settings = Settings(pseudo_target_precision=0.9)
    # By falling c: 18 right, 2 wrong, 10 wrong: at 20 the precision is 0.9, and falls from there on.
    picks = [checked(falling(30)[:15], [True] * 15), checked(falling(30)[15:], [True] * 3 + [False] * 12)]
    scale = pseudo_labels.threshold_scale(picks, settings)
    assert scale == pytest.approx(1 - 0.19, abs=1e-5)
    taken = [pseudo_labels.from_predictions({"pick": one.prediction}, pool("pick"), settings, scale) for one in picks]
    assert sum(len(found["pick"]) for found in taken) == 20
    assert pseudo_labels.threshold_scale(picks[::-1], settings) == scale


def test_thresholds_rise_where_they_take_too_much() -> None:
    settings = Settings(pseudo_class_threshold=0.5, pseudo_target_precision=0.9)
    sure, unsure = [(0.8, 0.99, 0.99)] * 12, [(0.7, 0.99, 0.99)] * 12
    scale = pseudo_labels.threshold_scale([checked(sure + unsure, [True] * 12 + [False] * 12)], settings)
    # 0.99 / 0.9 = 1.1, and 0.7 / 0.5 and 0.8 / 0.5 are more: b decides of all, so either all are taken or none.
    assert scale == pytest.approx(1.1)
    settings = dataclasses.replace(settings, pseudo_box_threshold=0.5, pseudo_mask_threshold=0.5)
    scale = pseudo_labels.threshold_scale([checked(sure + unsure, [True] * 12 + [False] * 12)], settings)
    assert scale == pytest.approx(0.8 / 0.5, abs=1e-5)


def test_nothing_like_the_picks_is_taken_where_too_few_of_them_are_right() -> None:
    picks = [checked(falling(30), [False] * 30)]
    settings = Settings(pseudo_target_precision=0.9, pseudo_class_threshold=0.5)
    scale = pseudo_labels.threshold_scale(picks, settings)
    assert scale == pytest.approx(0.99 / 0.9)  # b's, the lowest ratio of the surest: c's is 0.9 / 0.5
    assert not pseudo_labels.from_predictions({"pick": picks[0].prediction}, pool("pick"), settings, scale)


@pytest.mark.parametrize("correct", [[True] * 9, []])
def test_thresholds_stay_where_too_little_is_known(correct: list[bool]) -> None:
    picks = [checked(falling(len(correct)), correct)] if correct else []
    assert pseudo_labels.threshold_scale(picks, Settings(pseudo_target_precision=0.9)) == 1.0


def test_the_any_rule_and_missing_parts_scale_as_they_take() -> None:
    found = prediction("one", [(0.45, 0.9, 0.2)])
    assert pseudo_labels._scales(found, Settings()).tolist() == pytest.approx([0.25])
    assert pseudo_labels._scales(found, Settings(pseudo_rule="any")).tolist() == pytest.approx([1.0])
    assert pseudo_labels._scales(found, Settings(score_parts="cb")).tolist() == pytest.approx([0.5])
