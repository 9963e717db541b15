"""Which images may be fetched: from whom, and how large.

A task's address is text that anybody with access to a project may have written, and the backend may reach what its
users may not. So images come from Label Studio itself and from hosts that the service's settings name, and a star in
a name never opens a private network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit

SETTING = "TSP_IMAGE_HOSTS"
PORTS = {"http": 80, "https": 443}
GLOBAL_UNICAST, SIX_TO_FOUR = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("2002::/16")
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
        """Why nothing may be fetched from an http(s) address, with the remedy; None if its text allows it.

        Args:
            studio: Label Studio's address.
        """
        _, host, port = origin(address)
        if _climbs(address):
            return "its path climbs out of its folder with '..': correct the task's data"
        if self._named(host, port, studio) or self._by_a_star(host):
            return None
        return f"{host} is neither Label Studio nor among the hosts of {SETTING}: name it there"

    def refusal_of_peers(self, host: str, port: int, studio: str, peers: Iterable[str]) -> str | None:
        """The same for the IP addresses that stand behind a name which only a star lets in."""
        if self._named(host, port, studio):
            return None
        private = sorted(peer for peer in peers if not _public(peer))
        return f"{host} leads into a private network ({private[0]}): name it in {SETTING}" if private else None

    def _named(self, host: str, port: int | None, studio: str) -> bool:
        """Label Studio's own host and port, or the same host by https, where a plain address may redirect to; or a host
        that the settings name in full."""
        _, its_host, its_port = origin(studio)
        return (host == its_host and port in (its_port, PORTS["https"])) or host in self.hosts

    def _by_a_star(self, host: str) -> bool:
        return any("*" in name and fnmatchcase(host, name) for name in self.hosts)


def origin(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address, in lower case; ValueError for a port that is none."""
    parts = urlsplit(address)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme)


def _climbs(address: str) -> bool:
    """Whether path or parameters hold "..", written plainly or not: Label Studio reads local files by their path."""
    parts = urlsplit(address)
    texts = [parts.path, *(value for _, value in parse_qsl(parts.query))]
    return any(".." in PurePosixPath(unquote(unquote(text)).replace("\\", "/")).parts for text in texts)


def _public(address: str) -> bool:
    """Of IPv6 only what stands for itself: an address that leads through a translator or a tunnel (NAT64, 6to4, Teredo,
    IPv4 in its last bits) may end in a private network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is None:
        return ip in GLOBAL_UNICAST and ip not in SIX_TO_FOUR and ip.is_global
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast
