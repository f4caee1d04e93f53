"""The latest state of a thread as jsonb for SQL: plain, sanitized, bounded. Allowed to lose; says so where it does.

A channel that is too large is shown by its tail (lists) or by its size. Values are decoded without importing
or building any class of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from surgetank.encode.plain import to_plain
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.model import Replacement

DECODED_BYTES = 512 * 1024  # larger values are not decoded for the projection
CHANNEL_BYTES = 16 * 1024
MAX_CHANNELS = 200


def project(channel: str, type_: str, data: bytes) -> tuple[bytes, tuple[Replacement, ...]]:
    """One channel's value as JSON, and what had to be replaced in it (paths start at the channel)."""
    if "+" in type_:
        return orjson.dumps({"$encrypted": type_.split("+", 1)[1][:40]}), ()
    if len(data) > DECODED_BYTES:
        return orjson.dumps({"$omitted": "too large", "$bytes": len(data)}), ()
    try:
        plain = to_plain(type_, data)
    except Exception as error:  # noqa: BLE001 - a foreign serializer's bytes: shown in place of the value
        reason = f"not decodable here ({type(error).__name__})"
        return orjson.dumps({"$omitted": reason, "$bytes": len(data)}), ()
    encoded, replaced = dumps_jsonb(plain)
    if len(encoded) > CHANNEL_BYTES:
        encoded = (
            _tail(plain)
            if isinstance(plain, list)
            else orjson.dumps({"$omitted": "too large", "$bytes": len(encoded)})
        )
    located = tuple(
        Replacement(f"$.channel_values.{channel}{r.path[1:]}", r.reason, r.original) for r in replaced
    )
    return encoded, located


def _tail(items: list[Any]) -> bytes:
    """The last items that fit, and how many there are."""
    kept: list[bytes] = []
    size = 0
    for item in reversed(items):
        encoded, _ = dumps_jsonb(item)
        size += len(encoded)
        if size > CHANNEL_BYTES:
            break
        kept.insert(0, encoded)
    return b'{"$items":%d,"$tail":[%s]}' % (len(items), b",".join(kept))


def join(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Channels and their JSON as one JSON object."""
    return b"{" + b",".join([_name(name) + value for name, value in parts]) + b"}"


@lru_cache(maxsize=4096)
def _name(channel: str) -> bytes:
    return dumps_jsonb(channel)[0] + b":"
