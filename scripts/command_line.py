"""What every command shares: one clear line instead of a stack trace, and the exit code."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from tsp_model import memory
from tsp_model.errors import ExplainedError

WIDTH = 100  # of a description


class CommandError(ExplainedError, RuntimeError):
    """A command that cannot go on; the message is one line with cause and remedy."""


def parser_of(name: str, doc: str | None, *examples: str) -> argparse.ArgumentParser:
    """The parser of the command `python -m scripts.<name>`; see `described`."""
    return argparse.ArgumentParser(prog=f"python -m scripts.{name}", **described(name, doc, *examples))


def described(name: str, doc: str | None, *examples: str) -> dict[str, Any]:
    """What --help says around the arguments of `python -m scripts.<name>`, as a parser takes it.

    Args:
        doc: the first paragraph is shown. examples: arguments that work when pasted, each a line as long as it is.
    """
    return {
        "description": textwrap.fill((doc or "").split("\n\n")[0], WIDTH),
        "epilog": "\n  ".join(["example:", *(f".venv/bin/python -m scripts.{name} {example}" for example in examples)]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def run(name: str, main: Callable[[], None], stopped: str = "stopped") -> None:
    """Call `main` and leave with 0; with 1 and one line for what users can mend, with 130 after Ctrl-C."""
    memory.keep()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except ExplainedError as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        sys.exit(f"{name}: {error.strerror or error}: {error.filename or 'no file named'}")
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(130)
