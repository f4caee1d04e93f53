"""When threads were deleted: what `surgetank recover` leaves out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.streams.checkpoints.envelope import OPERATION_KEY, STREAM, Operation

SQL = queries("streams/checkpoints/cold/flush.sql")


class Pending(Protocol):
    """What is asked of the buffer."""

    def pending(self, stream: str, partition: str, key: bytes) -> list[tuple[float, bytes]]:
        """When each record of this key that waits was accepted, and its value."""
        ...


def deleted_at(
    buffer: Pending, database: Database, threads: Collection[str]
) -> Mapping[str, float]:
    """When each of these threads was last deleted; those that never were are left out."""
    with database.asking(patient=True) as connection:
        rows = connection.execute(SQL["deleted_at"], {"threads": list(threads)}).fetchall()
    found = {str(thread): float(at) for thread, at in rows}
    for thread in threads:
        for at, value in buffer.pending(STREAM, thread, OPERATION_KEY):
            if Operation.unpack(value).kind == "delete_thread":
                found[thread] = max(at, found.get(thread, at))
    return found
