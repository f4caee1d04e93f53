"""How the copy of a thread is laid out in the buffer (`buffer.copies`): a body per namespace, large
values beside it.

The body has the newest checkpoint, what its DeltaChannels are rebuilt from, pending writes and
small values. A value that did not change is stored once, however often the body is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
import ormsgpack

from surgetank.streams.checkpoints.envelope import CheckpointRecord

Version = tuple[str, str]  # a channel and its version
SMALL = 4096  # values up to this size are in the body
BODY = b"m\x00"
_COUNTERS = b"counters_since_delta_snapshot"


class Mark(NamedTuple):
    """Which state of a thread in the database something shows.

    `incarnation` tells a thread from an earlier one with its id (when it was made, in
    microseconds), `revision` grows with each transaction that writes to it, `head` is its newest
    checkpoint in the root namespace.
    """

    incarnation: int
    revision: int
    head: str

    def pack(self) -> bytes:
        """The mark's bytes; equal marks have equal bytes."""
        return b"%d.%d.%b" % (self.incarnation, self.revision, self.head.encode())

    @classmethod
    def unpack(cls, data: bytes) -> Mark:
        """The mark behind the bytes."""
        incarnation, revision, head = data.split(b".", 2)
        return cls(int(incarnation), int(revision), head.decode())


@dataclass(slots=True)
class Body:
    """One namespace of a thread: packed checkpoints by id (oldest first), packed writes by key,
    small values by channel and version, and the bytes of those values that are parts of their own.
    """

    checkpoints: dict[str, bytes] = field(default_factory=dict)
    writes: dict[bytes, bytes] = field(default_factory=dict)
    small: dict[Version, bytes] = field(default_factory=dict)
    large: dict[Version, int] = field(default_factory=dict)

    @property
    def newest(self) -> str:
        """The id of the newest checkpoint; empty when there is none."""
        return max(self.checkpoints, default="")

    def pack(self) -> bytes:
        """The body's bytes."""
        return ormsgpack.packb(
            (
                list(self.checkpoints.items()),
                list(self.writes.items()),
                [(*version, value) for version, value in self.small.items()],
                [(*version, size) for version, size in self.large.items()],
            )
        )

    @classmethod
    def unpack(cls, data: bytes) -> Body:
        """The body behind the bytes."""
        checkpoints, writes, small, large = ormsgpack.unpackb(data)
        return cls(
            dict(checkpoints),
            dict(writes),
            {(channel, version): value for channel, version, value in small},
            {(channel, version): size for channel, version, size in large},
        )


def body_key(ns: str) -> bytes:
    """The part that holds a namespace's body."""
    return BODY + ns.encode()


def namespace_of(key: bytes) -> str:
    """The namespace behind `body_key`."""
    return key[len(BODY) :].decode()


def delta_channels(record: CheckpointRecord) -> set[str]:
    """The channels that are to be rebuilt from the checkpoint's ancestors: LangGraph counts since
    their last value."""
    if _COUNTERS not in record.metadata_json:
        return set()
    counters = orjson.loads(record.metadata_json).get(_COUNTERS.decode()) or {}
    return set(counters) - set(record.present)
