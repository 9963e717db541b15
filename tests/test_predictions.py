"""Predictions: compressed from detections, kept on disk as JSON lines."""

import math
from dataclasses import replace

import pytest
import torch

from tsp_model.data import DataError, masks
from tsp_model.predictions import (
    Prediction,
    PredictionFile,
    iterate_predictions,
    read_predictions,
    write_predictions,
)
from tsp_model.scores import instance_scores
from tsp_model.settings import Settings


def detections(scores, height=6, width=8, max_class_score=None):
    """Detections of N objects, each a soft mask of 0.5 (object i: column i at 0.9)."""
    scores = torch.tensor(scores, dtype=torch.float32)
    count = len(scores)
    soft = torch.full((count, 1, height, width), 0.5)
    for index in range(count):
        soft[index, 0, :, index] = 0.9
    box_scores, mask_scores = torch.full((count,), 0.8), torch.full((count,), 0.6)
    return {
        "boxes": torch.tensor([[i, 0, i + 1, height] for i in range(count)], dtype=torch.float32).view(-1, 4),
        "labels": torch.ones(count, dtype=torch.int64),
        "scores": scores,
        "masks": soft,
        "box_scores": box_scores,
        "mask_scores": mask_scores,
        "instance_scores": instance_scores(scores, box_scores, mask_scores),
        "entropies": torch.special.entr(scores),
        "max_class_score": max_class_score if max_class_score is not None else float(scores.max()),
    }


def prediction(key="a.png", scores=(0.9, 0.2)):
    return Prediction.from_detections(key, detections(scores), Settings())


def test_masks_are_cut_above_the_mask_threshold():
    decoded = masks.decode(prediction().rles)
    expected = torch.zeros(2, 6, 8, dtype=torch.uint8)
    expected[0, :, 0] = 1
    expected[1, :, 1] = 1
    assert decoded.tolist() == expected.tolist()
    lower = Prediction.from_detections("a", detections([0.9]), replace(Settings(), mask_threshold=0.4))
    assert masks.area(lower.rles).tolist() == [48]


def test_the_image_score_counts_only_detections_above_the_ranking_threshold():
    values = torch.tensor([0.9, 0.8, 0.6], dtype=torch.float64)
    one = math.exp(-float(values.std(correction=0))) * float(values.mean())
    assert prediction(scores=[0.9, 0.3, 0.2]).image_score == pytest.approx(one, abs=1e-6)
    assert prediction(scores=[0.9, 0.31]).image_score != pytest.approx(one, abs=1e-2)


def test_the_scores_of_an_ablation_count_alone():
    found = detections([0.9])  # b = 0.8, m = 0.6
    parts = {
        parts: Prediction.from_detections("a", found, replace(Settings(), score_parts=parts)).image_score
        for parts in ("c", "cb", "cm")
    }
    # the population's std of two values is half their distance
    expected = {"c": 0.9, "cb": math.exp(-0.05) * 0.85, "cm": math.exp(-0.15) * 0.75}
    assert parts == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [("graded", 0.75), ("zero", 0.0)])
@pytest.mark.parametrize("scores", [[], [0.25]])
def test_an_image_with_nothing_to_count_is_scored_by_the_setting(scores, rule, expected):
    found = detections(scores, max_class_score=0.25)
    settings = replace(Settings(), empty_image=rule)
    result = Prediction.from_detections("a", found, settings)
    assert result.image_score == expected
    assert (result.height, result.width, len(result)) == (6, 8, len(scores))


def test_float32_values_survive_the_file_exactly(tmp_path):
    torch.manual_seed(0)
    found = detections(torch.rand(5).tolist())
    found["boxes"] = torch.rand(5, 4) * 1000
    before = Prediction.from_detections("ü/a b.png", found, Settings())
    assert write_predictions(tmp_path / "p.jsonl", [before, prediction("b")]) == 2
    after = read_predictions(tmp_path / "p.jsonl")
    assert list(after) == ["ü/a b.png", "b"]
    assert after["ü/a b.png"] == before
    assert torch.equal(torch.tensor(after["ü/a b.png"].boxes), found["boxes"])
    assert torch.equal(torch.tensor(after["ü/a b.png"].instance_scores), found["instance_scores"])


