"""The schema `system` of SQL: what agents did, as PostgreSQL and the buffer have it.

Administrators see all of it, operators what they run (jobs, buffer, sinks), and everybody what is of their own threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import sql

from surgetank.app.jobs import Jobs
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import QuotaExceeded
from surgetank.model import BufferDepth
from surgetank.notify.report import SinkStatus
from surgetank.streams.tables.query.calls import SqlCaller
from surgetank.streams.tables.query.names import Reference

if TYPE_CHECKING:
    import pyarrow as pa

    from surgetank.app.assembly import Parts

SQL = queries("app/relations.sql")
NAMES = (
    "threads", "checkpoints", "thread_logs", "system_errors", "workflows", "runs", "user_checkpoints",
)  # fmt: skip
JOBS = "jobs"
OWN = (
    "threads",
    "checkpoints",
    "thread_logs",
    "workflows",
    "runs",
    "user_checkpoints",
)  # of one's own threads
OPERATED = (JOBS, "buffer", "sinks")
STORED = ("files", "storages", "users")  # for administrators
_MOST_ROWS = 500_000
_PLAIN = {
    16: "bool_",
    20: "int64",
    21: "int16",
    23: "int32",
    25: "string",
    700: "float32",
    701: "float64",
}
_JSON, _MOMENT = frozenset({114, 3802}), 1184  # numbers of PostgreSQL's types


class State(Protocol):
    """What this process knows of buffer and sinks."""

    def depth(self) -> BufferDepth:
        """How much waits."""
        ...

    def sinks(self) -> Sequence[SinkStatus]:
        """The sinks, without asking them."""
        ...


class KnownState:
    """The state of an open engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def depth(self) -> BufferDepth:
        """How much waits."""
        return self._parts.backlog.depth()

    def sinks(self) -> Sequence[SinkStatus]:
        """The sinks, without asking them."""
        return self._parts.sink_statuses(ping=False, failing=())


class Relations:
    """Reads relations of the schema `system` of one engine."""

    def __init__(self, database: Database, jobs: Jobs, state: State, *, owner_key: str) -> None:
        self._database = database
        self._jobs = jobs
        self._state = state
        self._key = owner_key

    def names(self, caller: SqlCaller) -> Sequence[str]:
        """The relations that a caller may read, as `system.jobs`."""
        found = [*OWN, *OPERATED] if caller.defines else [*OWN]
        if caller.administers:
            found = [*NAMES, *OPERATED, *STORED]
        return [f"system.{name}" for name in found]

    def read(self, caller: SqlCaller, reference: Reference) -> pa.Table | None:
        """The rows of a relation, of the columns and the thread that a query names, that the caller
        may see. None: there is no relation of this name. Raises `DatabaseUnavailable`, and
        `QuotaExceeded` for more rows than one query is given."""
        name = reference.name.casefold()
        if f"system.{name}" not in self.names(caller):
            return None
        match name:
            case "jobs":
                return _jobs(self._jobs.list(limit=1000))
            case "buffer":
                return _buffer(self._state.depth())
            case "sinks":
                return _sinks(self._state.sinks())
        return self._read(name, reference, None if caller.administers else caller.user)

    def _read(self, name: str, reference: Reference, user: str | None) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        body = sql.SQL(SQL[name])
        thread = next((e.value for e in reference.equals if e.column == "thread_id"), None)
        with self._database.asking() as connection:
            cursor = connection.execute(sql.SQL("SELECT * FROM ({}) q LIMIT 0").format(body))
            every = [(each.name, each.type_code) for each in cursor.description or ()]
            columns = [
                each for each in every if reference.every or each[0] in reference.columns
            ] or every[:1]
            shown = sql.SQL(", ").join(_shown(column, kind) for column, kind in columns)
            conditions, given = [sql.SQL("true")], dict[str, Any](most=_MOST_ROWS + 1)
            if thread is not None and any(column == "thread_id" for column, _ in every):
                conditions.append(sql.SQL("q.thread_id = %(thread)s"))
                given["thread"] = str(thread)
            if user is not None:
                own = {"key": self._key, "user": user}
                found = connection.execute(SQL["own_threads"], own).fetchall()
                conditions.append(sql.SQL("q.thread_id = ANY(%(threads)s)"))
                given["threads"] = [each for (each,) in found]
            rows = connection.execute(
                sql.SQL("SELECT {} FROM ({}) q WHERE {} LIMIT %(most)s").format(
                    shown, body, sql.SQL(" AND ").join(conditions)
                ),
                given,
            ).fetchall()
        if len(rows) > _MOST_ROWS:
            raise QuotaExceeded(
                f"system.{name} has more than {_MOST_ROWS:,} rows, too many for one query here.",
                remedy="name a thread (WHERE thread_id = ...), or read it with psql (surgetank analyst).",
            )
        values = list(zip(*rows, strict=True)) or [()] * len(columns)
        return pa.table(
            {
                column: _array(pa, kind, found)
                for (column, kind), found in zip(columns, values, strict=True)
            }
        )


def _shown(column: str, kind: int) -> sql.Composable:
    form = "q.{}" if kind in _PLAIN or kind == _MOMENT else "q.{}::text"
    return sql.SQL(form).format(sql.Identifier(column))


def _array(pa: Any, kind: int, values: Sequence[Any]) -> Any:
    if kind in _PLAIN:
        return pa.array(list(values), getattr(pa, _PLAIN[kind])())
    if kind == _MOMENT:
        return pa.array(list(values), pa.timestamp("us", "UTC"))
    if kind in _JSON:
        return pa.ExtensionArray.from_storage(
            pa.json_(pa.string()), pa.array(list(values), pa.string())
        )
    return pa.array(list(values), pa.string())


def _jobs(found: Sequence[Any]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    def moments(name: str) -> Any:
        return _moments(pa, (getattr(job, name) for job in found))

    def counts(name: str) -> Any:
        return pa.array([getattr(job.result, name) for job in found], pa.int64())

    return pa.table(
        {
            "id": pa.array([job.id for job in found], pa.string()),
            "stream": pa.array([job.stream for job in found], pa.string()),
            "status": pa.array([job.status.value for job in found], pa.string()),
            "trigger": pa.array([str(job.trigger) for job in found], pa.string()),
            "created_at": moments("created_at"),
            "finished_at": moments("finished_at"),
            "rows_flushed": counts("rows_flushed"),
            "partitions_failed": counts("partitions_failed"),
            "entries_parked": counts("entries_parked"),
            "message": pa.array([job.result.message for job in found], pa.string()),
        }
    )


def _moments(pa: Any, values: Iterable[float | None]) -> Any:
    kept = [None if at is None else int(at * 1e6) for at in values]
    return pa.array(kept, pa.timestamp("us", "UTC"))


def _buffer(depth: BufferDepth) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    streams = depth.streams
    counts = {
        name: pa.array([getattr(each, name) for each in streams], pa.int64())
        for name in ("entries", "bytes", "partitions", "failing", "parked")
    }
    return pa.table(
        {
            "stream": pa.array([each.stream for each in streams], pa.string()),
            **counts,
            "oldest_at": _moments(pa, (each.oldest_at for each in streams)),
        }
    )


def _sinks(found: Sequence[SinkStatus]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    texts = {
        name: pa.array([getattr(each, name) for each in found], pa.string())
        for name in ("stream", "name", "address", "breaker", "last_error")
    }
    return pa.table({**texts, "retry_at": _moments(pa, (each.retry_at for each in found))})
