"""A server never outlives the program that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.processes import Child, ServerError, free_port, require_free_port

SERVE = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.05)


def test_stop_ends_the_command(tmp_path: Path) -> None:
    port = free_port()
    child = Child([*SERVE, str(port)], os.environ, tmp_path / "log")
    try:
        wait_until(lambda: answers(port))
        assert child.alive
    finally:
        child.stop()
    assert not child.alive
    assert not answers(port)
    child.stop()  # a second time is harmless


def test_grandchildren_end_with_the_command(tmp_path: Path) -> None:
    port = free_port()
    serve = " ".join([*SERVE, str(port)])
    child = Child(["/bin/sh", "-c", f"{serve} & while true; do sleep 1; done"], os.environ, tmp_path / "log")
    try:
        wait_until(lambda: answers(port))
    finally:
        child.stop()
    wait_until(lambda: not answers(port))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_with_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    port = free_port()
    program = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "from scripts.processes import Child\n"
        f"Child({[*SERVE, str(port)]!r}, os.environ, pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "time.sleep(600)\n"
    )
    repository = Path(__file__).resolve().parent.parent
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=repository, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port))
    finally:
        parent.send_signal(ending)
        try:
            parent.wait(30)
        finally:
            parent.kill()
    wait_until(lambda: not answers(port))


def test_the_log_tells_how_a_command_ended(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], os.environ, tmp_path / "log")
    try:
        wait_until(lambda: not child.alive)
    finally:
        child.stop()
    assert child.tail().splitlines() == ["out", "err", "/bin/sh ended with exit status 3"]
    assert child.tail(1) == "/bin/sh ended with exit status 3"


def test_a_missing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"/no/such/command is not there"):
        Child(["/no/such/command"], os.environ, tmp_path / "log")


def test_a_port_in_use_or_out_of_range_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} .*choose another port"):
            require_free_port(port)
    require_free_port(port)
    with pytest.raises(ServerError, match="port 70000 "):
        require_free_port(70000)
