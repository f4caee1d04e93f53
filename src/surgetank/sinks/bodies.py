"""The `body` column of a checkpoint: what of it SQL can't show, packed and compressed.

At level 2 of the storage format the checkpoint's small values lie there as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import ormsgpack

from surgetank.encode.envelope import CheckpointRecord
from surgetank.encode.patch import compress, compress_words, decompress
from surgetank.exceptions import StateCorrupt


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
        structure, present, mtype, metadata, extra, *rest = ormsgpack.unpackb(decompress(codec, body))
        small = {channel: (type_, data) for channel, (type_, data) in rest[0].items()} if rest else None
        return CheckpointRecord(
            parent_id,
            structure,
            tuple(present),
            mtype,
            metadata,
            b"",
            b"",
            tuple(extra) if extra else None,
            (),
            small,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StateCorrupt(
            f"The stored body of a checkpoint can't be read ({error}).",
            remedy="restore the database from a backup.",
        ) from error
