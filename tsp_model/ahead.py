"""Work done ahead of whoever needs its results, by a thread beside the one that asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def ahead(function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[Iterator[R]]:
    """`map(function, items)` by one thread, which works on the next results while the last one is used.

    Items are drawn in the thread that asks for results, `most` of them more than it has taken, so that memory holds
    no more than those. Results come in order; what `function` raises comes where its result would have come. After
    the `with` block the thread has ended, however the block ended; what it had not begun is dropped.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        try:
            yield _in_order(thread, function, items, most)
        finally:
            thread.shutdown(cancel_futures=True)


def _in_order(thread: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(thread.submit(function, item))
        if len(begun) > most:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
