"""A model on disk: a folder with `model.safetensors` and `card.json`, the card written last.

A folder without a card is unfinished and no model. The card tells what the weights alone do not: classes, settings,
counts, metrics and the parent version.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from tsp_model.errors import ExplainedError
from tsp_model.execution import Execution
from tsp_model.files import write_atomically, write_json
from tsp_model.network import TSPMaskRCNN, tsp_mask_rcnn
from tsp_model.settings import Settings

WEIGHTS, CARD = "model.safetensors", "card.json"


class CheckpointError(ExplainedError, ValueError):
    """A folder that holds no whole model; the message is one line with cause and remedy."""


def save(folder: Path, model: TSPMaskRCNN, card: dict[str, Any]) -> dict[str, Any]:
    """Write weights and card; returns the card as written, with the network's `architecture` in it."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder / WEIGHTS, lambda path: safetensors.torch.save_file(state, path))
    card = card | {"architecture": asdict(model.architecture)}
    write_json(folder / CARD, card)
    return card


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a finished model. Raises CheckpointError where there is none or it cannot be read."""
    try:
        card = json.loads((folder / CARD).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CARD} cannot be read ({error}); use another version.") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{folder / CARD} holds no card; train again or use another version.")
    return card


def load(folder: Path, execution: Execution | None = None) -> tuple[TSPMaskRCNN, dict[str, Any]]:
    """The model of `folder`, ready to answer, and its card; see `read` and `Execution.freeze`.

    Args:
        execution: how it runs here; None: as its settings say.
    """
    model, card = read(folder)
    execution = execution or Execution.choose(Settings.from_dict(card["settings"]))
    return execution.freeze(model), card


def read(folder: Path) -> tuple[TSPMaskRCNN, dict[str, Any]]:
    """The model of `folder` as it was trained, on the CPU, and its card. Nothing is downloaded and no pickle is read.

    Raises CheckpointError for a missing, torn or foreign checkpoint.
    """
    card = read_card(folder)
    try:
        state = safetensors.torch.load_file(folder / WEIGHTS)
        model = tsp_mask_rcnn(weights="none", **card["architecture"])
        model.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded ({cause}); use another version.") from error
    return model, card
