"""Every setting of the method in one flat, JSON-able place; defaults are the paper's (arXiv 2012.04829, section 4).

Importing this module does not import torch, so that a web process can read settings in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from tsp_model.errors import ExplainedError

# tsp_model/acquisition
STRATEGY_NAMES = ("tsp", "random", "entropy", "mc_dropout", "learning_loss", "core_set", "tsp_diverse")
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "tiny")

CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": BACKBONES,
    "strategy": STRATEGY_NAMES,
    "score_parts": ("cbm", "cm", "cb", "c"),
    "intensities": ("absolute", "relative"),
    "empty_image": ("graded", "zero"),
    "pseudo_rule": ("all", "any"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "augmentation": ("flip", "flip_rot90", "none"),
    "semi_normaliser": ("sampled", "positive"),
    "beta_schedule": ("constant", "unlabelled_share"),
    "precision": ("auto", "bfloat16", "mixed", "float32"),
    "memory_format": ("auto", "contiguous"),
    "roi_align": ("auto", "torchvision"),
    "linear": ("auto", "blas"),
}

# (lowest, highest) allowed value; None means unbounded on that side.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "image_size": (32, 4096),
    "detections_per_image": (1, 10_000),
    "proposals": (1, 10_000),
    "random_labels": (0, 10_000_000),
    "mc_passes": (2, 1000),
    "epochs": (1, 100_000),
    "least_steps": (0, 10_000_000),
    "batch_size": (1, 1024),
    "learning_rate": (1e-8, 10),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup_iterations": (0, 1_000_000),
    "gradient_clip": (0, None),
    "smallest_object": (0, 4096),
    "beta": (0, 100),
    "iou_loss_weight": (0, 100),
    "pseudo_ratio": (0, 100),
    "warm_share": (0.001, 1),
    "seed": (0, 2**31 - 1),
} | dict.fromkeys(
    (
        "score_threshold", "ranking_score_threshold", "nms_threshold", "mask_threshold",
        "pseudo_class_threshold", "pseudo_box_threshold", "pseudo_mask_threshold",
        "pseudo_target_precision", "dropout",
    ),
    (0, 1),
)  # fmt: skip


class SettingsError(ExplainedError, ValueError):
    """A setting that cannot be used; the message is one line with cause and remedy."""


def meant(unknown: Sequence[str], known: Sequence[str]) -> str:
    """The remedy for unknown names: the known one that each is like, or else all that are known."""
    like = [match for name in unknown for match in get_close_matches(name, known, 1, cutoff=0.7)]
    return f"did you mean {', '.join(like)}?" if len(like) == len(unknown) else f"known are {', '.join(known)}."


def _setting(default: Any, meaning: str) -> Any:
    """A field whose meaning people can ask for."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """Network, scores, pseudo labels and training. Section numbers are those of arXiv 2012.04829."""

    # Network (section 3.1)
    backbone: str = _setting("resnet50", "what the network reads images with")
    weights: str = _setting("auto", "ImageNet where it can be had; none; or the path of a local file")
    image_size: int = _setting(512, "the longest side in pixels that the network sees")
    intensities: str = _setting(
        "absolute", "of pixels; relative to each image's own mean and deviation for mixed sources"
    )
    dropout: float = _setting(0.0, "share of values dropped in box and mask head, in training and Monte Carlo passes")

    # Detections: which ones count is part of the method (section 3.1)
    score_threshold: float = _setting(0.05, "class score below which a detection is dropped for good; what AP sees")
    ranking_score_threshold: float = _setting(0.3, "class score above which a detection counts in an image's score S")
    nms_threshold: float = _setting(0.5, "IoU above which the less sure one of two boxes is dropped")
    detections_per_image: int | None = _setting(None, "most detections an image; null: from the labelled images")
    proposals: int | None = _setting(None, "boxes that reach the box head when it answers; null: as the network needs")
    mask_threshold: float = _setting(0.5, "where masks are cut for annotators, pseudo labels and AP")
    score_parts: str = _setting("cbm", "which of class (c), box (b) and mask score (m) count in S and in pseudo labels")
    empty_image: str = _setting("graded", "S of an image without a detection; graded is 1 - its highest class score")

    # Which images are labelled next (section 4)
    strategy: str = _setting("tsp", "what picks the images that are labelled next")
    random_labels: int = _setting(0, "labels until which chance picks the next images, whatever the strategy")
    mc_passes: int = _setting(10, "passes with dropout an image, of strategy mc_dropout")

    # Pseudo labels (section 3.2)
    ssl: bool = _setting(True, "train on pseudo labels, too")
    pseudo_class_threshold: float = _setting(0.9, "class score above which a detection becomes a pseudo label")
    pseudo_box_threshold: float = _setting(0.9, "the same for its box score")
    pseudo_mask_threshold: float = _setting(0.8, "the same for its mask score")
    pseudo_target_precision: float = _setting(
        0.0, "the three thresholds move together until so many are right; 0: they stay"
    )
    pseudo_rule: str = _setting(
        "all", "how many of the three have to be above; any is Algorithm 1, line 10, to the letter"
    )

    # Training (sections 3.2 and 4)
    epochs: int = _setting(50, "one epoch is one pass over the labelled images")
    least_steps: int = _setting(0, "few labelled images get more epochs, until a training has so many steps")
    batch_size: int = _setting(4, "labelled images a step")
    optimizer: str = _setting("sgd", "what takes the steps")
    learning_rate: float = _setting(1e-3, "the highest, before the schedule lowers it")
    momentum: float = _setting(0.9, "of the optimizer sgd")
    weight_decay: float = _setting(1e-4, "of the optimizer")
    schedule: str = _setting("step", "how the learning rate falls")
    milestones: tuple[int, ...] = _setting((45, 49), "epochs after which the step schedule multiplies by 0.1")
    warmup_iterations: int = _setting(0, "linear warm-up, in steps; a fifth of all at most")
    gradient_clip: float = _setting(0.0, "largest gradient norm; 0: not clipped")
    augmentation: str = _setting("flip", "of training images")
    smallest_object: float = _setting(
        0.0, "an object with fewer pixels in height or width, as the network sees it, counts as background in training"
    )
    iou_loss_weight: float = _setting(1.0, "weight of the losses of box and mask score, lambda of Eq. 1")
    beta: float = _setting(0.01, "weight of the pseudo-labelled images, Eq. 5")
    beta_schedule: str = _setting("constant", "unlabelled_share is beta x the share of images without a label")
    semi_normaliser: str = _setting(
        "sampled", "N_cls of Eq. 4 counts every sampled anchor and RoI, or the positive ones"
    )
    pseudo_ratio: float = _setting(1.0, "pseudo-labelled images drawn beside each labelled one")
    warm_start: bool = _setting(False, "start from the previous model instead of the initial weights")
    warm_share: float = _setting(1.0, "of epochs and least_steps: what a training takes that starts from a model")
    seed: int = _setting(0, "of initial weights, order of images and random picks")

    # Execution: how fast, not what; auto is what was measured to be quickest on the machine (tsp_model/execution.py).
    # They belong to the machine: a version answers as the settings say where it answers.
    precision: str = _setting("auto", "of the network; mixed is bfloat16 in mask and score heads only")
    memory_format: str = _setting("auto", "of pixels and channels; auto is channels last")
    roi_align: str = _setting("auto", "auto is one gather, tsp_model/roi_align.py")
    linear: str = _setting("auto", "library of the linear layers of a network that answers; auto is oneDNN")
    fold_norms: bool = _setting(True, "batch norms of a network that answers go into the convolutions before them")
    compile: bool = _setting(False, "torch.compile for backbone and RPN; the first answer takes many seconds")

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name}={getattr(self, name)!r} is unknown; use one of {', '.join(allowed)}.")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if (low is not None and value < low) or (high is not None and value > high) or value != value:
                raise SettingsError(f"{name}={value} is out of range; use a value from {low} to {high}.")
        if self.strategy == "mc_dropout" and self.dropout == 0:
            raise SettingsError("strategy=mc_dropout has nothing to drop with dropout=0; set dropout, such as 0.25.")
        if self.strategy == "learning_loss" and self.batch_size == 1:
            raise SettingsError("strategy=learning_loss compares the images of a step; raise batch_size to 2 or more.")
        if self.ranking_score_threshold < self.score_threshold:
            raise SettingsError(
                f"ranking_score_threshold={self.ranking_score_threshold} is below score_threshold="
                f"{self.score_threshold}, so detections it should count are dropped before; raise it."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        return asdict(self) | {"milestones": list(self.milestones)}

    def override(self, values: dict[str, Any]) -> Settings:
        """A copy with some settings replaced; strings are read as the setting's own type.

        Raises SettingsError for an unknown name or a value of the wrong type or range.
        """
        unknown = sorted(set(values) - set(FIELD_NAMES))
        if unknown:
            raise SettingsError(f"unknown setting {', '.join(unknown)}; {meant(unknown, FIELD_NAMES)}")
        return replace(self, **{name: _convert(name, value) for name, value in values.items()})

    def strategy_at(self, labelled: int) -> str:
        """What picks the next images once so many are labelled."""
        return "random" if labelled < self.random_labels else self.strategy

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Settings:
        """Settings from their JSON form, defaults where a name is absent."""
        return Settings().override(values)

    @staticmethod
    def preset(name: str) -> Settings:
        """The experiments' own settings ("paper"), or those of a small network that a CPU trains from nothing ("tiny").

        A network trained from nothing rarely passes the paper's box threshold of 0.9 and mask threshold of 0.8, so the
        tiny preset asks for less of both.
        """
        if name not in PRESETS:
            raise SettingsError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}.")
        return Settings(**PRESETS[name])


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tiny": {
        "backbone": "tiny",
        "weights": "none",
        "image_size": 128,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "gradient_clip": 5.0,
        # With 10, some trainings lose their box scores to a sigmoid that saturates, and half of their AP50 with them.
        "warmup_iterations": 50,
        # The finest stride. Objects below it have no mask to learn from, yet their box regression is the largest term.
        "smallest_object": 4.0,
        "pseudo_box_threshold": 0.8,
        "pseudo_mask_threshold": 0.7,
    },
}

FIELD_NAMES: tuple[str, ...] = tuple(one.name for one in fields(Settings))
_TYPES = {one.name: one.type for one in fields(Settings)}


def _convert(name: str, value: Any) -> Any:
    """`value`, possibly text from an environment variable, as the type of setting `name`."""
    kind = _TYPES[name]
    try:
        if kind == "str":
            return str(value)
        if isinstance(value, str):
            value = json.loads(value.lower())
        if value is None and "None" in kind:
            return None
        if kind == "bool":
            if not isinstance(value, bool):
                raise ValueError
            return value
        if isinstance(value, bool):
            raise ValueError
        if kind.startswith("tuple"):
            return tuple(int(entry) for entry in value)
        if kind.startswith("int"):
            if int(value) != value:
                raise ValueError
            return int(value)
        return float(value)
    except (TypeError, ValueError):
        raise SettingsError(f"{name}={value!r} cannot be read as {kind}.") from None
