"""A server by its address: one, or a cluster."""

from __future__ import annotations

from collections.abc import Callable

from surgetank.redis.address import RedisAddress
from surgetank.redis.cluster import RedisCluster
from surgetank.redis.server import Ask, Confirmation, RedisServer


def server_at(
    address: RedisAddress,
    *,
    name: str,
    timeout_s: float = 5.0,
    patience_s: float = 5.0,
    confirmation: Confirmation | None = None,
    on_connect: Callable[[Ask], None] | None = None,
) -> RedisServer:
    """See `RedisServer`."""
    kind = RedisCluster if address.is_cluster else RedisServer
    return kind(
        address, name=name, timeout_s=timeout_s, patience_s=patience_s, confirmation=confirmation,
        on_connect=on_connect,
    )  # fmt: skip