def test_above_keeps_every_list_in_step_and_the_scores_of_the_image():
    full = prediction(scores=[0.9, 0.5, 0.2])
    kept = full.above(0.5)
    assert len(kept) == 1
    assert kept.boxes == full.boxes[:1]
    assert kept.counts == full.counts[:1]
    assert (kept.image_score, kept.max_class_score) == (full.image_score, full.max_class_score)
    assert len(full) == 3


def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [prediction("old")])

    def failing():
        yield prediction("new")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        write_predictions(path, failing())
    assert list(read_predictions(path)) == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_writing_and_reading_hold_one_prediction_at_a_time(tmp_path):
    alive, most = set(), 0

    class Tracked(Prediction):
        def __del__(self):
            alive.discard(id(self))

    def stream():
        nonlocal most
        for index in range(50):
            tracked = Tracked(**prediction(str(index)).to_dict())
            alive.add(id(tracked))
            most = max(most, len(alive))
            yield tracked

    assert write_predictions(tmp_path / "p.jsonl", stream()) == 50
    assert most <= 2
    reader = iterate_predictions(tmp_path / "p.jsonl")
    assert next(reader).key == "0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text + "\n",
        lambda text: text + '{"key": "c"}\n',
        lambda text: text.replace('"scores":[', '"scores":[0.1,'),
        lambda text: text + "null\n",
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path, damage):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [prediction("a"), prediction("b")])
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"p\.jsonl, line [123] is not a prediction \(.+\); delete the file") as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_repeated_images_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [prediction("a"), prediction("a")])
    with pytest.raises(DataError, match="line 2 .*image a is there twice"):
        read_predictions(path)
    path.write_bytes(path.read_bytes()[:-30] + b"\xff\xfe\n")
    with pytest.raises(DataError, match="line 2"):
        read_predictions(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match="no predictions file"):
        read_predictions(tmp_path / "none.jsonl")


def test_a_file_as_a_mapping_reads_what_is_asked_for(tmp_path):
    path = tmp_path / "p.jsonl"
    entries = [prediction(key) for key in ("ü", "b", "c")]
    write_predictions(path, entries)
    file = PredictionFile(path)
    assert (list(file), len(file)) == (["ü", "b", "c"], 3)
    assert "b" in file and "d" not in file
    assert list(file.values()) == entries
    assert list(file.sequence(["c", "ü"])) == [entries[2], entries[0]]
    assert file.sequence(["c", "ü"])[-1] == entries[0]
    emptied = PredictionFile(path, lambda one: one.keep([]))
    assert len(emptied["b"]) == 0 and emptied["b"].image_score == entries[1].image_score
    with pytest.raises(KeyError):
        file["d"]


def test_what_is_added_goes_behind_the_rest_and_a_torn_line_goes(tmp_path):
    path = tmp_path / "p.jsonl"
    write_predictions(path, [prediction("a"), prediction("b")])
    path.write_bytes(path.read_bytes()[:-40])
    assert list(read_predictions(path)) == ["a"], "a kill cut the last line off"
    file, counts = PredictionFile(path), []
    file.add(iter([prediction("c"), prediction("ü")]), counts.append)
    assert counts == [1, 2, 3]
    assert file["ü"] == prediction("ü")
    assert read_predictions(path) == {key: prediction(key) for key in ("a", "c", "ü")}


def test_every_prediction_is_on_the_disk_as_soon_as_it_is_added(tmp_path):
    path = tmp_path / "p.jsonl"
    path.touch()

    def failing():
        yield prediction("a")
        assert list(read_predictions(path)) == ["a"]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        PredictionFile(path).add(failing())
    assert list(read_predictions(path)) == ["a"]
