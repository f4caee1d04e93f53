"""How checkpoint data is laid out inside buffer entries: the keys, and the values behind them.

Written by the saver, read by the saver (hot) and by the sinks (flush). Keys are text parts joined
by NUL, so that all records of a namespace or of a checkpoint share a prefix and ids sort as
LangGraph sorts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ormsgpack

from surgetank.model import Record, Replacement

STREAM = "checkpoints"
_SEP = b"\x00"
_IDX_OFFSET = 1 << 31
OPERATION_KEY = b"!"
UNVERSIONED = "~"
KNOWN_HEAD = "surgetank_head"  # in a checkpoint's structure
HEAD = b"h" + _SEP
TOMBSTONE = b"g" + _SEP
HIDDEN = b"q" + _SEP
PRUNED = b"p" + _SEP


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint without its channel values.

    `structure` is msgpack of LangGraph's own fields (versions, versions seen, ts ...), never
    encrypted, as it holds no values. `present` names the channels that have a value. `metadata` is
    serialized by the saver's serializer; `metadata_json` and `scalars_json` are sanitized
    projections for SQL. `small` holds values that came with the record itself, which only a
    database does (`streams/checkpoints/cold/bodies.py`).
    """

    parent_id: str | None
    structure: bytes
    present: tuple[str, ...]
    metadata_type: str
    metadata: bytes
    metadata_json: bytes
    scalars_json: bytes
    extra: tuple[str, bytes] | None = None
    replaced: tuple[Replacement, ...] = ()
    small: Mapping[str, tuple[str, bytes]] | None = None

    def pack(self) -> bytes:
        """The record's bytes."""
        replaced = [(r.path, r.reason, r.original) for r in self.replaced]
        return ormsgpack.packb(
            (
                self.parent_id, self.structure, self.present, self.metadata_type, self.metadata,
                self.metadata_json, self.scalars_json, self.extra, replaced,
            )
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> CheckpointRecord:
        """The record behind the bytes."""
        parent, structure, present, mtype, metadata, mjson, sjson, extra, replaced = (
            ormsgpack.unpackb(data)
        )
        return cls(
            parent, structure, tuple(present), mtype, metadata, mjson, sjson,
            tuple(extra) if extra else None, tuple(Replacement(*r) for r in replaced),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """One pending write: a value that a task wrote to a channel."""

    channel: str
    task_path: str
    type: str
    data: bytes

    def pack(self) -> bytes:
        """The record's bytes."""
        return pack_write(self.channel, self.task_path, self.type, self.data)

    @classmethod
    def unpack(cls, data: bytes) -> WriteRecord:
        """The record behind the bytes."""
        return cls(*ormsgpack.unpackb(data))


@dataclass(frozen=True, slots=True)
class Operation:
    """A change to what was written before: `delete_thread`, or `delete_checkpoints` of one
    namespace.

    `id` identifies it, so that its effect can be asked for again after a crash.
    """

    id: str
    kind: str
    checkpoint_ns: str = ""
    checkpoint_ids: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """The operation's bytes."""
        return ormsgpack.packb((self.id, self.kind, self.checkpoint_ns, self.checkpoint_ids))

    @classmethod
    def unpack(cls, data: bytes) -> Operation:
        """The operation behind the bytes."""
        id_, kind, ns, ids = ormsgpack.unpackb(data)
        return cls(id_, kind, ns, tuple(ids))


def pack_write(channel: str, task_path: str, type_: str, data: bytes) -> bytes:
    """The bytes of a `WriteRecord`."""
    return ormsgpack.packb((channel, task_path, type_, data))


def pack_blob(type_: str, data: bytes) -> bytes:
    """A channel value: its serialization type and its bytes."""
    return bytes((len(type_),)) + type_.encode() + data


def unpack_blob(data: bytes) -> tuple[str, bytes]:
    """The type and bytes behind `pack_blob`."""
    end = 1 + data[0]
    return data[1:end].decode(), data[end:]


def structure_of(checkpoint: Mapping[str, Any], known_head: str | None = None) -> bytes:
    """LangGraph's own fields of a checkpoint, without values, and the newest checkpoint that its
    writer knew of."""
    fields = {k: v for k, v in checkpoint.items() if k not in {"channel_values", "pending_sends"}}
    if known_head is not None:
        fields[KNOWN_HEAD] = known_head
    return ormsgpack.packb(fields, option=ormsgpack.OPT_NON_STR_KEYS)


def read_structure(data: bytes) -> dict[str, Any]:
    """The fields behind `structure_of`."""
    fields: dict[str, Any] = ormsgpack.unpackb(data, option=ormsgpack.OPT_NON_STR_KEYS)
    fields.pop(KNOWN_HEAD, None)
    return fields


def known_head(structure: bytes) -> str | None:
    """The newest checkpoint of its thread that a checkpoint's writer had read from the database
    just before."""
    head: str | None = ormsgpack.unpackb(structure, option=ormsgpack.OPT_NON_STR_KEYS).get(
        KNOWN_HEAD
    )
    return head


def version_text(version: str | int | float) -> str:
    """A channel version as text; unique among the versions of one channel."""
    return version if isinstance(version, str) else repr(version)


def unversioned(checkpoint_id: str) -> str:
    """The version under which a value is kept whose channel has no version: it belongs to one
    checkpoint only."""
    return UNVERSIONED + checkpoint_id


def present_versions(record: CheckpointRecord, checkpoint_id: str) -> dict[str, str]:
    """The channels of a checkpoint that have a value, with the text of their versions."""
    versions: Mapping[str, str | int | float] = read_structure(record.structure)["channel_versions"]
    return {
        channel: version_text(versions[channel])
        if channel in versions
        else unversioned(checkpoint_id)
        for channel in record.present
    }


def referred_versions(
    structure: Mapping[str, Any], present: Sequence[str], checkpoint_id: str
) -> Iterator[tuple[str, str]]:
    """Channel and version of every value that a checkpoint may refer to."""
    versions: Mapping[str, str | int | float] = structure["channel_versions"]
    for channel, version in versions.items():
        yield channel, version_text(version)
    for channel in present:
        if channel not in versions:
            yield channel, unversioned(checkpoint_id)


def checkpoint_prefix(ns: str) -> bytes:
    """All checkpoints of a namespace."""
    return b"c\x00" + ns.encode() + _SEP


def checkpoint_key(ns: str, checkpoint_id: str) -> bytes:
    """One checkpoint."""
    return checkpoint_prefix(ns) + checkpoint_id.encode()


def write_prefix(ns: str, checkpoint_id: str) -> bytes:
    """All pending writes of a checkpoint."""
    return b"w\x00" + ns.encode() + _SEP + checkpoint_id.encode() + _SEP


def write_key(ns: str, checkpoint_id: str, task_id: str, idx: int) -> bytes:
    """One pending write."""
    return (
        write_prefix(ns, checkpoint_id)
        + task_id.encode()
        + _SEP
        + (idx + _IDX_OFFSET).to_bytes(4, "big")
    )


def blob_key(ns: str, channel: str, version: str) -> bytes:
    """One channel value. The version stands first, so that the values of one step lie together."""
    return b"b\x00" + ns.encode() + _SEP + version.encode() + _SEP + channel.encode()


def blob_record(ns: str, channel: str, version: str, blob: bytes) -> Record:
    """One channel value as a record; a channel's versions resemble each other."""
    return Record(
        blob_key(ns, channel, version), blob, b"b\x00" + ns.encode() + _SEP + channel.encode()
    )


def split_blob_key(key: bytes) -> tuple[str, str, str]:
    """Namespace, channel and version of a blob key."""
    ns, version, channel = key[2:].split(_SEP)
    return ns.decode(), channel.decode(), version.decode()


def split_key(key: bytes) -> tuple[str, ...]:
    """The text parts of a checkpoint key, without the leading letter."""
    return tuple(key[2:].decode().split("\x00"))


def split_write_key(key: bytes) -> tuple[str, str, str, int]:
    """Namespace, checkpoint id, task id and index of a write key."""
    ns, checkpoint_id, task_id = key[2:-5].decode().split("\x00")
    return ns, checkpoint_id, task_id, int.from_bytes(key[-4:], "big") - _IDX_OFFSET


def head_note(ns: str) -> bytes:
    """The note of the largest checkpoint id of a namespace that has data in the database."""
    return HEAD + ns.encode()


def pruned_note(ns: str, checkpoint_id: str) -> bytes:
    """The note of a checkpoint that was deleted a short while ago, its thread not."""
    return PRUNED + ns.encode() + _SEP + checkpoint_id.encode()


def hidden_note(ns: str, checkpoint_id: str) -> bytes:
    """The note of a checkpoint that was pruned while it was parked: it stays hidden as long as it
    is."""
    return HIDDEN + ns.encode() + _SEP + checkpoint_id.encode()


def tombstone_note(ns: str, checkpoint_id: str) -> bytes:
    """The note of a checkpoint that was deleted with its thread a short while ago."""
    return TOMBSTONE + ns.encode() + _SEP + checkpoint_id.encode()
