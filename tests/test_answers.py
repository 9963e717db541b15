"""What was predicted already: remembered within bounds, and read from the file that the worker writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.answers import OVERHEAD, AnswerCache, ScoredPool
from tests.builders import prediction
from tsp_model.predictions import PredictionFile, write_predictions

FOLDER, OTHER = Path("/models/4.1/versions/a"), Path("/models/4.1/versions/b")
MADE = prediction("", [(0.9, 0.8, 0.7)])
SIZE = 2 * OVERHEAD + len(MADE.counts[0]) + len("{}")


def test_a_prediction_is_found_by_its_version_and_image_only():
    cache = AnswerCache()
    cache.put(FOLDER, Path("/cache/x.png"), MADE)
    assert cache.get(FOLDER, Path("/elsewhere/x.png"), 0.0) is MADE
    assert cache.get(OTHER, Path("/cache/x.png"), 0.0) is None
    assert cache.get(FOLDER, Path("/cache/y.png"), 0.0) is None


def test_one_that_left_out_what_is_wanted_now_is_not_found():
    cache = AnswerCache()
    cache.put(FOLDER, Path("x.png"), replace(MADE, kept_above=0.3))
    assert cache.get(FOLDER, Path("x.png"), 0.2) is None
    assert cache.get(FOLDER, Path("x.png"), 0.3) is not None


def test_the_longest_unused_go_first_when_memory_is_short():
    cache = AnswerCache(most_bytes=3 * SIZE)
    for name in "abc":
        cache.put(FOLDER, Path(name), MADE)
    assert cache.get(FOLDER, Path("a"), 0.0)
    for name in "dc":  # c is put again: it takes its place once
        cache.put(FOLDER, Path(name), MADE)
    assert [name for name in "abcd" if cache.get(FOLDER, Path(name), 0.0)] == ["a", "c", "d"]
    cache.put(FOLDER, Path("large"), prediction("", [(0.9, 0.8, 0.7)] * 6))
    assert cache.get(FOLDER, Path("large"), 0.0) is None, "larger than all the memory"


def test_a_pool_is_read_while_it_is_written(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    pool = ScoredPool(path)
    assert pool.get("1", 0.0) is None, "there is no file yet"
    path.touch()
    file = PredictionFile(path)
    file.add([replace(MADE, key="1"), replace(MADE, key="2", kept_above=0.3)])
    assert pool.get("1", 0.0) == replace(MADE, key="1")
    assert pool.get("2", 0.0) is None and pool.get("2", 0.3).key == "2"
    assert pool.get("12", 1.0) is None
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key":"3","height":')  # the worker is in the middle of a line
    assert pool.get("3", 1.0) is None
    path.write_bytes(whole)
    PredictionFile(path).add([replace(MADE, key="3")])
    assert [pool.get(key, 1.0).key for key in "123"] == ["1", "2", "3"]


@pytest.mark.parametrize("keys", [["7"], ["3", "2", "1", "4", "5"]], ids=["shorter", "longer"])
def test_a_file_that_was_written_anew_never_answers_for_another_task(tmp_path: Path, keys: list[str]):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [replace(MADE, key=key) for key in "123"])
    pool = ScoredPool(path)
    assert pool.get("1", 0.0).key == "1"
    write_predictions(path, [replace(MADE, key=key) for key in keys])
    for task in "1234567":
        found = pool.get(task, 0.0)
        assert found is None or (found.key == task and task in keys)
