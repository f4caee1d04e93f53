"""Two buffers on one thread: noticed by whoever flushes second. Pure.

A checkpoint is put on what its writer knew of the thread: its parent, or the newest checkpoint that
was read before (`envelope.KNOWN_HEAD`). When the database's newest checkpoint is neither of them,
and another buffer wrote it, then that buffer's work is not in what grows here. Time travel and
forks of one buffer are nothing special: it wrote the newest checkpoint itself, or has read it.
Nothing is changed: both branches are stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from surgetank.model import Fork
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.chains import Thread
from surgetank.streams.checkpoints.cold.rows import Batch


def find(batch: Batch, touched: list[Thread], buffer_id: str) -> Iterator[Fork]:
    """The threads, as they were before this batch, whose newest checkpoint this buffer neither
    wrote nor knew."""
    others = {
        thread.thread_id: thread
        for thread in touched
        if thread.checkpoint_id and thread.writer is not None and thread.writer != buffer_id
    }
    if not others:
        return
    for key, record in batch.checkpoints.items():
        thread = others.get(key[0])
        if thread is None or key[1] or key in batch.replayed:
            continue
        parent = record.parent_id
        if parent == thread.checkpoint_id or (key[0], "", parent) in batch.checkpoints:
            continue
        if envelope.known_head(record.structure) != thread.checkpoint_id:
            del others[key[0]]
            yield Fork(key[0], buffer_id, thread.writer or "", thread.checkpoint_id or "", key[2])
