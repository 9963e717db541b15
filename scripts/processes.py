"""A server as a child process that never outlives its parent.

Between parent and server stands scripts/guard.py, which ends the server and all that it started when the parent asks
for it or is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scripts import guard
from scripts.guard import GRACE_SECONDS
from tsp_model.errors import ExplainedError


class ServerError(ExplainedError, RuntimeError):
    """A server that cannot be started or has ended; the first line says why and what to do."""


class Child:
    """A command running under a guard, its output appended to a log file."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        """Start `command` in the folder of `log`. Raises ServerError if it cannot be run."""
        if not os.access(command[0], os.X_OK):
            raise ServerError(f"{command[0]} is not there or cannot be run")
        self.log = log
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *map(str, command)],
                cwd=log.parent,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def group(self) -> int:
        """The id of the process group that holds the guard, the server and the server's children."""
        return self._guard.pid

    @property
    def alive(self) -> bool:
        """False once the server has ended, by itself or stopped."""
        return self._guard.poll() is None

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the whole group and wait until it is gone; harmless if it already is."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            os.killpg(self.group, signal.SIGKILL)
            self._guard.wait()


def statuses(group: int | None, word: str | None = None) -> list[dict[str, str]]:
    """What the kernel tells of each process of a group, by name as in /proc/<pid>/status (Linux); the ended ones, whose
    parent has not looked yet, are left out.

    Args:
        word: only of those that have it in their command line, as a word of its own.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if os.getpgid(int(entry.name)) == group and any(words) and (word is None or word in words):
                lines = (entry / "status").read_text().splitlines()
                found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return found


def require_free_port(port: int, host: str = "127.0.0.1") -> None:
    """Raise ServerError, with the remedy, unless a server could listen on `host`:`port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServerError(
                f"port {port} cannot be used ({reason}): stop what listens there, or choose another port"
            ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
