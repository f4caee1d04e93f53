"""What of checkpoints and writes SQL can't show, packed: the column `body`, and `others`.

At level 2 of the storage format the checkpoint's small values lie in its body, and small writes
beside another write of the same `put_writes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ormsgpack

from surgetank.encode.differences.patch import compress, compress_words, decompress
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.envelope import CheckpointRecord, WriteRecord


def pack_body(
    record: CheckpointRecord, small: Mapping[str, tuple[str, bytes]] | None = None
) -> tuple[int, bytes]:
    """The `codec` and `body` columns of a checkpoint; with its small values at level 2."""
    fields = (record.structure, record.present, record.metadata_type, record.metadata, record.extra)
    if small is None:
        return compress(ormsgpack.packb(fields))
    return compress_words(ormsgpack.packb((*fields, small)))


def unpack_body(parent_id: str | None, codec: int, body: bytes) -> CheckpointRecord:
    """The record behind `pack_body`, without its projections. Raises `StateCorrupt`."""
    try:
        structure, present, mtype, metadata, extra, *rest = ormsgpack.unpackb(
            decompress(codec, body)
        )
        small = (
            {channel: (type_, data) for channel, (type_, data) in rest[0].items()} if rest else None
        )
        return CheckpointRecord(
            parent_id=parent_id,
            structure=structure,
            present=tuple(present),
            metadata_type=mtype,
            metadata=metadata,
            metadata_json=b"",
            scalars_json=b"",
            extra=tuple(extra) if extra else None,
            replaced=(),
            small=small,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StateCorrupt(
            f"The stored body of a checkpoint can't be read ({error}).",
            remedy="restore the database from a backup.",
        ) from error


def pack_others(writes: Iterable[tuple[int, WriteRecord]]) -> bytes:
    """The `others` column of a write: small writes of the same call, with their indexes."""
    return ormsgpack.packb([(idx, w.channel, w.type, w.data) for idx, w in writes])


def unpack_others(task_path: str, others: bytes) -> list[tuple[int, WriteRecord]]:
    """The writes behind `pack_others`. Raises `StateCorrupt`."""
    try:
        unpacked = ormsgpack.unpackb(others)
        return [
            (idx, WriteRecord(channel, task_path, type_, data))
            for idx, channel, type_, data in unpacked
        ]
    except (ValueError, TypeError) as error:
        raise StateCorrupt(
            f"Stored writes can't be read ({error}).", remedy="restore the database from a backup."
        ) from error
