"""AP50 and pseudo-label precision against cases worked by hand and an independent implementation."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.builders import detected
from tsp_model.data import DataError, masks
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.evaluation import average_precision, check, pseudo_label_precision

SIZE = 40


def square(left, top, side=4):
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[top : top + side, left : left + side] = 1
    return masks.encode(mask[None])[0]


def image_set(*images, classes=("rod", "cone")):
    """Each image a list of (label, rle); keys "0", "1", ..."""
    items = [
        Item(str(index), Path("none"), tuple(Instance(label, rle) for label, rle in objects))
        for index, objects in enumerate(images)
    ]
    return ImageSet(items, classes)


def predicted(*images):
    """Each image a list of (label, rle, class score); boxes are the masks' own."""
    return {str(index): detected(str(index), detections, SIZE) for index, detections in enumerate(images)}


def ap(truth, predictions):
    """Mask AP50, equal to box AP50 for squares predicted exactly or not at all."""
    result = average_precision(truth, predictions)
    assert result["mask_ap50"] == pytest.approx(result["box_ap50"])
    return result["mask_ap50"]


A, B, C = square(0, 0), square(10, 10), square(20, 20)


def test_everything_found_is_one():
    truth = image_set([(1, A), (2, B)], [(1, C)], [])
    result = average_precision(truth, predicted([(1, A, 0.9), (2, B, 0.2)], [(1, C, 0.1)], []))
    assert result["mask_ap50"] == result["box_ap50"] == 1.0
    assert result["per_class"]["rod"] == {"mask_ap50": 1.0, "box_ap50": 1.0, "objects": 2}


def test_one_of_two_found_reaches_51_of_101_recall_points():
    assert ap(image_set([(1, A), (1, B)]), predicted([(1, A, 0.9)])) == pytest.approx(51 / 101)


def test_a_duplicate_before_the_second_object_lowers_its_precision():
    # Precision 1/1, 1/2, 2/3 in order; recall 0 to 0.5 has precision 1, the 50 points above it 2/3.
    truth = image_set([(1, A), (1, B)])
    duplicate = predicted([(1, A, 0.9), (1, A, 0.8), (1, B, 0.7)])
    assert ap(truth, duplicate) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_false_positive_counts_by_its_rank_also_in_an_image_without_objects():
    truth = image_set([(1, A)], [])
    assert ap(truth, predicted([(1, A, 0.5)], [(1, C, 0.9)])) == pytest.approx(0.5)
    assert ap(truth, predicted([(1, A, 0.9)], [(1, C, 0.5)])) == 1.0


def test_the_wrong_class_finds_nothing():
    assert ap(image_set([(1, A), (2, B)]), predicted([(2, A, 0.9), (2, B, 0.8)])) == pytest.approx((0 + 0.5) / 2)


def test_classes_without_objects_are_ignored():
    truth = image_set([(1, A)], classes=("rod", "cone"))
    predictions = predicted([(1, A, 0.9), (2, B, 0.99)])
    assert ap(truth, predictions) == 1.0
    assert average_precision(truth, predictions)["per_class"]["cone"]["mask_ap50"] is None


def test_nothing_predicted_is_zero_and_nothing_to_find_is_none():
    assert ap(image_set([(1, A)]), {}) == 0.0
    assert ap(image_set([(1, A)]), predicted([])) == 0.0
    result = average_precision(image_set([], []), predicted([(1, A, 0.9)]))
    assert (result["mask_ap50"], result["box_ap50"]) == (None, None)


def test_more_than_100_objects_in_an_image_all_count():
    grid = [square(x, y, side=2) for x in range(0, SIZE, 3) for y in range(0, SIZE, 3)]
    assert len(grid) == 196
    truth = image_set([(1, rle) for rle in grid])
    assert ap(truth, predicted([(1, rle, 0.9 - i / 1000) for i, rle in enumerate(grid)])) == 1.0


def test_masks_and_boxes_are_measured_apart():
    # Both have the square's box; of its 16 pixels the triangle covers 10 and the two corners 2.
    triangle = masks.encode(np.pad(np.tril(np.ones((4, 4), np.uint8)), ((0, 36), (0, 36)))[None])[0]
    corners = np.zeros((1, SIZE, SIZE), np.uint8)
    corners[0, [0, 3], [0, 3]] = 1
    assert ap(image_set([(1, A)]), predicted([(1, triangle, 0.9)])) == 1.0
    result = average_precision(image_set([(1, A)]), predicted([(1, masks.encode(corners)[0], 0.9)]))
    assert (result["mask_ap50"], result["box_ap50"]) == (0.0, 1.0)


def test_detections_may_come_in_any_order_and_classes_in_any_image():
    # In the order given, the IoUs of the second and third detection would be taken for each other's.
    truth = image_set([(2, A), (1, B), (1, C)], [(2, B)])
    found = [(1, B, 0.3), (2, B, 0.5), (1, A, 0.9), (2, A, 0.8), (1, C, 0.6)]
    result = average_precision(truth, predicted(found, [(2, B, 0.4)]))
    # rod: A wrong, then C and B right; cone: A right, B wrong, B of the second image right.
    for name, expected in {"rod": 2 / 3, "cone": (51 + 50 * 2 / 3) / 101}.items():
        assert result["per_class"][name]["mask_ap50"] == pytest.approx(expected)
        assert result["per_class"][name]["box_ap50"] == pytest.approx(expected)


def test_each_prediction_is_read_once():
    class Counted(dict):
        read = 0

        def __getitem__(self, key):
            self.read += 1
            return super().__getitem__(key)

        get = __getitem__

    predictions = Counted(predicted([(1, A, 0.9)], [(1, B, 0.8)]))
    assert average_precision(image_set([(1, A)], [(1, B)]), predictions)["mask_ap50"] == 1.0
    assert predictions.read == 2


