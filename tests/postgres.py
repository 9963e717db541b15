"""A real PostgreSQL server on this machine, for tests: started, waited for, always stopped."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from scripts.processes import Child, ServerError, free_port

START_SECONDS = 60.0
USER = "tsp"
NO_POSTGRES = "no PostgreSQL: install it (Debian, Ubuntu: apt-get install postgresql)"


def program(name: str) -> str | None:
    """A program of the server; Debian keeps them outside of the path."""
    outside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or next(map(str, reversed(outside)), None)


class Postgres:
    """A server with the database `postgres`, whose user may make others.

    Attributes: port, password.
    """

    def __init__(self, folder: Path) -> None:
        """In an empty folder. ServerError if there is none in time."""
        self.port, self.password = free_port(), secrets.token_urlsafe(12)
        self._folder, self._data = folder, folder / "data"
        (folder / "password").write_text(self.password)
        self._prefix = _as_another_than_root(folder)
        asked = ["-D", self._data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync"]
        made = subprocess.run(
            [*self._prefix, program("initdb"), *asked], env=_environment(), cwd=folder, capture_output=True, text=True
        )
        if made.returncode:
            raise ServerError(f"initdb failed: {made.stderr}")
        self.start()

    def start(self) -> None:
        """Start, also once more after `stop`, and wait until it answers."""
        arguments = ["-D", self._data, "-p", self.port, "-k", self._folder, "-c", "listen_addresses=127.0.0.1"]
        command = [*self._prefix, program("postgres"), *map(str, arguments)]
        self._child = Child([shutil.which(command[0]), *command[1:]], _environment(), self._folder / "postgres.log")
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                return psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if not self._child.alive or time.monotonic() > limit:
                    raise ServerError(f"PostgreSQL does not answer: {self._child.tail()}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End it and everybody's connection: SIGTERM, which the guard would send, waits for all to leave."""
        os.kill(int((self._data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGINT)
        limit = time.monotonic() + START_SECONDS
        while self._child.alive and time.monotonic() < limit:
            time.sleep(0.05)
        self._child.stop()

    def url(self, database: str) -> str:
        """Of a database, whether it is there or not."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """A new database; its url."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for the length of a `with` block."""
    # Not in pytest's folder, which is its user's alone: root's cannot be entered by the server's.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_another_than_root(folder: Path) -> Sequence[str]:
    """What a command begins with so that PostgreSQL, which refuses root, runs; the folder is that user's then."""
    if os.getuid():
        return []
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


def _environment() -> dict[str, str]:
    return os.environ | {"LC_ALL": "C.UTF-8"}
