"""`--smoke`: tiny sizes, by which a long command proves in seconds that everything runs. Its figures mean nothing."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "tiny sizes, to see in seconds that everything runs; the figures mean nothing"
# Of Algorithm 1; what else was asked for gives way.
RUN: dict[str, int] = {"cycles": 2, "per_cycle": 2, "train_images": 8, "test_images": 4}
METHOD: dict[str, Any] = {"epochs": 1, "least_steps": 0, "image_size": 64}
# Of networks that are trained to be asked in several ways: scripts.benchmark agreement and learning.
TRAINED = {"sets": "synthetic", "labels": 4, "pool": 6, "test": 4, "epochs": 1, "size": 64}


def add_smoke_argument(parser: argparse.ArgumentParser) -> None:
    """The switch, the same for every command that takes long."""
    parser.add_argument("--smoke", action="store_true", help=HELP)
