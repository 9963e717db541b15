"""What every command shares: one clear line instead of a stack trace, and the exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from tsp_model import memory
from tsp_model.errors import ExplainedError


class CommandError(ExplainedError, RuntimeError):
    """A command that cannot go on; the message is one line with cause and remedy."""


def parser_of(name: str, doc: str | None, example: str) -> argparse.ArgumentParser:
    """The parser of the command `python -m scripts.<name>`.

    Args:
        doc: of its module; the first paragraph describes it. example: arguments that work when pasted.
    """
    command = f"python -m scripts.{name}"
    return argparse.ArgumentParser(
        prog=command, description=(doc or "").split("\n\n")[0], epilog=f"example: {command} {example}"
    )


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
