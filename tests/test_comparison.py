"""Two models on the same images: AP50 as it is measured elsewhere, and a verdict that chance does not move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import prediction
from tsp_model.comparison import Comparison, compare
from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.estimate import Checked
from tsp_model.evaluation import average_precision, check
from tsp_model.predictions import Prediction

SIDE, PLACES = 8, 8  # objects are squares of 8 pixels, one beside the other


def images(count: int, seed: int) -> ImageSet:
    """Images of 64 x 64 pixels with up to eight squares of two classes, some without any."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        places = np.flatnonzero(rng.random(PLACES) < rng.random())
        items.append(Item(str(number), Path(), tuple(Instance(int(rng.integers(1, 3)), square(p)) for p in places)))
    return ImageSet(items, ("a", "b"))


def square(place: int) -> dict:
    mask = np.zeros((1, 64, 64), dtype=np.uint8)
    mask[0, :SIDE, SIDE * place : SIDE * (place + 1)] = 1
    return masks.encode(mask)[0]


def detections(key: str, scores: list[float]) -> Prediction:
    """One square of class 1 for each score, at the places in turn."""
    made = prediction(key, [(score, 0.8, 0.7) for score in scores])
    rles = [square(place) for place in range(len(scores))]
    return replace(made, counts=[rle["counts"] for rle in rles], boxes=masks.boxes(rles).tolist())


def predictions(truth: ImageSet, skill: float, seed: int) -> dict[str, Prediction]:
    """Each object is found with probability `skill`, and as many squares are found where none is as are missed."""
    rng = np.random.default_rng(seed)
    made = {}
    for item in truth.items:
        whole = detections(item.key, rng.random(PLACES).tolist())
        label = {masks.boxes([one.rle])[0, 0]: one.label for one in item.instances}
        kept = [place for place in range(PLACES) if rng.random() < (skill if 8.0 * place in label else 1 - skill)]
        whole.labels = [label.get(8.0 * place, int(rng.integers(1, 3))) for place in range(PLACES)]
        made[item.key] = whole.keep(kept)
    return made


def checked(truth: ImageSet, made: dict) -> list[Checked]:
    return [check(item, made[item.key]) for item in truth.items]


def compared(truth: ImageSet, before: dict, after: dict) -> Comparison:
    return compare(checked(truth, before), checked(truth, after), len(truth.classes))


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_the_evaluators(seed: int) -> None:
    truth = images(20, seed)
    before, after = predictions(truth, 0.7, seed), predictions(truth, 0.9, seed + 100)
    found = compared(truth, before, after)
    for value, made in ((found.before, before), (found.after, after)):
        # Rounding may put a recall just below one of the 101 points for one of the two and not for the other.
        assert value == pytest.approx(average_precision(truth, made)["mask_ap50"], abs=1e-4)
    assert found.images == 20


def test_the_same_model_is_never_worse_than_itself() -> None:
    truth = images(30, 0)
    made = predictions(truth, 0.7, 1)
    found = compared(truth, made, made)
    assert (found.low, found.high, found.worse) == (0, 0, False)


def test_a_model_that_lost_much_is_worse_and_the_other_way_round_it_is_not() -> None:
    truth = images(40, 0)
    good, bad = predictions(truth, 0.9, 1), predictions(truth, 0.5, 2)
    down, up = compared(truth, good, bad), compared(truth, bad, good)
    assert down.worse and down.high < 0 and down.low < down.high
    assert not up.worse and (up.low, up.high) == pytest.approx((-down.high, -down.low), abs=1e-9)


def test_of_equally_good_models_few_are_called_worse() -> None:
    """By chance 2.5% are; of 30 pairs more than 4 would come once in a thousand times."""
    worse = 0
    for seed in range(30):
        truth = images(40, seed)
        worse += compared(truth, predictions(truth, 0.8, 2 * seed), predictions(truth, 0.8, 2 * seed + 1)).worse
    assert worse <= 4


def test_images_without_objects_or_detections_count_for_what_they_are() -> None:
    empty = ImageSet([Item("0", Path()), Item("1", Path(), (Instance(1, square(0)),))], ("a",))
    nothing, one, false = detections("0", []), detections("1", [0.9]), detections("0", [0.95])
    found = compared(empty, {"0": nothing, "1": one}, {"0": false, "1": one})
    assert (found.before, found.after) == (1.0, pytest.approx(0.5))
