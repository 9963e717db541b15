"""Memory that a process has used once stays with it."""

from __future__ import annotations

import ctypes
import functools
import platform

# Parameters of mallopt, from glibc's malloc.h (https://man7.org/linux/man-pages/man3/mallopt.3.html)
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


@functools.cache
def keep() -> bool:
    """Tell the C library to keep what is freed for the next time; whether it does. Counts for the whole process.

    glibc asks the kernel for every block of 32 MB and more and gives it back when it is freed. The features of a batch
    are such blocks, so each layer would begin with the kernel clearing its memory page by page. What the process holds
    is its peak then, and all threads allocate from one place, so that one thread's past peak serves another's; to be
    called while there is one thread, since a place that another one has by now stays in use and gives memory back.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # as its manual page has it
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, never)])


def release() -> None:
    """Give back to the kernel what nothing uses now, after work that will not come again soon; milliseconds."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
