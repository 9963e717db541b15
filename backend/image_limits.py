"""Which images may be fetched: from whom, and how large.

A task's address is text that anybody with access to a project may have written, and the backend may reach what its
users may not. So images come from Label Studio itself and from hosts that the service's settings name, and a star in
a name never opens a private network.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

SETTING = "TSP_IMAGE_HOSTS"
PORTS = {"http": 80, "https": 443}
MOST_MEGAPIXELS = 178  # Pillow opens no larger image


@dataclass(frozen=True)
class ImageLimits:
    """Attributes:

    hosts: names of hosts besides Label Studio's, lower case; a star stands for any text, "*" for every public host.
    megapixels: of an image, at most. megabytes: of its file. seconds: to download it, all attempts and redirects.
    """

    hosts: tuple[str, ...] = ()
    megapixels: float = 64.0
    megabytes: float = 200.0
    seconds: float = 30.0

    def refusal(self, address: str, studio: str) -> str | None:
        """Why nothing may be fetched from an http(s) address, with the remedy; None if it may be.

        Looks up the host's name where only a star lets it in.

        Args:
            studio: Label Studio's address.
        """
        host = _host(address)
        if _climbs(address):
            return "its path climbs out of its folder with '..': correct the task's data"
        if self._named(address, studio):
            return None
        if not self._by_a_star(host):
            return f"{host} is neither Label Studio nor among the hosts of {SETTING}: name it there"
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
        except (OSError, UnicodeError) as error:
            return f"{host} has no address ({str(error).splitlines()[0]}): correct the task's data"
        return self.refusal_of_peer(address, studio, found)

    def refusal_of_peer(self, address: str, studio: str, peers: Iterable[str]) -> str | None:
        """The same for the IP addresses that stand behind a name. Looked at again once there is a connection, since the
        name may lead elsewhere by then: of such an answer nothing is read."""
        if self._named(address, studio):
            return None
        private = sorted(peer for peer in peers if not _public(peer))
        if not private:
            return None
        return f"{_host(address)} leads into a private network ({private[0]}): name it in {SETTING}"

    def _named(self, address: str, studio: str) -> bool:
        """Label Studio's own host and port, or the same host by https, where a plain address may redirect to; or a host
        that the settings name in full."""
        _, host, port = origin(address)
        _, its_host, its_port = origin(studio)
        return (host == its_host and port in (its_port, PORTS["https"])) or host in self.hosts

    def _by_a_star(self, host: str) -> bool:
        return any("*" in name and fnmatchcase(host, name) for name in self.hosts)


def origin(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address, in lower case; ValueError for a port that is none."""
    parts = urlsplit(address)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme)


def _host(address: str) -> str:
    return origin(address)[1]


def _climbs(address: str) -> bool:
    """Whether path or parameters hold "..", written plainly or not: Label Studio reads local files by their path."""
    parts = urlsplit(address)
    texts = [parts.path, *(value for _, value in parse_qsl(parts.query))]
    return any(".." in PurePosixPath(unquote(unquote(text)).replace("\\", "/")).parts for text in texts)


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not ip.is_multicast
