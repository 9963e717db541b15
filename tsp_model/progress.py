"""How long work tells whoever watches how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def silent(event: dict[str, Any]) -> None:
    """Progress that nobody watches."""
