"""That a process keeps the memory it has used."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Each block is larger than what glibc would keep by itself; the first one pays for all.
PROGRAM = """
import resource, sys
sys.path.insert(0, {root!r})
from tsp_model import memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def block():
    before = faults()
    bytearray(64 * 2**20)
    return faults() - before
block()
before, kept = block(), memory.keep()
block()
print(before, int(kept), block())
"""
# Resident kB with the block that is kept, and after it was given back.
RELEASED = """
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
held = resident()
memory.release()
print(held, resident())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")


@glibc
def test_a_block_that_was_freed_costs_nothing_the_next_time() -> None:
    program = PROGRAM.format(root=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept
    assert before > 10  # 2 MB a page where the kernel gives huge ones
    assert after < before / 10


def test_elsewhere_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsp_model import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    memory.keep.cache_clear()
    try:
        assert memory.keep() is False
    finally:
        memory.keep.cache_clear()


@glibc
def test_what_a_job_no_longer_uses_goes_back() -> None:
    program = PROGRAM.format(root=str(Path(__file__).parents[1])) + RELEASED
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    held, given_back = map(int, done.stdout.splitlines()[-1].split())
    assert held > 64 * 2**10 > given_back
