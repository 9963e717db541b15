"""The connections over which images come: to addresses that were checked, and for no longer than there is time.

A name is looked up once, its addresses are checked, and the connection goes to one of them: that the name leads
elsewhere a moment later changes nothing. Every step waits for what is left of the whole download's time, so that a
server that drips gains none. Proxies are not used: behind one nobody would know where a name leads.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LookupTimeoutError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

import httpcore
import httpx

from tsp_model.errors import ExplainedError

IDLE_SECONDS = 5.0  # of a connection, before a firewall forgets it in silence
LOOKUPS = 8  # at once; a name server that does not answer holds one until the system gives up


class RefusedError(ExplainedError):
    """Nothing may be fetched from there. The message is one line without an address."""


@dataclass(frozen=True)
class Guard:
    """Attributes:

    deadline: by time.monotonic(). refusal: why no connection may be made to a host and port with these IP addresses.
    """

    deadline: float
    refusal: Callable[[str, int, Iterable[str]], str | None]

    @property
    def left(self) -> float:
        """Seconds; httpcore.ReadTimeout if there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is over")
        return left

    def addresses(self, host: str, port: int) -> list[str]:
        """The IP addresses that `host` has, all of which may be asked.

        Raises RefusedError; httpcore.ConnectTimeout if nobody knows in time.
        """
        found = _lookup(host, port, self.left)
        if refusal := self.refusal(host, port, found):
            raise RefusedError(refusal)
        return found


_guard: ContextVar[Guard] = ContextVar("guard")


@contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """What `client` does within goes by `guard`, in this thread."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


@functools.cache
def client() -> httpx.Client:
    """One client for all downloads, because making one costs more than a small image. For use within `guarded`.

    It keeps no cookies: a session cookie of Label Studio would also go to other ports of the same host.
    """
    transport = httpx.HTTPTransport()
    # httpx has no parameter for the network beneath it.
    transport._pool = httpcore.ConnectionPool(
        ssl_context=httpx.create_ssl_context(), keepalive_expiry=IDLE_SECONDS, network_backend=_Network()
    )
    no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(transport=transport, cookies=no_cookies, timeout=None)


class _Network(httpcore.NetworkBackend):
    """Of httpcore's own backend, what `Guard` lets through."""

    def __init__(self) -> None:
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        guard = _guard.get()
        addresses = guard.addresses(host, port)
        for number, address in enumerate(addresses):
            waiting = len(addresses) - number
            share = guard.left / waiting  # the next ones want some of the time, too
            try:
                return _Stream(self._plain.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if waiting == 1:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")


class _Stream(httpcore.NetworkStream):
    """A stream that waits for what is left of its reader's time."""

    def __init__(self, plain: httpcore.NetworkStream) -> None:
        self._plain = plain

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._plain.read(max_bytes, _guard.get().left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._plain.write(buffer, _guard.get().left)

    def close(self) -> None:
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._plain.start_tls(ssl_context, server_hostname, _guard.get().left))

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)


def _lookup(host: str, port: int, seconds: float) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        entries = _lookups().submit(getaddrinfo, host, port, type=SOCK_STREAM).result(seconds)
    except LookupTimeoutError:
        raise httpcore.ConnectTimeout(f"nobody says in time where {host} is") from None
    except (OSError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RefusedError(f"{host} has no address ({reason}): correct the task's data") from None
    return list(dict.fromkeys(entry[4][0] for entry in entries))


@functools.cache
def _lookups() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")
