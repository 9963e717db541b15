"""Which annotation of a task trains, and what it holds."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from backend.annotations import instances_of, training_annotation
from backend.label_config import LabelConfig, LabelTag
from backend.regions import to_region
from tests.builders import square
from tsp_model.data import masks

CONFIG = LabelConfig("image", dict.fromkeys(("disc", "box"), LabelTag("polygon", "label", "image")), {})


def annotation(number: int, changed: str | None = "2026-01-01T00:00:00Z", **values: object) -> dict:
    return {"id": number, "created_at": "2026-01-01T00:00:00Z", "updated_at": changed, **values}


def chosen(*annotations: dict) -> int | None:
    found = training_annotation(annotations)
    return None if found is None else found["id"]


def region(label: str, left: int = 4) -> dict:
    made = to_region("disc", masks.encode(square(left, 4, 8)[None].numpy())[0], CONFIG, f"{label}{left}")
    made["value"]["polygonlabels"] = [label]
    return made


def test_skipped_annotations_never_train():
    assert chosen() is None
    assert chosen(annotation(1, was_cancelled=True), annotation(2, was_cancelled=True, ground_truth=True)) is None
    assert chosen(annotation(1), annotation(2, "2026-02-01T00:00:00Z", was_cancelled=True)) == 1


def test_the_one_changed_last_counts_whatever_its_number():
    assert chosen(annotation(1), annotation(2, "2026-02-01T00:00:00Z")) == 2
    assert chosen(annotation(1, "2026-02-01T00:00:00Z"), annotation(2)) == 1
    assert chosen(annotation(1), annotation(2)) == chosen(annotation(2), annotation(1)) == 2


def test_times_are_compared_as_moments_and_creation_stands_in_for_a_change():
    """As text 10:30+02:00 would come after 09:00Z."""
    assert chosen(annotation(1, "2026-01-01T09:00:00Z"), annotation(2, "2026-01-01T10:30:00+02:00")) == 1
    assert chosen(annotation(1, "2026-01-02T00:00:00.500000Z"), annotation(2, None)) == 1
    assert chosen(annotation(1, None) | {"created_at": "2026-03-01T00:00:00Z"}, annotation(2)) == 1
    assert chosen({"id": 1}, {"id": 2}) == 2


def test_ground_truth_wins_over_later_ones_and_the_latest_of_several():
    marked = annotation(1, ground_truth=True)
    assert chosen(marked, annotation(2, "2026-02-01T00:00:00Z")) == 1
    assert chosen(marked, annotation(3, "2026-02-01T00:00:00Z", ground_truth=True)) == 3
    assert chosen(marked | {"was_cancelled": True}, annotation(2)) == 2


def test_no_region_is_an_image_without_objects():
    assert instances_of(annotation(1, result=[]), CONFIG, 7) == ()
    assert instances_of(annotation(1, result=None), CONFIG, 7) == ()


def test_a_label_that_was_renamed_is_read_by_its_new_name_and_one_that_is_gone_keeps_its_own():
    config = replace(CONFIG, aliases={"ring": "disc", "box": "disc"})
    found = instances_of(annotation(5, result=[region("ring"), region("box", 20), region("star", 30)]), config, 7)
    assert [label for label, _ in found] == ["disc", "box", "star"], "what the configuration has is not renamed"


def test_rectangles_keep_their_objects_when_their_label_is_renamed_or_removed():
    boxes = LabelConfig("image", {"ring": LabelTag("rectangle", "label", "image")}, {"disc": "ring"})
    drawn = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    result = [
        {"id": name, "type": "rectanglelabels", "original_width": 50, "original_height": 40}
        | {"value": drawn | {"rectanglelabels": [name]}}
        for name in ("disc", "ring", "gone")
    ]
    assert [label for label, _ in instances_of(annotation(5, result=result), boxes, 7)] == ["ring", "ring", "gone"]
    hints = LabelConfig("image", {"ring": LabelTag("brush", "label", "image")}, {"disc": "ring"})
    assert [label for label, _ in instances_of(annotation(5, result=result), hints, 7)] == ["gone"]


def test_one_malformed_region_costs_the_whole_annotation(caplog: pytest.LogCaptureFixture):
    broken = region("disc") | {"original_width": None}
    with caplog.at_level(logging.WARNING):
        assert instances_of(annotation(5, result=[region("box"), broken]), CONFIG, 7) is None
    assert "task 7, annotation 5 is not used" in caplog.text and "original_width" in caplog.text
