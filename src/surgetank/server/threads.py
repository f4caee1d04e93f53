"""The list of threads, hot and cold as one, newest checkpoint first. While the database is down:
what is hot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from surgetank.app.hot_threads import HotThreads, Position
from surgetank.database.queries import queries
from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.server.access.visibility import ThreadOwners
from surgetank.server.http.outage import Connections
from surgetank.server.shown import moment_of

_SQL = queries("server/access/threads.sql")
_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class ThreadEntry:
    """One thread in a list. `waiting` tells that something of it is not in the database yet."""

    thread_id: str
    owner: str | None
    checkpoint_id: str
    updated_at: float | None
    waiting: bool

    @property
    def position(self) -> Position:
        """Where it stands in the order."""
        return (self.checkpoint_id, self.thread_id)


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A page of threads; `complete` is false when the database is down, so that only hot ones are
    known."""

    threads: tuple[ThreadEntry, ...]
    more: bool
    complete: bool


class ThreadList:
    """Lists threads, the hot ones from `hot` and the others from the database."""

    def __init__(
        self, hot: HotThreads, database: Connections, owners: ThreadOwners, *, key: str
    ) -> None:
        self._hot = hot
        self._database = database
        self._owners = owners
        self._key = key

    def page(
        self, *, owner: str | None, after: Position | None, limit: int, text: str | None = None
    ) -> ThreadPage:
        """Threads after a place, of one owner or of all; with `text`, those whose id has it. May ask the
        database."""
        hot = self._hot.newest()
        waiting = {thread_id for _, thread_id in hot.newest}
        wanted = (text or "").lower()
        candidates = sorted(
            (p for p in hot.newest if (after is None or p < after) and wanted in p[1].lower()),
            reverse=True,
        )
        try:
            cold, complete = self._cold(owner, after, limit + 1, hot.hidden, text or None), True
        except (SinkError, ConfigurationError):
            cold, complete = [], False
        found: list[ThreadEntry] = []
        last_cold = cold[-1].position if len(cold) > limit else None
        # Beyond the last cold thread that was fetched, hot ones have to wait for the next page.
        for start in range(0, len(candidates), 500):
            part = [
                p for p in candidates[start : start + 500] if last_cold is None or p >= last_cold
            ]
            owned = self._owners.of_all([thread_id for _, thread_id in part])
            found += [
                ThreadEntry(name, owned[name].owner, newest, moment_of(newest), name in waiting)
                for newest, name in part
                if owned[name].exists
                and (owner is None or (owned[name].known and owned[name].owner == owner))
            ]
            if len(found) > limit:
                break
        merged = sorted([*found, *cold], key=lambda entry: entry.position, reverse=True)
        return ThreadPage(tuple(merged[:limit]), len(merged) > limit, complete)

    def _cold(
        self,
        owner: str | None,
        after: Position | None,
        limit: int,
        hidden: Sequence[str],
        text: str | None,
    ) -> list[ThreadEntry]:
        found: list[ThreadEntry] = []
        for _ in range(_ROUNDS):
            rows = self._rows(owner, after, limit, hidden, text)
            owned = self._owners.of_all([row["thread_id"] for row in rows])
            for row in rows:
                whose = owned[row["thread_id"]].owner
                if owner is None or whose == owner:
                    found.append(
                        ThreadEntry(
                            row["thread_id"], whose, row["newest"], row["updated_at"], waiting=False
                        )
                    )
            if len(found) >= limit or len(rows) < limit:
                break
            after = (rows[-1]["newest"], rows[-1]["thread_id"])
        return found[:limit]

    def _rows(
        self,
        owner: str | None,
        after: Position | None,
        limit: int,
        hidden: Sequence[str],
        text: str | None,
    ) -> list[Mapping[str, Any]]:
        last_newest, last_thread = after or (None, None)
        arguments = {
            "key": self._key, "owner": owner, "hidden": list(hidden), "limit": limit,
            "last_newest": last_newest, "last_thread": last_thread, "text": text,
        }  # fmt: skip
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            name = "threads_page" if owner is None else "threads_of_owner"
            rows: list[Mapping[str, Any]] = list(cursor.execute(_SQL[name], arguments).fetchall())
            return rows
