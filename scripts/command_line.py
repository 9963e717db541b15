"""What every command shares: one clear line instead of a stack trace, and the exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from backend.connection import ProjectError
from backend.images import ImageError
from backend.label_config import LabelConfigError
from backend.versions import VersionError
from scripts.processes import ServerError
from scripts.service import ServiceError
from tsp_model import memory
from tsp_model.checkpoints import CheckpointError
from tsp_model.data import DataError
from tsp_model.settings import SettingsError


class CommandError(RuntimeError):
    """A command that cannot go on; the message is one line with cause and remedy."""


EXPECTED = (
    CommandError,
    CheckpointError,
    DataError,
    ImageError,
    LabelConfigError,
    ProjectError,
    ServerError,
    ServiceError,
    SettingsError,
    VersionError,
)


def run(name: str, main: Callable[[], None], stopped: str = "stopped") -> None:
    """Call `main` and leave with 0; with 1 and one line for what users can mend, with 130 after Ctrl-C."""
    memory.keep()
    level = os.environ.get("LOG_LEVEL", "WARNING").upper()
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except EXPECTED as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        sys.exit(f"{name}: {error.strerror or error}: {error.filename or 'no file named'}")
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(130)
