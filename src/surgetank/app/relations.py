"""The schema `system` of SQL: what agents did, as PostgreSQL and the buffer have it, flushed or not.

Administrators see all of it, operators what they run (jobs, buffer, sinks), and everybody what is of their own threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import capabilities, sql

from surgetank.app.hot_relations import HotRelations
from surgetank.app.jobs import Jobs
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.exceptions import QuotaExceeded
from surgetank.model import BufferDepth, FlushJob
from surgetank.notify.report import SinkStatus
from surgetank.streams.tables.query.calls import SqlCaller
from surgetank.streams.tables.query.names import Equal, Reference

if TYPE_CHECKING:
    import pyarrow as pa

    from surgetank.app.assembly import Parts
    from surgetank.streams.tables.live.queries import Listed

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
LIVE = "live_queries"  # each caller's own
OPERATED = (JOBS, "buffer", "sinks")
STORED = ("files", "storages", "users")  # for administrators
_MOST_ROWS = 500_000
_MOST_BYTES = 256 * 1024**2  # of one relation in one query
_MOST_BYTES_OF_USER = 16 * 1024**2  # where not all is seen: many may ask at once
_COUNTED = (
    "rows_flushed", "bytes", "partitions_processed", "partitions_failed", "entries_parked", "values_replaced",
)  # fmt: skip
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

    def live(self) -> Sequence[Listed]:
        """The live queries."""
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

    def live(self) -> Sequence[Listed]:
        """The live queries of this process."""
        return self._parts.live.listed()


class Relations:
    """Reads relations of the schema `system` of one engine."""

    def __init__(
        self, database: Database, jobs: Jobs, state: State, hot: HotRelations, *, owner_key: str
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._state = state
        self._hot = hot
        self._key = owner_key
        self._schemas: dict[str, pa.Schema] = {}

    def names(self, caller: SqlCaller) -> Sequence[str]:
        """The relations that a caller may read, as `system.jobs`."""
        found = [*OWN, LIVE, *OPERATED] if caller.defines else [*OWN, LIVE]
        if caller.administers:
            found = [*NAMES, LIVE, *OPERATED, *STORED]
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
            case "live_queries":
                found = self._state.live()
                return _live(
                    [each for each in found if caller.administers or each.caller == caller.user]
                )
        return self._read(name, reference, None if caller.administers else caller.user)

    def schema(self, caller: SqlCaller, name: str) -> pa.Schema | None:
        """The columns of a relation, as `read` gives them. None: there is none of this name. Raises
        `DatabaseUnavailable` where they were never asked for."""
        known = self._schemas.get(name) if f"system.{name}" in self.names(caller) else None
        if known is None:
            nothing = (Equal("thread_id", ""),)  # no thread has this name
            rows = self.read(caller, Reference("system", name, equals=nothing))
            if rows is None:
                return None
            known = self._schemas[name] = rows.schema
        return known

    def _read(self, name: str, reference: Reference, user: str | None) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        named = next((e.value for e in reference.equals if e.column == "thread_id"), None)
        threads = None if named is None else {str(named)}
        if user is not None:
            threads = self._own(user, threads)
        hot = self._hot.find(
            name,
            threads=threads,
            wants=lambda column: reference.every or column in reference.columns,
        )  # before the database: what is flushed meanwhile is there then
        body = sql.SQL(SQL[name]).format(key=sql.Literal(self._key))
        with self._database.asking() as connection:
            cursor = connection.execute(sql.SQL("SELECT * FROM ({}) q LIMIT 0").format(body))
            kinds = {each.name: each.type_code for each in cursor.description or ()}
            columns = [
                each for each in kinds if reference.every or each in reference.columns
            ] or list(kinds)[:1]
            fetched = list(dict.fromkeys((*columns, *(hot.needs if hot is not None else ()))))
            where, given = sql.SQL("true"), dict[str, Any](most=_MOST_ROWS + 1)
            if threads is not None and "thread_id" in kinds:
                where = sql.SQL("q.thread_id = ANY(%(threads)s)")
                given["threads"] = list(threads)
            query = sql.SQL("SELECT {} FROM ({}) q WHERE {} LIMIT %(most)s").format(
                sql.SQL(", ").join(_shown(column, kinds[column]) for column in fetched),
                body,
                where,
            )
            at_once = 1000 if capabilities.has_stream_chunked() else 1
            most = _MOST_BYTES if user is None else _MOST_BYTES_OF_USER
            stream: Any = connection.cursor().stream(query, given, size=at_once)
            with closing(stream) as arriving:
                found = _bounded(arriving, name, most)
        if hot is None:
            rows = found
        else:
            merged = hot.merged(dict(zip(fetched, row, strict=True)) for row in found)
            rows = [tuple(row.get(column) for column in columns) for row in merged]
        if len(rows) > _MOST_ROWS:
            raise _too_much(name, f"{_MOST_ROWS:,} rows")
        values = list(zip(*rows, strict=True)) or [()] * len(columns)
        return pa.table(
            {
                column: _array(pa, kinds[column], each)
                for column, each in zip(columns, values, strict=True)
            }
        )

    def _own(self, user: str, named: set[str] | None) -> set[str]:
        """The threads of a user, or those of them that are named. What the database says of a thread
        counts before what the buffer says, unless it is about to go."""
        parts = self._hot.parts(named)
        kept = {name for name, part in parts.items() if not part.cold_is_deleted}
        owners = {name: part.owner for name, part in parts.items()}
        with self._database.asking() as connection:
            found = connection.execute(SQL["own_threads"], {"key": self._key, "user": user})
            own = {thread for (thread,) in found.fetchall()}
            for query, asked in (("threads", kept), ("recorded_owners", parts.keys() - kept)):
                body = sql.SQL(SQL[query]).format(key=sql.Literal(self._key))
                rows = connection.execute(
                    sql.SQL(
                        "SELECT q.thread_id, q.owner FROM ({}) q WHERE q.thread_id = ANY(%s)"
                    ).format(body),
                    [list(asked)],
                ).fetchall()
                owners |= {thread: owner for thread, owner in rows if owner is not None}
        own = (own - parts.keys()) | {name for name, owner in owners.items() if owner == user}
        return own if named is None else own & named


def _bounded(
    arriving: Iterable[tuple[Any, ...]], name: str, most_bytes: int
) -> list[tuple[Any, ...]]:
    """The rows, if they are not too much for one query: all of them are in memory here."""
    found: list[tuple[Any, ...]] = []
    size = 0
    for row in arriving:
        size += sum(len(value) for value in row if value.__class__ is str)
        found.append(row)
        if len(found) > _MOST_ROWS:
            raise _too_much(name, f"{_MOST_ROWS:,} rows")
        if size > most_bytes:
            raise _too_much(name, f"{most_bytes >> 20} MB in the columns that are asked for")
    return found


def _too_much(name: str, what: str) -> QuotaExceeded:
    return QuotaExceeded(
        f"system.{name} has more than {what}, too much for one query here.",
        remedy="name a thread (WHERE thread_id = ...) and the columns that you need, or read it with "
        "psql (surgetank analyst).",
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


def _jobs(found: Sequence[FlushJob]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    def texts(name: str) -> Any:
        return pa.array([getattr(job, name) for job in found], pa.string())

    def moments(name: str) -> Any:
        return _moments(pa, (getattr(job, name) for job in found))

    def counts(name: str) -> Any:
        return pa.array([getattr(job.result, name) for job in found], pa.int64())

    return pa.table(
        {
            **{name: texts(name) for name in ("id", "stream", "status", "trigger", "partition")},
            "attempts": pa.array([job.attempts for job in found], pa.int64()),
            "node": texts("node"),
            **{name: moments(name) for name in ("created_at", "started_at", "finished_at")},
            **{name: counts(name) for name in _COUNTED},
            "warnings": pa.array([len(job.warnings) for job in found], pa.int64()),
            "message": pa.array([job.result.message for job in found], pa.string()),
            "result": _array(
                pa, 3802, [jsontext.dumps(dict(job.result)).decode() for job in found]
            ),
            "retry_of": texts("retry_of"),
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


def _live(found: Sequence[Listed]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    texts = {
        "live_query_id": [str(each.id) for each in found],
        "user_name": [each.caller or None for each in found],
        "table_name": [each.table for each in found],
        "condition": [each.where for each in found],
    }
    return pa.table(
        {
            **{name: pa.array(values, pa.string()) for name, values in texts.items()},
            "created_at": pa.array([each.since for each in found], pa.timestamp("us", "UTC")),
            "events": pa.array([each.events for each in found], pa.int64()),
        }
    )


def _sinks(found: Sequence[SinkStatus]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    texts = {
        name: pa.array([getattr(each, name) for each in found], pa.string())
        for name in ("stream", "name", "address", "breaker", "last_error")
    }
    return pa.table({**texts, "retry_at": _moments(pa, (each.retry_at for each in found))})
