"""gunicorn's threads, with an end to requests that do not arrive.

A client that sends half a request and then nothing, or a letter now and then, or whose network is gone, would hold a
thread for as long as it likes: gunicorn's own time limit knows whole workers only.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

ARRIVAL_SECONDS = 60.0  # for headers and body together; 512 MB come in a minute at 70 Mbit/s
LOOK_SECONDS = 1.0


class Arrivals:
    """Stops reading from sockets on which a request took too long to come.

    An answer that takes longer is written all the same; its connection is not used again.
    """

    def __init__(self) -> None:
        self._expected: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="arrivals", daemon=True).start()

    @contextmanager
    def expected(self, connection: socket.socket) -> Iterator[None]:
        """A request is to arrive on `connection` within."""
        number = next(self._numbers)
        self._expected[number] = time.monotonic() + ARRIVAL_SECONDS, connection
        try:
            yield
        finally:
            self._expected.pop(number, None)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for number, (deadline, connection) in list(self._expected.items()):
                if now > deadline:
                    self._expected.pop(number, None)
                    with suppress(Exception):  # it has just been closed; the others are looked at all the same
                        connection.shutdown(socket.SHUT_RD)


class WebWorker(ThreadWorker):
    """The worker class that `python -m backend web` tells gunicorn to use."""

    def init_process(self) -> None:
        self._arrivals = Arrivals()
        super().init_process()

    def handle(self, conn: Any) -> Any:
        with self._arrivals.expected(conn.sock):
            return super().handle(conn)
