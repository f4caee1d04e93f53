"""The latest state of a thread as jsonb for SQL: plain, sanitized, bounded. Allowed to lose; says
so where it does.

A channel that is too large is shown by its tail (lists) or by its size. Values are decoded without
importing or building any class of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from surgetank.encode.plain import list_items, to_plain
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.model import Replacement

DECODED_BYTES = 512 * 1024  # larger values are not decoded for the projection
CHANNEL_BYTES = 16 * 1024
MAX_CHANNELS = 200
Shown = tuple[bytes, tuple[Replacement, ...]]


def project(channel: str, type_: str, data: bytes) -> Shown:
    """One channel's value as JSON, and what had to be replaced in it (paths start at the
    channel)."""
    if "+" in type_:
        return orjson.dumps({"$encrypted": type_.split("+", 1)[1][:40]}), ()
    if len(data) > DECODED_BYTES:
        return orjson.dumps({"$omitted": "too large", "$bytes": len(data)}), ()
    try:
        if (
            type_ == "msgpack"
            and len(data) > CHANNEL_BYTES
            and (items := list_items(data)) is not None
        ):
            return _newest(channel, data, items)
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
    return encoded, _located(channel, "", replaced)


def _located(channel: str, at: str, replaced: Sequence[Replacement]) -> tuple[Replacement, ...]:
    return tuple(
        Replacement(f"$.channel_values.{channel}{at}{r.path[1:]}", r.reason, r.original)
        for r in replaced
    )


def _tail(items: list[Any]) -> bytes:
    """The last items that fit, and how many there are."""
    kept: list[bytes] = []
    size = 0
    for item in reversed(items):
        encoded, _ = dumps_jsonb(item)
        size += len(encoded)
        if size > CHANNEL_BYTES:
            break
        kept.append(encoded)
    return _shown_tail(len(items), kept)


def _shown_tail(count: int, newest_first: list[bytes]) -> bytes:
    return b'{"$items":%d,"$tail":[%s]}' % (count, b",".join(reversed(newest_first)))


def _newest(channel: str, data: bytes, items: Sequence[tuple[int, int]]) -> Shown:
    """A list of which only the end is shown: what comes before is not even decoded."""
    kept: list[bytes] = []
    replacements: list[Replacement] = []
    size = 0
    for index in range(len(items) - 1, -1, -1):
        start, end = items[index]
        encoded, replaced = dumps_jsonb(to_plain("msgpack", data[start:end]))
        size += len(encoded)
        if size > CHANNEL_BYTES:
            return _shown_tail(len(items), kept), tuple(replacements)
        kept.append(encoded)
        replacements += _located(channel, f"[{index}]", replaced)
    encoded = b"[" + b",".join(reversed(kept)) + b"]"
    return encoded if len(encoded) <= CHANNEL_BYTES else _shown_tail(len(items), kept), tuple(
        replacements
    )


def join(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """Channels and their JSON as one JSON object."""
    return b"{" + b",".join([_name(name) + value for name, value in parts]) + b"}"


def is_shown(channel: str) -> bool:
    """Whether a channel is shown: LangGraph's own bookkeeping is not."""
    return not channel.startswith(("branch:", "__"))


def state(present: Sequence[str], values: Mapping[str, tuple[str, bytes]]) -> bytes:
    """The whole state of a checkpoint: channels that are present, in order, and their values."""
    named = [channel for channel in present[:MAX_CHANNELS] if channel in values]
    return join([(c, project(c, *values[c])[0]) for c in named if is_shown(c)])


@lru_cache(maxsize=4096)
def _name(channel: str) -> bytes:
    return dumps_jsonb(channel)[0] + b":"