def test_an_empty_mask_is_a_false_positive():
    empty = masks.encode(np.zeros((1, SIZE, SIZE)))[0]
    result = average_precision(image_set([(1, A)]), predicted([(1, empty, 0.9), (1, A, 0.8)]))
    assert result["mask_ap50"] == pytest.approx(0.5)


def test_predictions_of_other_images_or_sizes_are_refused():
    with pytest.raises(DataError, match=r"1 predictions are of images that are not in the set \(1\)"):
        average_precision(image_set([(1, A)]), predicted([], []))
    wrong = predicted([(1, A, 0.9)])
    wrong["0"].height = 39
    with pytest.raises(DataError, match=r"0: predicted at \[39, 40\] pixels, labelled at \[40, 40\]"):
        pseudo_label_precision(image_set([(1, A)]), wrong)


def reference_ap(truth, predictions, label):
    """A second, plain implementation of mask AP50 for one class."""
    hits = []
    total = 0
    for item in truth.items:
        free = [masks.decode([i.rle])[0] for i in item.instances if i.label == label]
        total += len(free)
        prediction = predictions[item.key]
        mine = [i for i in range(len(prediction)) if prediction.labels[i] == label]
        for index in sorted(mine, key=lambda i: -prediction.scores[i]):
            mask = masks.decode([prediction.rles[index]])[0]
            overlaps = [(mask & other).sum() / max((mask | other).sum(), 1) for other in free]
            best = int(np.argmax(overlaps)) if overlaps else -1
            matched = best >= 0 and overlaps[best] >= 0.5
            if matched:
                free.pop(best)
            hits.append((prediction.scores[index], matched))
    hits.sort(reverse=True)
    found = np.cumsum([matched for _, matched in hits])
    precision, recall = found / np.arange(1, len(hits) + 1), found / total
    return np.mean([precision[recall >= point].max(initial=0) for point in np.linspace(0, 1, 101)])


@pytest.mark.parametrize("seed", range(5))
def test_random_detections_agree_with_a_second_implementation(seed):
    rng = np.random.default_rng(seed)

    def jitter(position):
        return int(np.clip(position + rng.integers(-2, 3), 0, SIZE - 8))

    images, detections = [], []
    for _ in range(20):
        corners = rng.integers(0, SIZE - 8, (rng.integers(0, 6), 2))
        images.append([(int(rng.integers(1, 3)), square(int(x), int(y), 8)) for x, y in corners])
        near = [(jitter(x), jitter(y)) for x, y in corners for _ in range(rng.integers(0, 3))]
        stray = [tuple(rng.integers(0, SIZE - 8, 2).tolist()) for _ in range(rng.integers(0, 3))]
        detections.append([(int(rng.integers(1, 3)), square(x, y, 8), float(rng.random())) for x, y in near + stray])
    truth, predictions = image_set(*images), predicted(*detections)
    result = average_precision(truth, predictions)
    expected = [reference_ap(truth, predictions, label) for label in (1, 2)]
    assert 0.01 < min(expected) < max(expected) < 0.9
    assert [result["per_class"][name]["mask_ap50"] for name in truth.classes] == pytest.approx(expected)
    assert result["mask_ap50"] == pytest.approx(np.mean(expected))


# pseudo labels


def test_pseudo_labels_match_by_class_and_overlap_and_once():
    truth = image_set([(1, A), (2, B)], [(1, C)], [])
    taken = predicted(
        [(1, A, 0.95), (1, A, 0.99), (1, B, 0.9)],  # found, found again, wrong class
        [(1, square(22, 20), 0.9)],  # half of it: IoU 8/24
        [(1, A, 0.9)],  # nothing there
    )
    assert pseudo_label_precision(truth, taken) == {"taken": 5, "correct": 1, "precision": 0.2}


def test_the_confident_pseudo_label_chooses_first():
    # 0.9 overlaps both objects (IoU 0.6 and 1), 0.8 only the first: both are right if 0.9 takes its best.
    first, second = square(0, 0), square(1, 0)
    truth = image_set([(1, first), (1, second)])
    assert pseudo_label_precision(truth, predicted([(1, first, 0.8), (1, second, 0.9)]))["correct"] == 2


def test_no_pseudo_labels_have_no_precision():
    assert pseudo_label_precision(image_set([(1, A)]), predicted([])) == {
        "taken": 0,
        "correct": 0,
        "precision": None,
    }
    assert pseudo_label_precision(image_set([(1, A)]), {})["precision"] is None


def test_a_prediction_is_checked_against_labels_that_came_later():
    (item,) = image_set([(1, A), (1, B), (2, C)]).items
    # A twice, of which the surer is right; C as the wrong class; B and C are missed.
    given = predicted([(1, A, 0.5), (1, A, 0.8), (1, C, 0.9)])["0"]
    checked = check(item, given)
    assert checked.correct.tolist() == [False, True, False]
    assert checked.missed == [1, 2]
    assert checked.prediction is given


def test_checking_images_without_objects_or_detections():
    empty, one = image_set([], [(2, A)]).items
    assert check(empty, predicted([(1, A, 0.5)])["0"]).correct.tolist() == [False]
    nothing = check(one, predicted([])["0"])
    assert (nothing.correct.tolist(), nothing.missed) == ([], [2])


def test_a_prediction_of_another_size_is_not_checked():
    (item,) = image_set([(1, A)]).items
    with pytest.raises(DataError, match="predict the image that was labelled"):
        check(item, dataclasses.replace(predicted([(1, A, 0.5)])["0"], width=SIZE + 1))
