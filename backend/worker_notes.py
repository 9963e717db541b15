"""What the worker says of itself, in a file that /health reads: what only the worker knows, and asking costs nothing.

    MODEL_DIR/worker.json     {device, label_studio, not_looked_at: {project key: reason}}

`label_studio` is REACHED, or one line that says why not; see backend.watch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tsp_model.files import read_json, write_json

logger = logging.getLogger(__name__)

REACHED = "reached"


def note(model_dir: Path, **values: Any) -> None:
    """Keep `values` beside what was noted before. The worker's alone, and a full disk is no reason for it to stop."""
    try:
        write_json(_file(model_dir), noted(model_dir) | values)
    except OSError as error:
        logger.warning("what the worker says of itself cannot be kept: %s", error)


def forget(model_dir: Path) -> None:
    """A worker that starts knows nothing yet."""
    _file(model_dir).unlink(missing_ok=True)


def noted(model_dir: Path) -> dict[str, Any]:
    """What was noted since the worker's start; nothing where the file is not there, or damaged."""
    return read_json(_file(model_dir)) or {}


def _file(model_dir: Path) -> Path:
    return model_dir / "worker.json"
