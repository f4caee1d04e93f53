"""Threads as clients of the Agent Server API know them: whose, in which state, what they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.jsontext import dumps
from surgetank.exceptions import Conflict, ThreadBusy, ThreadNotFound
from surgetank.workflows.lifetime import ThreadTtl

SQL = queries("workflows/threads.sql")
SORTED_BY = ("thread_id", "status", "created_at", "updated_at", "state_updated_at")
STATUSES = ("idle", "busy", "interrupted", "error")


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """A thread as it is stored. `interrupts` are what it asks people, as the worker recorded it."""

    thread_id: str
    owner: str | None
    status: str
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    interrupts: Sequence[Mapping[str, Any]]
    error: str | None
    assistant_id: str | None
    created_at: datetime
    updated_at: datetime
    ttl_minutes: float | None
    ttl_strategy: str | None
    expires_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ThreadRow:
        """From a row of the table."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFilter:
    """Which threads are wanted; None stands for all. `values` is compared with the projection of
    the state, which lags behind by a flush; `text` is a part of the id."""

    owner: str | None = None
    ids: Sequence[str] | None = None
    text: str | None = None
    status: str | None = None
    metadata: Mapping[str, Any] | None = None
    values: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """As the queries take it."""
        return {
            "owner": self.owner,
            "ids": list(self.ids) if self.ids is not None else None,
            "text": self.text,
            "status": self.status,
            "metadata": _jsonb(self.metadata) if self.metadata else None,
            "values": _jsonb(self.values) if self.values else None,
        }


class ThreadRows:
    """The threads of a database. Everything raises `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, node: str = "") -> None:
        self._database = database
        self._node = node

    def create(
        self,
        thread_id: str,
        *,
        owner: str | None,
        metadata: Mapping[str, Any] | None = None,
        ttl: ThreadTtl | None = None,
    ) -> ThreadRow:
        """Make a thread. Raises `Conflict` when it is there."""
        rows = self._rows(
            "create", thread_id=thread_id, owner=owner, metadata=_jsonb(metadata or {}),
            config=_jsonb({}), **_ttl_arguments(ttl),
        )  # fmt: skip
        if not rows:
            raise Conflict(
                f"The thread {thread_id!r} is there already.",
                remedy='use another id, or if_exists="do_nothing".',
            )
        return ThreadRow.of(rows[0])

    def find(self, thread_id: str) -> ThreadRow | None:
        """One thread; None for one that only checkpoints know, or nobody."""
        rows = self._rows("get", thread_id=thread_id)
        return ThreadRow.of(rows[0]) if rows else None

    def patch(
        self, thread_id: str, metadata: Mapping[str, Any], ttl: ThreadTtl | None = None
    ) -> ThreadRow:
        """Add to the metadata, and let it live for another time from now on. Raises
        `ThreadNotFound`."""
        rows = self._rows(
            "patch", thread_id=thread_id, metadata=_jsonb(metadata), **_ttl_arguments(ttl)
        )
        if not rows:
            raise not_there(thread_id)
        return ThreadRow.of(rows[0])

    def rest(self, thread_id: str, interrupts: Sequence[Mapping[str, Any]], *, waits: bool) -> None:
        """Record what a thread asks after its state was changed by hand; nothing while it is
        busy."""
        asked = Jsonb([dict(each) for each in interrupts], dumps=dumps)
        status = "interrupted" if waits else "idle"
        self._rows("rest", thread_id=thread_id, interrupts=asked, status=status)

    def delete(self, thread_id: str, *, actor: str) -> bool:
        """Delete it with its workflows and runs; whether there was one. Raises `ThreadBusy`."""
        (row,) = self._rows(
            "delete", thread_id=thread_id, actor=actor, origin=acting_from.get() or self._node
        )
        result = row["delete_thread"]
        if result == "busy":
            raise ThreadBusy(
                f"The thread {thread_id!r} has a run that is under way.",
                remedy="cancel the run, and delete the thread when it has ended.",
            )
        return bool(result == "deleted")

    def search(
        self, wanted: ThreadFilter, *, sort_by: str = "created_at", ascending: bool = False,
        limit: int = 10, offset: int = 0,
    ) -> list[ThreadRow]:  # fmt: skip
        """Threads by what is known of them."""
        more = {"sort_by": sort_by, "ascending": ascending, "limit": limit, "offset": offset}
        return [ThreadRow.of(row) for row in self._rows("search", **wanted.arguments(), **more)]

    def count(self, wanted: ThreadFilter) -> int:
        """How many threads there are."""
        (row,) = self._rows("count", **wanted.arguments())
        return int(row["threads"])

    def _rows(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()


def not_there(thread_id: str) -> ThreadNotFound:
    """The refusal of a thread that nobody knows."""
    return ThreadNotFound(
        f"There is no thread {thread_id!r}.",
        remedy="create it first, or let the run create it (if_not_exists).",
    )


def _ttl_arguments(ttl: ThreadTtl | None) -> dict[str, Any]:
    return {
        "ttl_minutes": ttl.minutes if ttl is not None else None,
        "ttl_strategy": ttl.strategy if ttl is not None else None,
    }


def _jsonb(value: Mapping[str, Any]) -> Jsonb:
    return Jsonb(dict(value), dumps=dumps)
