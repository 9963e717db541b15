"""Predictions on their way to Label Studio while more of them are made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from backend.progress import one_line
from tsp_model.predictions import Prediction, iterate_predictions

logger = logging.getLogger(__name__)


class EarlySender:
    """Sends the predictions of a file in a thread of its own while the file grows, for the length of a `with` block.

    It follows the file and not the predictions in memory: a slow server costs no memory and holds nobody up. Nothing
    depends on it: whoever sends the rest afterwards must ask the server what is there. So an error is one line in the
    log. The end of the block waits for the call it is in, since the server may finish what nobody waits for.

    Args:
        path: of the file.
        send: takes the predictions as they come, and returns or raises in the end.
        first: how many must have been added before it begins; fewer are sent as quickly afterwards.
    """

    def __init__(self, path: Path, send: Callable[[Iterator[Prediction]], object], first: int) -> None:
        self._path, self._send, self._first = path, send, first
        self._before: int | None = None
        self._on_disk, self._over = 0, False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="early-sender", daemon=True)

    def __enter__(self) -> EarlySender:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._over = True
            self._news.notify()
        self._thread.join()

    def on_disk(self, count: int) -> None:
        """The file holds `count` whole predictions now; called at first before any is added."""
        with self._news:
            self._before = count if self._before is None else self._before
            self._on_disk = count
            self._news.notify()

    def _run(self) -> None:
        try:
            if self._wait_until(lambda: self._before is not None and self._on_disk >= self._before + self._first):
                self._send(self._arriving())
        except Exception as error:  # whatever it is, all of them are sent again or looked for afterwards
            logger.warning("no predictions are sent before all are made: %s", one_line(error))

    def _arriving(self) -> Iterator[Prediction]:
        for number, prediction in enumerate(iterate_predictions(self._path), start=1):
            yield prediction
            # Before the reader looks further: it must not meet half a line.
            if not self._wait_until(lambda after=number: self._on_disk > after):
                return

    def _wait_until(self, ready: Callable[[], bool]) -> bool:
        """True once `ready`, False when the block has ended."""
        with self._news:
            self._news.wait_for(lambda: self._over or ready())
            return not self._over
