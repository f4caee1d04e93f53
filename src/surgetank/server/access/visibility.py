"""Whose a thread is, and so who may see it.

The owner is what the thread's first checkpoint with a value under `owner_key` says there (LangGraph
copies `configurable` into checkpoint metadata). Hot and cold part are looked at as one. What can't
be known is not seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from surgetank.app.hot_threads import HotPart, HotThreads
from surgetank.bounded import BoundedMap
from surgetank.database.queries import queries
from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.server.access.narrowing import contains
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.outage import Connections
from surgetank.server.http.problems import Problem, not_found

FRESH_S = 60.0
OWNERLESS_S = 5.0
OUTAGE_S = 15 * 60.0
_REMEMBERED = 50_000
_SQL = queries("server/access/threads.sql")


@dataclass(frozen=True, slots=True)
class Ownership:
    """What is known of a thread. `known` is false when only a database that is down could tell."""

    exists: bool
    owner: str | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class _Cold:
    """What the database knows of a thread: by its checkpoints, and as it was made for runs."""

    there: bool = False
    owner: str | None = None
    made: bool = False
    made_by: str | None = None


_NOTHING = _Cold()


class ThreadOwners:
    """The owners of threads, remembered for a while."""

    def __init__(
        self,
        hot: HotThreads,
        database: Connections,
        *,
        key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hot = hot
        self._database = database
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._known = BoundedMap[str, tuple[Ownership, float, int]](_REMEMBERED)

    def of(self, thread_id: str) -> Ownership:
        """What is known of one thread. May ask the database."""
        return self.of_all([thread_id])[thread_id]

    def of_all(self, thread_ids: Iterable[str]) -> dict[str, Ownership]:
        """What is known of several threads, with one query at most."""
        found: dict[str, Ownership] = {}
        hot: dict[str, HotPart] = {}
        with self._hot.at_one_moment() as thread_of:
            for name in dict.fromkeys(thread_ids):
                thread = thread_of(name)
                remembered = self._recall(name, thread.mark, fresh=True)
                if remembered is not None:
                    found[name] = remembered
                else:
                    hot[name] = thread.part()
        cold: dict[str, _Cold] | None
        try:
            cold = self._ask(list(hot)) if hot else {}
        except (SinkError, ConfigurationError):
            cold = None
        return found | {name: self._judge(name, part, cold) for name, part in hot.items()}

    def metadata(self, thread_ids: Iterable[str]) -> dict[str, Any]:
        """The metadata of those of the threads that have some. Raises `DatabaseUnavailable`."""
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(_SQL["metadata"], {"threads": list(thread_ids)}).fetchall()
        return {row["thread_id"]: row["metadata"] for row in rows}

    def forget(self, owner: str) -> None:
        """Believe nothing about threads of this owner any more."""
        with self._lock:
            for name in [
                name for name, (known, _, _) in self._known.items() if known.owner == owner
            ]:
                del self._known[name]

    def forget_thread(self, thread_id: str) -> None:
        """Believe nothing about this thread any more: it was made or deleted."""
        with self._lock:
            self._known.pop(thread_id, None)

    def _judge(self, name: str, hot: HotPart, cold: dict[str, _Cold] | None) -> Ownership:
        if cold is not None:
            found = cold.get(name, _NOTHING)
            # its checkpoints in the database are about to go
            there, owner = (found.there, found.owner) if not hot.cold_is_deleted else (False, None)
            owner = found.made_by or owner
            ownership = Ownership(
                there or found.made or hot.exists, owner if owner is not None else hot.owner
            )
            return self._keep(name, hot, ownership)
        if hot.cold_is_deleted:
            return self._keep(name, hot, Ownership(hot.exists, hot.owner))
        remembered = self._recall(name, hot.mark, fresh=False)
        if remembered is not None:
            return remembered
        if hot.known_cold or not hot.exists:
            return Ownership(hot.exists, None, known=False)
        # This buffer has flushed nothing of it: its first part is here.
        return Ownership(hot.exists, hot.owner)

    def _ask(self, names: Sequence[str]) -> dict[str, _Cold]:
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(
                _SQL["owners"], {"threads": list(names), "key": self._key}
            ).fetchall()
        return {
            row["thread_id"]: _Cold(row["there"], row["owner"], row["made"], row["made_by"])
            for row in rows
        }

    def _recall(self, name: str, mark: int, *, fresh: bool) -> Ownership | None:
        with self._lock:
            ownership, at, marked = self._known.get(name, (None, 0.0, 0))
        if ownership is None or marked != mark:
            return None
        limit = OUTAGE_S if not fresh else FRESH_S if ownership.owner is not None else OWNERLESS_S
        return ownership if self._clock() - at < limit else None

    def _keep(self, name: str, hot: HotPart, ownership: Ownership) -> Ownership:
        if ownership.exists:
            with self._lock:
                self._known[name] = (ownership, self._clock(), hot.mark)
        return ownership


class Visibility:
    """Who may know of a thread, and who may read what it says. Methods may ask the database.

    Viewers, users and reviewers: only what is their own. Operators: that every thread exists, and the
    content of their own and of threads without an owner. Administrators: everything. Filters of a
    project's handlers narrow it for everybody but administrators.
    """

    def __init__(self, owners: ThreadOwners) -> None:
        self.owners = owners

    def knows(self, caller: Caller, thread_id: str) -> bool:
        """Whether the caller may know that the thread exists (also where it doesn't)."""
        return self._knows(caller, self.owners.of(thread_id))

    def reads(self, caller: Caller, thread_id: str) -> bool:
        """Whether the caller may read the thread's state, logs and events."""
        return bool(self.readable(caller, [thread_id]))

    def readable(self, caller: Caller, thread_ids: Iterable[str]) -> set[str]:
        """Those of the threads that the caller may read."""
        names = list(thread_ids)
        if caller.role is Role.ADMIN:
            return set(names)
        found = {name for name, o in self.owners.of_all(names).items() if self._reads(caller, o)}
        return self.let_through(caller, found)

    def let_through(self, caller: Caller, thread_ids: Iterable[str]) -> set[str]:
        """Those of the threads that the filters of the project's handlers let through, whosever
        they are."""
        try:
            return self._let_through(caller, set(thread_ids))
        except (SinkError, ConfigurationError):
            return set()

    def check(self, caller: Caller, thread_id: str) -> None:
        """Raise `Problem` if the caller may not read the thread: 404 as for one that isn't there,
        or, for who may know of it, 403.
        """
        if caller.role is Role.ADMIN:
            return
        ownership = self.owners.of(thread_id)
        if self._reads(caller, ownership) and self._let_through(caller, {thread_id}):
            return
        if caller.filters.get("threads"):
            raise not_found("thread", thread_id, remedy="see POST /threads/search.")
        if ownership.exists and self._knows(caller, ownership):
            raise Problem(
                403, "not-yours", "Operators see that this thread exists, not what it says.",
                remedy="use a token of its owner, or of an administrator.",
            )  # fmt: skip
        raise not_found("thread", thread_id, remedy="see GET /threads for those that you may see.")

    def _let_through(self, caller: Caller, names: set[str]) -> set[str]:
        """Those that the filters of the project's handlers let through. Raises
        `DatabaseUnavailable`."""
        wanted = caller.filters.get("threads")
        if not wanted or not names:
            return names
        metadata = self.owners.metadata(names)
        return {name for name in names if contains(metadata.get(name, {}), wanted)}

    def _knows(self, caller: Caller, ownership: Ownership) -> bool:
        return caller.role.covers(Role.OPERATOR) or self._owns(caller, ownership)

    def _reads(self, caller: Caller, ownership: Ownership) -> bool:
        if caller.role is Role.ADMIN:
            return True
        ownerless = ownership.exists and ownership.known and ownership.owner is None
        return self._owns(caller, ownership) or (ownerless and caller.role.covers(Role.OPERATOR))

    @staticmethod
    def _owns(caller: Caller, ownership: Ownership) -> bool:
        return ownership.known and ownership.exists and ownership.owner == caller.user
