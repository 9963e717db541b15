"""Contestants in a process of their own: what ours settles for its whole process does not reach them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from scripts.command_line import CommandError

Build = Callable[..., Mapping[str, Callable[[], Any]]]


@contextmanager
def elsewhere(build: Build, *arguments: Any, threads: int) -> Iterator[dict[str, Callable[[], Any]]]:
    """The contestants of `build(*arguments)`, a function of a module, by name.

    Calling one has the other process run it and gives what it returned, which should be small: sending it takes part in
    the time. CommandError if that process ends.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, arguments, threads), daemon=True)
    process.start()
    there.close()
    try:
        yield {name: partial(_ask, here, name) for name in _received(here)}
    finally:
        with suppress(OSError):
            here.send(None)
        process.join()


def _ask(connection: Connection, name: str) -> Any:
    connection.send(name)
    return _received(connection)


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise CommandError("the process of the other contestants ended; the reason stands above.") from None


def _serve(connection: Connection, build: Build, arguments: tuple[Any, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    contestants = build(*arguments)
    connection.send(list(contestants))
    with suppress(EOFError):  # whoever asked is gone
        for name in iter(connection.recv, None):
            connection.send(contestants[name]())
