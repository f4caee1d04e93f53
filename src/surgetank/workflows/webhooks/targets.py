"""Where a webhook may be sent to. A URL is checked when a run is accepted, and the address each
time: the one that is checked is the one that is connected to, so a name that changes what it points
to gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from surgetank.exceptions import WebhookRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[..., Sequence[tuple[Any, ...]]]
_MAX_URL = 2048
_PRINTABLE = re.compile(r"[!-~]+")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the last 32 bits are an IPv4 address
# Public by their numbers for some versions of Python, and answered by the machine's own cloud.
_METADATA = (ipaddress.IPv4Network("168.63.129.16/32"), ipaddress.IPv4Network("192.0.0.0/24"))
_ADDRESSES_TRIED = 3


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A URL in its parts. `path` has the query; it may be a secret, so only `origin` is shown."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What may be shown of it."""
        return f"{self.scheme}://{self.authority}"

    @classmethod
    def of(cls, url: str) -> WebhookTarget:
        """Take a URL apart. Raises `WebhookRefused`."""
        if len(url) > _MAX_URL:
            raise _refused(f"it is longer than {_MAX_URL} characters")
        if not _PRINTABLE.fullmatch(url) or "\\" in url:
            raise _refused("it has characters that URLs don't have")
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            raise _refused("it is not a URL") from None
        if scheme not in _PORTS:
            raise _refused("it is not http:// or https://")
        if "@" in parts.netloc:
            raise _refused("it has a user or a password in it")
        if not host or "%" in host or port == 0:
            raise _refused("it names no host")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(scheme, host.rstrip("."), port or _PORTS[scheme], path)


_PORTS = {"http": 80, "https": 443}


class AllowedTargets:
    """The rule of which addresses webhooks are sent to: public ones, and what `allow` names: hosts,
    addresses, and networks (`10.1.0.0/16`)."""

    def __init__(self, allow: Sequence[str] = (), *, resolve: Resolve = socket.getaddrinfo) -> None:
        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        self._resolve = resolve
        for each in allow:
            try:
                self._networks.append(ipaddress.ip_network(each, strict=False))
            except ValueError:
                self._hosts.add(each.lower().rstrip("."))

    def check_url(self, url: str) -> WebhookTarget:
        """The target of a URL. Raises `WebhookRefused` for what is bad whatever its name points
        to."""
        target = WebhookTarget.of(url)
        try:
            literal = ipaddress.ip_address(target.host)
        except ValueError:
            literal = None  # a name
        if literal is not None and not self.allows(target.host, literal):
            raise _refused("webhooks are not sent to this address")
        if target.host.lower() == "localhost" and not (self._networks or self._hosts):
            raise _refused("webhooks are not sent to this machine")
        return target

    def allows(self, host: str, address: Address) -> bool:
        """Whether what a host's name points to may be connected to."""
        if host.lower() in self._hosts or is_public(address):
            return True
        plain = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((plain or address) in network for network in self._networks)

    def connect(self, target: WebhookTarget, timeout_s: float) -> socket.socket:
        """A connection to an address of the target that was checked. Raises `WebhookRefused`,
        `OSError`."""
        limit = time.monotonic() + timeout_s
        found = self._resolve(target.host, target.port, type=socket.SOCK_STREAM)
        allowed = [
            entry for entry in found if self.allows(target.host, ipaddress.ip_address(entry[4][0]))
        ]
        if not allowed:
            raise _refused("webhooks are not sent to the address of its host")
        for family, kind, protocol, _, address in allowed[: _ADDRESSES_TRIED - 1]:
            with suppress(OSError):
                return _connected(family, kind, protocol, address, limit)
        family, kind, protocol, _, address = allowed[min(len(allowed), _ADDRESSES_TRIED) - 1]
        return _connected(family, kind, protocol, address, limit)


def _connected(
    family: int, kind: int, protocol: int, address: tuple[Any, ...], limit: float
) -> socket.socket:
    left = limit - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(left)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and so is every one inside of it."""
    if isinstance(address, ipaddress.IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not address.is_reserved
            and not any(address in network for network in _METADATA)
        )
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None or address.teredo is not None:
        return False
    return address in _GLOBAL_UNICAST and address.is_global


def _refused(why: str) -> WebhookRefused:
    return WebhookRefused(
        f"The webhook's URL can't be used: {why}.",
        remedy="use https://HOST/PATH of a public server; an operator allows others by "
        "SURGETANK_WEBHOOK_ALLOW.",
    )
