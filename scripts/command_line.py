"""What every command shares: one clear line instead of a stack trace, and the exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from tsp_model import memory
from tsp_model.errors import ExplainedError


class CommandError(ExplainedError, RuntimeError):
    """A command that cannot go on; the message is one line with cause and remedy."""


def run(name: str, main: Callable[[], None], stopped: str = "stopped") -> None:
    """Call `main` and leave with 0; with 1 and one line for what users can mend, with 130 after Ctrl-C."""
    memory.keep()
    level = os.environ.get("LOG_LEVEL", "WARNING").upper()
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except ExplainedError as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        sys.exit(f"{name}: {error.strerror or error}: {error.filename or 'no file named'}")
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(130)
