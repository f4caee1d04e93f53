"""Checkpoints as JSON for people and programs: sanitized and bounded, without importing or building
any class.

What is left out or replaced is said beside it, by place: an answer never looks complete when it
isn't.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from surgetank.encode.plain import to_plain
from surgetank.encode.sanitize import encode_clean, sanitize
from surgetank.streams.checkpoints.raw import RawCheckpoint

DECODED_BYTES = 8 * 1024 * 1024  # larger values are not decoded
ANSWER_BYTES = 4 * 1024 * 1024  # of all values in one answer
_NOTES = 100
# 100 ns steps between 1582-10-15 and 1970-01-01 (RFC 9562 section 5.1)
_UUID_EPOCH = 0x01B21DD213814000


@dataclass(slots=True)
class Shown:
    """Collects what goes into one answer, within `left` bytes of values, and what had to be left
    out of it."""

    value_bytes: int
    left: int = ANSWER_BYTES
    omitted: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[dict[str, Any]] = field(default_factory=list)

    def value(self, path: str, type_: str, data: bytes) -> Any:
        """A serialized value as plain JSON data, or a mark where it stood."""
        if "+" in type_:
            return self._omit(
                path, {"$encrypted": type_.split("+", 1)[1][:40]}, "encrypted", len(data)
            )
        if len(data) > DECODED_BYTES:
            return self._omit(path, None, "too large", len(data))
        try:
            plain = to_plain(type_, data)
        except Exception as error:  # noqa: BLE001 - a foreign serializer's bytes: said in place of the value
            return self._omit(path, None, f"not decodable here ({type(error).__name__})", len(data))
        return self.plain(path, plain)

    def plain(self, path: str, value: Any) -> Any:
        """Plain data, sanitized and bounded."""
        clean = sanitize(value)
        for found in clean.replacements[: _NOTES - len(self.replaced)]:
            self.replaced.append(
                {
                    "path": path + found.path[1:],
                    "reason": found.reason,
                    "original": found.original[:200],
                }
            )
        size = len(encode_clean(clean.value))
        limit = min(self.value_bytes, self.left)
        if size <= limit:
            self.left -= size
            return clean.value
        if isinstance(clean.value, list):
            return self._tail(path, clean.value, size, limit)
        return self._omit(path, None, "too large", size)

    def _tail(self, path: str, items: list[Any], size: int, limit: int) -> Any:
        kept: list[Any] = []
        used = 0
        for item in reversed(items):
            used += len(encode_clean(item)) + 1
            if used > limit:
                break
            kept.insert(0, item)
        self.left -= used if kept else 0
        return self._omit(path, {"$items": len(items), "$tail": kept}, "too large", size)

    def _omit(self, path: str, instead: Any, reason: str, size: int) -> Any:
        if len(self.omitted) < _NOTES:
            self.omitted.append({"path": path, "reason": reason, "bytes": size})
        return instead if instead is not None else {"$omitted": reason, "$bytes": size}


def head_of(raw: RawCheckpoint, shown: Shown) -> dict[str, Any]:
    """A checkpoint without its values."""
    return {
        "checkpoint_id": raw.checkpoint_id,
        "checkpoint_ns": raw.checkpoint_ns,
        "parent_checkpoint_id": raw.parent_id,
        "created_at": str(raw.structure.get("ts", "")),
        "metadata": shown.value("$.metadata", raw.record.metadata_type, raw.record.metadata),
        "channels": list(raw.record.present),
    }


def values_of(raw: RawCheckpoint, channels: Iterable[str], shown: Shown) -> dict[str, Any]:
    """The values of channels that the checkpoint has."""
    return {
        str(sanitize(c).value): shown.value(f"$.values.{c}", *raw.blobs[c])
        for c in channels
        if c in raw.blobs
    }


def writes_of(raw: RawCheckpoint, shown: Shown) -> list[dict[str, Any]]:
    """What tasks have written on top of the checkpoint: results of a step that is not complete,
    interrupts, errors."""
    return [
        {
            "task_id": write.task_id,
            "channel": write.record.channel,
            "value": shown.value(
                f"$.pending_writes[{number}]", write.record.type, write.record.data
            ),
        }
        for number, write in enumerate(raw.writes)
    ]


def moment_of(checkpoint_id: str) -> float | None:
    """When a checkpoint was made, by its id; None for an id that doesn't tell (RFC 9562 section
    5.6)."""
    try:
        number = uuid.UUID(checkpoint_id)
    except ValueError:
        return None
    if number.version != 6:
        return None
    bits = number.int
    steps = (bits >> 96 << 28) | (bits >> 80 & 0xFFFF) << 12 | (bits >> 64 & 0xFFF)
    return (steps - _UUID_EPOCH) / 1e7


def id_at(moment: float) -> str:
    """The greatest id of a checkpoint that can have been made until then, in seconds since the epoch: ids of
    that kind are in the order of time."""
    steps = int(moment * 1e7) + _UUID_EPOCH
    return f"{steps >> 28:08x}-{steps >> 12 & 0xFFFF:04x}-6{steps & 0xFFF:03x}-bfff-{'f' * 12}"
