"""Labelled images: sets in memory, COCO folders, the built-in synthetic set, augmentation.

Importing this package costs nothing: torch is loaded only by the modules that need it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tsp_model.errors import ExplainedError


class DataError(ExplainedError, ValueError):
    """Data that cannot be used. The message is one line: the cause, then the remedy."""


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few of ``names``, for a message."""
    return ", ".join(str(name) for name in names[:most]) + (", ..." if len(names) > most else "")
