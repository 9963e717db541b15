"""Which predictions become pseudo labels, and what D_semi is made of."""

from pathlib import Path

import pytest
import torch

from tests.builders import prediction
from tsp_model import pseudo_labels
from tsp_model.data.image_set import ImageSet, Item
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
