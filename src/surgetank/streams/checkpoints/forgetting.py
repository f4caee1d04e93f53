"""What was told of a thread goes with the thread: lines of its log, its events and originals,
references in errors.

Log lines and errors have partitions of their own. Their deletion is an entry there, in its place
among the others: it hides at once what was accepted before it, and the flush carries it out.
"""

from __future__ import annotations

import uuid

from surgetank.buffer.log import Log, Snapshot
from surgetank.model import Record
from surgetank.streams.checkpoints.envelope import OPERATION_KEY, Operation
from surgetank.streams.errors import groups
from surgetank.streams.errors.groups import ErrorAction, ErrorReport
from surgetank.streams.logs import line as logline


def append_deletion_and_forget(buffer: Log, thread_id: str) -> None:
    """Accept the deletion of a thread's log and of the references to it in errors that wait in the
    buffer.

    Those in the database go when the log's deletion is flushed.
    """
    operation = Operation(uuid.uuid4().hex, "delete_thread")
    record = Record(OPERATION_KEY, operation.pack())
    buffer.append(logline.STREAM, thread_id, [record], start_guarding=True)
    action = ErrorAction(groups.FORGET_THREAD, "surgetank", 0.0, thread_id)
    with buffer.snapshot() as snapshot:
        touched = [
            name
            for name in snapshot.partitions(groups.STREAM)
            if _mentions(snapshot, name, thread_id)
        ]
    for name in touched:
        buffer.append(groups.STREAM, name, [Record(groups.KEY, action.pack())], wait=False)


def _mentions(snapshot: Snapshot, name: str, thread_id: str) -> bool:
    found = snapshot.scan(groups.STREAM, name, groups.KEY)
    items = (groups.unpack_or_show(name, record.value) for record in found)
    return any(isinstance(item, ErrorReport) and item.thread_id == thread_id for item in items)


def deletion_mark(snapshot: Snapshot, thread_id: str) -> int:
    """The entry with which the thread was deleted last, as far as this buffer knows, also after the
    flush; or 0."""
    found = snapshot.last(logline.STREAM, thread_id, OPERATION_KEY)
    noted = snapshot.notes(logline.STREAM, thread_id, logline.DELETED).get(logline.DELETED, b"")
    return max(found.seq if found is not None else 0, int.from_bytes(noted))
