"""What the buffer alone knows of threads: their newest checkpoints and their owners, without asking
the database.

The owner of a thread is what its first checkpoint with a value under `owner_key` says there
(LangGraph copies `configurable` into checkpoint metadata).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from surgetank.buffer.coordination import Backlog
from surgetank.buffer.log import Log, Snapshot
from surgetank.encode import jsontext
from surgetank.streams.checkpoints.envelope import STREAM, CheckpointRecord, split_key
from surgetank.streams.checkpoints.forgetting import deletion_mark
from surgetank.streams.checkpoints.hot import HotThread

_LOOKED_AT = 100  # hot checkpoints of a thread in which an owner is looked for

Position = tuple[str, str]  # newest checkpoint id, thread id


@dataclass(frozen=True, slots=True)
class HotPart:
    """The hot part of a thread. `cold_is_deleted`: what the database has of it is about to go.
    `known_cold`: the database has some of it, as far as this buffer knows. `mark` says which
    deletion came last: what was known before it is no longer true.
    """

    exists: bool
    owner: str | None
    cold_is_deleted: bool
    known_cold: bool
    mark: int


@dataclass(frozen=True, slots=True)
class HotList:
    """The hot threads, and the names that the database is not to be asked for: here is more than it
    has."""

    newest: tuple[Position, ...]
    hidden: tuple[str, ...]


class OneHotThread:
    """One thread at one moment; its `mark` is that of `HotPart`."""

    def __init__(self, snapshot: Snapshot, thread_id: str, owner_key: str) -> None:
        self._thread = HotThread(snapshot, thread_id)
        self._owner_key = owner_key
        self.mark = max(self._thread.deleted_seq, deletion_mark(snapshot, thread_id))

    def part(self) -> HotPart:
        """What is hot of it, and whose it is."""
        thread = self._thread
        refs = sorted(thread.ids(None), key=lambda ref: (bool(ref[0]), ref[1]))
        owners = (self._owner(ns, cid) for ns, cid in refs[:_LOOKED_AT])
        owner = next((found for found in owners if found is not None), None)
        return HotPart(
            bool(refs), owner, bool(thread.deleted_seq), thread.known_cold(None), self.mark
        )

    def _owner(self, ns: str, checkpoint_id: str) -> str | None:
        found = self._thread.find(ns, checkpoint_id)
        metadata = (
            jsontext.loads(CheckpointRecord.unpack(found.value).metadata_json or b"{}")
            if found
            else {}
        )
        value = metadata.get(self._owner_key)
        if value is None or isinstance(value, str):
            return value
        return jsontext.dumps_clean(value).decode()  # as PostgreSQL's ->> writes it


class Hot(Log, Backlog, Protocol):
    """What is looked through for threads."""


class HotThreads:
    """The threads of a buffer. They are looked through again only when something in it changed."""

    def __init__(self, buffer: Hot, *, owner_key: str) -> None:
        self._buffer = buffer
        self._owner_key = owner_key
        self._seen: tuple[object, HotList] | None = None

    @contextmanager
    def at_one_moment(self) -> Iterator[Callable[[str], OneHotThread]]:
        """Threads by name, all as they are at the same moment."""
        with self._buffer.snapshot() as snapshot:
            yield lambda thread_id: OneHotThread(snapshot, thread_id, self._owner_key)

    def newest(self) -> HotList:
        """All hot threads, in no order."""
        # Asked for before the snapshot: what comes in between is found next time.
        depth = next((d for d in self._buffer.depth().streams if d.stream == STREAM), None)
        state = (depth, self._buffer.last_seq(STREAM))
        seen = self._seen
        if seen is not None and seen[0] == state:
            return seen[1]
        positions: list[Position] = []
        hidden: list[str] = []
        with self._buffer.snapshot() as snapshot:
            for name in snapshot.partitions(STREAM):
                thread = HotThread(snapshot, name)
                newest = thread.find("", None)
                position = split_key(newest.key) if newest else next(iter(thread.ids(None)), None)
                if position is not None:
                    positions.append((position[1], name))
                if position is not None or thread.cold_is_deleted:
                    hidden.append(name)
        found = HotList(tuple(positions), tuple(hidden))
        self._seen = (state, found)
        return found
