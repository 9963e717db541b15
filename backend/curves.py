"""Curves of a training for TensorBoard, where that is installed: `tensorboard --logdir MODEL_DIR`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tsp_model.progress import Progress

FOLDER = "tensorboard"


@contextmanager
def curves(version: Path, progress: Progress) -> Iterator[Progress]:
    """`progress`, told the same; loss, its terms and the learning rate of each step lie in the version's folder, too.

    What an interrupted training had drawn beyond its last saved epoch is drawn anew.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield progress
        return
    with ExitStack() as stack:
        writers: list[SummaryWriter] = []

        def told(event: dict[str, Any]) -> None:
            progress(event)
            if "learning_rate" not in event:  # of the scoring that comes before
                return
            step = event["done"]
            if not writers:
                writers.append(stack.enter_context(SummaryWriter(str(version / FOLDER), purge_step=step)))
            writers[0].add_scalar("learning_rate", event["learning_rate"], step)
            for name, value in event["terms"].items():
                writers[0].add_scalar(name if name == "loss" else f"terms/{name}", value, step)

        yield told
