"""The job database: whether it can be used here, and what becomes of a damaged one on disk.

It holds no labels and no models: what there is to do is read from Label Studio, so that an empty one costs time only.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

SQLITE = "sqlite:///"


def unusable_sqlite() -> str | None:
    """Why SQLite cannot hold the jobs under this Python, or None.

    From Python 3.12 on DBOS stamps its rows with unixepoch('subsec'), which is NULL before SQLite 3.42.
    """
    if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
        return f"Python {sys.version_info[0]}.{sys.version_info[1]} comes with SQLite {sqlite3.sqlite_version} here"
    return None


def unreachable(database_url: str) -> str | None:
    """Why PostgreSQL does not let us in, or None. A database that is not there yet is made by whoever starts first."""
    import psycopg

    try:
        psycopg.connect(database_url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        return None if "does not exist" in reason and "database" in reason else reason
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return None


def prepare_database(database_url: str) -> None:
    """Make the job database, its folder too, and its tables, as far as they are not there; milliseconds if they are."""
    from dbos import DBOS

    logging.getLogger("dbos").setLevel(logging.WARNING)
    if database_url.startswith(SQLITE):
        Path(database_url.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    DBOS.migrate(database_url)


def put_aside_if_damaged(database_url: str) -> str | None:
    """Move a damaged SQLite database out of the way, so that a new one begins; one line about it, or None.

    Nobody else may have it open.
    """
    path = Path(database_url.removeprefix(SQLITE))
    if not database_url.startswith(SQLITE) or not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None  # busy, or the disk is full: no damage
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found == "ok":
        return None
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}")
    for end in ("", "-wal", "-shm"):
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(aside.with_name(aside.name + end))
    if (states := path.with_name("jobs")).is_dir():  # numbers begin at 1 again: old states would pass for theirs
        states.rename(aside.with_name(f"{aside.name}-states"))
    reason = " ".join(found.split())
    return f"the job database {path} is damaged ({reason}): it is {aside.name} now, and unfinished jobs begin anew."
