"""`tank.threads`: whether anything is known of a thread, so that a misspelt name is an error and no
empty answer; and reading threads as they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgetank.app.assembly import Parts
from surgetank.app.hot_threads import HotThreads
from surgetank.app.stored_threads import StoredThreads
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.limits import check_names
from surgetank.exceptions import SurgetankError, ThreadNotFound
from surgetank.streams.checkpoints.reader import Reader
from surgetank.workflows.repair import Repair, ThreadRepair
from surgetank.workflows.threads import ThreadRows

if TYPE_CHECKING:
    from surgetank.streams.checkpoints.saver import SurgetankSaver

SQL = queries("app/threads.sql")


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What of a thread is not in the database: entries that wait, since when (seconds since the
    epoch), and how many were set aside."""

    entries: int = 0
    since: float | None = None
    parked: int = 0

    @property
    def is_saved(self) -> bool:
        """Whether nothing of it waits and nothing was set aside."""
        return not self.entries and not self.parked


class Threads:
    """The threads of an engine."""

    def __init__(self, parts: Parts, saver: Callable[[], SurgetankSaver] | None = None) -> None:
        self._parts = parts
        self._saver = saver

    def is_known(self, thread_id: str) -> bool | None:
        """Whether buffer, events or database know the thread; None when only a database that is
        away could tell."""
        check_names(thread_id, [("$.thread_id", thread_id)])
        parts = self._parts
        buffer, reporting = parts.buffer, parts.reporting
        if any(buffer.state(stream, thread_id) is not None for stream in parts.flushers):
            return True
        if buffer.parked(partition=thread_id) or reporting.events.last_seq(thread_id):
            return True
        if any(
            thread_id in touched.threads for touched in reporting.errors.hot_groups(ask=False)[0]
        ):
            return True
        try:
            with parts.database.connection() as connection:
                row = connection.execute(
                    SQL["thread_is_known"], {"thread_id": thread_id}
                ).fetchone()
        except SurgetankError:
            return None
        return bool(row and row[0])

    def unsaved(self, thread_id: str) -> Unsaved:
        """What of a thread's state and log is not in the database, as the buffer knows it. Raises
        `BufferUnavailable`."""
        buffer, streams = self._parts.buffer, self._parts.streams.of_threads
        states = [state for stream in streams if (state := buffer.state(stream, thread_id))]
        waiting = [state for state in states if state.entries]
        return Unsaved(
            sum(state.entries for state in waiting),
            min((state.oldest_at for state in waiting), default=None),
            sum(len(buffer.parked(stream=stream, partition=thread_id)) for stream in streams),
        )

    def require(self, *thread_ids: str) -> None:
        """Raise `ThreadNotFound` for one of which nothing is known anywhere."""
        for thread_id in thread_ids:
            if self.is_known(thread_id) is False:
                raise ThreadNotFound(
                    f"There is no thread {thread_id!r}.",
                    remedy="check its name and --home: `surgetank storage` lists the largest "
                    "threads.",
                )

    @property
    def rows(self) -> ThreadRows:
        """Threads as clients of the Agent Server API know them: made, found, deleted."""
        return ThreadRows(self._parts.database, node=self._parts.settings.node)

    def repair(
        self, thread_id: str, *, actor: str, dry_run: bool = True, forget: bool = False
    ) -> Repair:
        """What holds a thread that is stuck; without `dry_run` it is let go of. `forget` gives up
        what it asks people too.

        Raises `ThreadNotFound`, `DatabaseUnavailable`, `ColdStateUnavailable`; `ThreadBusy` for
        `forget` while a run is under way.
        """
        assert self._saver is not None, "of an engine"
        check_names(thread_id, [("$.thread_id", thread_id)])
        repair = ThreadRepair(self._parts.database, self._saver)
        try:
            return repair(thread_id, actor=actor, dry_run=dry_run, forget=forget)
        except ThreadNotFound:
            if not self.is_known(thread_id):
                raise
            return Repair(thread_id, "idle", (), done=False)  # only checkpoints know it

    def stored(self, database: Database | None = None) -> StoredThreads:
        """Threads as they are stored. What is cold comes through `database`, if it is in the
        database at all."""
        return StoredThreads(Reader(self._parts.buffer, self._parts.cold_through(database)))

    def hot(self) -> HotThreads:
        """What the buffer alone knows of threads: who owns them, and which are the newest."""
        return HotThreads(self._parts.buffer, owner_key=self._parts.settings.owner_key)
