"""What goes through the pipes between a process and its children that run SQL: frames of a kind, a length and
bytes. Pure; both sides use it.

A batch is a complete small Arrow stream, so that a frame can be read by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = struct.Struct(">cQ")
MOST_BYTES = 1 << 28  # of a frame: what is larger was not written by us
BATCH_BYTES = 1 << 20  # about so much is sent at once


class Frame(Enum):
    """Kinds of frames, in the order of a query."""

    READY = b"H"  # child: it is there
    QUERY = b"Q"  # parent: text, parameters and limits
    NAMES = b"N"  # child: the tables that the text needs; none where the parent knows them
    TABLE = b"T"  # parent: a table follows
    BATCH = b"B"  # rows
    GO = b"G"  # parent: all tables were sent
    STOP = b"A"  # parent: forget it
    COLUMNS = b"C"  # child: what the answer consists of
    DONE = b"D"  # child: that was all
    FAILED = b"F"  # child: it did not work


def head(kind: Frame, length: int) -> bytes:
    """The beginning of a frame."""
    return HEAD.pack(kind.value, length)


def opened(data: bytes | bytearray) -> tuple[Frame, int]:
    """Kind and length. Raises `ValueError` for what is no frame."""
    kind, length = HEAD.unpack(data)
    if length > MOST_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return Frame(kind), length


def pieces(batch: pa.RecordBatch, most_bytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """The batch in slices of about so many bytes."""
    if batch.num_rows <= 1 or batch.nbytes <= most_bytes:
        yield batch
        return
    step = max(1, batch.num_rows * most_bytes // batch.nbytes)
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def gathered(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows in batches of about that size: many small ones cost more than they carry."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    waiting: list[pa.RecordBatch] = []
    size = 0

    def joined() -> list[pa.RecordBatch]:
        if len(waiting) == 1:
            return waiting
        together: list[pa.RecordBatch] = (
            pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()
        )
        return together

    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= BATCH_BYTES:
            yield from joined()
            waiting, size = [], 0
    if waiting:
        yield from joined()


def packed(schema: pa.Schema, batch: pa.RecordBatch | None) -> pa.Buffer:
    """A batch (or none: only the schema) as an Arrow stream."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        if batch is not None:
            writer.write_batch(batch)
    return sink.getvalue()


def unpacked(data: bytes | bytearray | memoryview) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and batches of a frame."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.schema, list(reader)
