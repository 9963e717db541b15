"""Which workers run, as the web services and the other workers see it.

A job database on SQLite has one worker, which holds the lock of a file (worker_lock). On PostgreSQL any number of
workers share the jobs. Each holds a session's advisory lock there, which the server lets go of with the connection,
however the worker ends: https://www.postgresql.org/docs/15/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from backend import worker_lock

if TYPE_CHECKING:
    from psycopg import Connection

    from backend.settings import ServiceSettings

logger = logging.getLogger(__name__)

OURS = 0x545350  # "TSP": the first of the two numbers of our locks, the second tells the worker
BEAT_SECONDS = 2.0
# Both ends give a silent machine up within a minute; by default a server waits two hours.
CLIENT = {"connect_timeout": 3, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 20_000}
SERVER = "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
LIVING = """
SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def running(service: ServiceSettings) -> int:
    """How many workers run. psycopg.OperationalError where PostgreSQL does not answer."""
    if not service.shared:
        return int(worker_lock.held(service.model_dir))
    with _connect(service.database_url) as connection:
        return len(_living(connection))


def presence_of(service: ServiceSettings) -> Alone | Shared:
    """A worker's own, by the job database that it works on."""
    return Shared(service.database_url) if service.shared else Alone(service.model_dir)


class Alone:
    """The worker of an SQLite database. A new one takes up what the one before left, under the same id."""

    executor_id = "worker"

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir

    def hold(self) -> bool:
        """Be the worker until the process ends; False: there is one."""
        self._lock = worker_lock.hold(self._model_dir)
        return self._lock is not None

    def gone(self, executor_ids: set[str]) -> set[str]:
        """There are no others."""
        return set()


class Shared:
    """One of the workers of a PostgreSQL database, with an id of its own each time it starts.

    Args:
        database_url: postgresql://user:password@host/name.
    """

    def __init__(self, database_url: str) -> None:
        self.executor_id = f"worker-{uuid.uuid4().hex}"
        self._url = database_url

    def hold(self) -> bool:
        """Be known as living until the process ends; a connection that is lost is made anew."""
        self._connection = self._locked()
        threading.Thread(target=self._keep, name="presence", daemon=True).start()
        return True

    def gone(self, executor_ids: set[str]) -> set[str]:
        """Which of these workers do not live."""
        if not executor_ids:
            return set()
        with _connect(self._url) as connection:
            living = _living(connection)
        return {one for one in executor_ids if lock_of(one) not in living}

    def _locked(self) -> Connection:
        connection = _connect(self._url)
        connection.execute("SELECT pg_advisory_lock(%s, %s)", (OURS, lock_of(self.executor_id)))
        return connection

    def _keep(self) -> None:
        from psycopg import OperationalError

        while True:
            time.sleep(BEAT_SECONDS)
            try:
                self._connection.execute("SELECT 1")
            except OperationalError as lost:
                logger.warning("the job database does not answer: %s", " ".join(str(lost).split()))
                self._connection = self._again()
                logger.info("the job database answers again")

    def _again(self) -> Connection:
        from psycopg import OperationalError

        while True:
            try:
                return self._locked()
            except OperationalError:
                time.sleep(BEAT_SECONDS)


def _connect(database_url: str) -> Connection:
    import psycopg

    return psycopg.connect(database_url, autocommit=True, options=SERVER, **CLIENT)


def _living(connection: Connection) -> set[int]:
    return {number for (number,) in connection.execute(LIVING, (OURS,)).fetchall()}


def lock_of(executor_id: str) -> int:
    """The second number of a worker's lock: 31 bits, which are the same with and without a sign."""
    return int.from_bytes(hashlib.blake2s(executor_id.encode(), digest_size=4).digest(), "big") >> 1
