"""What TensorBoard shows of a training, read by TensorBoard itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backend.curves import FOLDER, curves


def event(step: int, loss: float) -> dict[str, Any]:
    return {"done": step, "learning_rate": 0.1 / step, "terms": {"loss": loss, "loss_mask": loss / 2}}


def drawn(version: Path, name: str) -> dict[int, float]:
    seen = EventAccumulator(str(version / FOLDER)).Reload()
    return {point.step: round(point.value, 4) for point in seen.Scalars(name)}


def test_a_training_that_goes_on_draws_over_what_it_had_not_saved(tmp_path):
    heard: list[dict[str, Any]] = []
    with curves(tmp_path, heard.append) as progress:
        for step, loss in [(1, 4.0), (2, 3.0), (3, 9.0)]:
            progress(event(step, loss))
    with curves(tmp_path, heard.append) as progress:  # step 3 was not saved
        for step, loss in [(3, 2.0), (4, 1.0)]:
            progress(event(step, loss))
    assert drawn(tmp_path, "loss") == {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}
    assert drawn(tmp_path, "terms/loss_mask") == {1: 2.0, 2: 1.5, 3: 1.0, 4: 0.5}
    assert drawn(tmp_path, "learning_rate") == {1: 0.1, 2: 0.05, 3: 0.0333, 4: 0.025}
    assert [one["done"] for one in heard] == [1, 2, 3, 3, 4]


def test_without_tensorboard_nothing_is_drawn_and_all_is_told(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", None
    )  # what an import of a package that is absent meets
    heard: list[dict[str, Any]] = []
    with curves(tmp_path, heard.append) as progress:
        progress(event(1, 4.0))
    assert len(heard) == 1 and not (tmp_path / FOLDER).exists()
