"""M_1 of a grid: the cells of a seed begin with the same labels and weights, so it is trained once for all of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.grid.claims import claimed
from tsp_model import checkpoints
from tsp_model.cycle import PSEUDO_LABELS, train_cycle
from tsp_model.data.image_set import ImageSet
from tsp_model.files import write_json
from tsp_model.progress import Progress
from tsp_model.settings import Settings

FOLDER = "first_models"
# What the first training does not look at: there is no model before it, so nothing was ranked and nothing is a pseudo
# label. `strategy` is another one, unless it adds a head to the network.
NOT_LOOKED_AT = (
    "ssl", "beta", "beta_schedule", "pseudo_ratio", "pseudo_rule", "pseudo_target_precision", "pseudo_class_threshold",
    "pseudo_box_threshold", "pseudo_mask_threshold", "score_parts", "empty_image", "ranking_score_threshold",
    "random_labels", "mc_passes", "warm_start", "warm_share",
)  # fmt: skip


def common(settings: Settings) -> Settings:
    """The settings that two cells have in common if their M_1 is the same."""
    strategy = settings.strategy if settings.strategy == "learning_loss" else Settings().strategy
    return replace(settings, strategy=strategy, **{name: getattr(Settings(), name) for name in NOT_LOOKED_AT})


def train_first(
    labelled: ImageSet, pool: ImageSet, settings: Settings, folder: Path, shared: Path, progress: Progress
) -> dict[str, Any]:
    """M_1 in `folder`, and its card, as tsp_model.cycle.train_cycle makes them; trained only if no cell did so before.

    Args:
        shared: folder of a grid's first models; another process that trains the same one is waited for.
    """
    asked = common(settings)
    identity = json.dumps({**asked.to_dict(), "labelled": labelled.keys, "pool": pool.keys}, sort_keys=True)
    source = shared / hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    with claimed(source, wait=True):
        if not (source / checkpoints.CARD).exists():
            train_cycle(labelled, pool, None, asked, source, progress)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (checkpoints.WEIGHTS, PSEUDO_LABELS):
        shutil.copyfile(source / name, folder / name)
    card = checkpoints.read_card(source) | {"settings": settings.to_dict()}
    write_json(folder / checkpoints.CARD, card)
    return card
