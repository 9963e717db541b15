"""Every setting of the method in one flat, JSON-able place; defaults are the paper's (arXiv 2012.04829, section 4).

Importing this module does not import torch, so that a web process can read settings in milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

# tsp_model/acquisition
STRATEGY_NAMES = ("tsp", "random", "entropy", "mc_dropout", "learning_loss", "core_set", "tsp_diverse")
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "tiny")

CHOICES: dict[str, tuple[str, ...]] = {
    "backbone": BACKBONES,
    "strategy": STRATEGY_NAMES,
    "score_parts": ("cbm", "cm", "cb", "c"),
    "empty_image": ("graded", "zero"),
    "pseudo_rule": ("all", "any"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "augmentation": ("flip", "flip_rot90", "none"),
    "semi_normaliser": ("sampled", "positive"),
    "beta_schedule": ("constant", "unlabelled_share"),
    "precision": ("auto", "bfloat16", "mixed", "float32"),
    "memory_format": ("auto", "channels_last", "contiguous"),
    "roi_align": ("auto", "gather", "torchvision"),
    "linear": ("auto", "onednn", "blas"),
}

# (lowest, highest) allowed value; None means unbounded on that side.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "image_size": (32, 4096),
    "detections_per_image": (1, 10_000),
    "proposals": (1, 10_000),
    "mc_passes": (2, 1000),
    "epochs": (1, 100_000),
    "batch_size": (1, 1024),
    "learning_rate": (1e-8, 10),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup_iterations": (0, 1_000_000),
    "gradient_clip": (0, None),
    "beta": (0, 100),
    "iou_loss_weight": (0, 100),
    "pseudo_ratio": (0, 100),
    "seed": (0, 2**31 - 1),
} | dict.fromkeys(
    (
        "score_threshold", "ranking_score_threshold", "nms_threshold", "mask_threshold",
        "pseudo_class_threshold", "pseudo_box_threshold", "pseudo_mask_threshold",
        "pseudo_target_precision", "dropout",
    ),
    (0, 1),
)  # fmt: skip


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line with cause and remedy."""


@dataclass(frozen=True)
class Settings:
    """Network, scores, pseudo labels and training. Section numbers are those of arXiv 2012.04829."""

    # Network (section 3.1)
    backbone: str = "resnet50"
    weights: str = "auto"  # "auto": ImageNet where it can be had; "none"; or the path of a local file
    image_size: int = 512  # the longest side in pixels that the network sees
    dropout: float = 0.0  # share of values dropped in box and mask head, in training and Monte Carlo passes

    # Detections: which ones count is part of the method (section 3.1)
    score_threshold: float = 0.05  # class score below which a detection is dropped for good; what AP sees
    ranking_score_threshold: float = 0.3  # class score above which a detection counts in S
    nms_threshold: float = 0.5
    detections_per_image: int | None = None  # None: from the data, see network.detections_needed
    proposals: int | None = None  # that reach the box head in testing; None: see network.proposals_needed
    mask_threshold: float = 0.5  # where masks are cut for annotators, pseudo labels and AP
    score_parts: str = "cbm"  # of c, b and m, those that Eq. 2 and the pseudo labels look at
    empty_image: str = "graded"  # S of an image without a detection: "graded" or "zero"

    # Which images are labelled next (section 4)
    strategy: str = "tsp"
    mc_passes: int = 10  # with dropout, of mc_dropout

    # Pseudo labels (section 3.2)
    ssl: bool = True
    pseudo_class_threshold: float = 0.9
    pseudo_box_threshold: float = 0.9
    pseudo_mask_threshold: float = 0.8
    pseudo_target_precision: float = 0.0  # the thresholds move together until so many are right; 0: they stay
    pseudo_rule: str = "all"  # "all": taken when all three are above; "any": Algorithm 1, line 10, to the letter

    # Training (sections 3.2 and 4)
    epochs: int = 50  # one epoch is one pass over the labelled images
    batch_size: int = 4  # labelled images a step
    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "step"
    milestones: tuple[int, ...] = (45, 49)  # epochs after which the step schedule multiplies by 0.1
    warmup_iterations: int = 0  # linear warm-up, in steps; a fifth of all at most
    gradient_clip: float = 0.0  # largest gradient norm; 0: not clipped
    augmentation: str = "flip"
    iou_loss_weight: float = 1.0  # lambda of Eq. 1
    beta: float = 0.01  # weight of the pseudo-labelled images, Eq. 5
    beta_schedule: str = "constant"  # "unlabelled_share": beta x the share of images without a label
    semi_normaliser: str = "sampled"  # N_cls of Eq. 4: every sampled anchor/RoI, or the positive ones
    pseudo_ratio: float = 1.0  # pseudo-labelled images drawn beside each labelled one
    warm_start: bool = False  # True: start from the previous model instead of the initial weights
    seed: int = 0

    # Execution: how fast, not what; auto is what was measured to be quickest on the machine (tsp_model/execution.py).
    # They belong to the machine: a version answers as the settings say where it answers.
    precision: str = "auto"  # "bfloat16"; "float32"; "mixed": bfloat16 in mask and score heads only
    memory_format: str = "auto"  # "channels_last" or "contiguous"
    roi_align: str = "auto"  # "gather" (tsp_model/roi_align.py) or "torchvision"
    linear: str = "auto"  # "onednn" or "blas", of a network that answers (tsp_model/frozen.py)
    fold_norms: bool = True  # of a network that answers, into its convolutions
    compile: bool = False  # torch.compile; a minute's start, worth it for thousands of images of one size

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
            raise SettingsError(f"unknown setting {', '.join(unknown)}; known are {', '.join(FIELD_NAMES)}.")
        return replace(self, **{name: _convert(name, value) for name, value in values.items()})

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
        "pseudo_box_threshold": 0.8,
        "pseudo_mask_threshold": 0.7,
    },
}

FIELD_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Settings))
_TYPES = {field.name: field.type for field in fields(Settings)}


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
