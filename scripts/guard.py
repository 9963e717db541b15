"""Run as a script, on its own and in no environment of ours: between a parent and its server stands this guard.

It leads a process group of its own with the server in it and reads a pipe from the parent: when that pipe closes,
because the parent asks for it or is gone (Ctrl-C, SIGTERM, kill -9), the guard ends the whole group, first politely,
then not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 10.0
"""How long a server may take to end by itself after SIGTERM."""


def guard(command: list[str]) -> None:
    """Run `command` until it ends or standard input closes, then end everything in this process group."""
    # A handler, not SIG_IGN: the command inherits the latter and would not end on SIGTERM either.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = child.wait()
    print(f"{command[0]} ended with exit status {code}", flush=True)
    os.killpg(0, signal.SIGKILL)  # what the command may have left behind, and this guard


if __name__ == "__main__":
    guard(sys.argv[1:])
