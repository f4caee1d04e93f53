"""The schema `system` of SQL: what agents did, as PostgreSQL and the buffer have it, for administrators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from surgetank.app.jobs import Jobs
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import QuotaExceeded
from surgetank.streams.tables.query.names import Reference

if TYPE_CHECKING:
    import pyarrow as pa

SQL = queries("app/relations.sql")
NAMES = (
    "threads", "checkpoints", "thread_logs", "system_errors", "workflows", "runs", "user_checkpoints",
)  # fmt: skip
JOBS = "jobs"
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


class Relations:
    """Reads relations of the schema `system`."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    def read(self, reference: Reference) -> pa.Table | None:
        """The rows of a relation, of the columns and the thread that a query names. None: there is
        no relation of this name. Raises `DatabaseUnavailable`, and `QuotaExceeded` for more rows
        than one query is given."""
        name = reference.name.casefold()
        if name == JOBS:
            return _jobs(self._jobs.list(limit=1000))
        return self._read(name, reference) if name in NAMES else None

    def _read(self, name: str, reference: Reference) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        body = sql.SQL(SQL[name])
        thread = next((e.value for e in reference.equals if e.column == "thread_id"), None)
        with self._database.asking() as connection:
            cursor = connection.execute(sql.SQL("SELECT * FROM ({}) q LIMIT 0").format(body))
            columns = [
                (each.name, each.type_code)
                for each in cursor.description or ()
                if reference.every or each.name in reference.columns
            ] or [("thread_id", 25)]
            shown = sql.SQL(", ").join(_shown(column, kind) for column, kind in columns)
            rows = connection.execute(
                sql.SQL(
                    "SELECT {} FROM ({}) q WHERE %(thread)s::text IS NULL OR q.thread_id = %(thread)s LIMIT %(most)s"
                ).format(shown, body),
                {"thread": thread, "most": _MOST_ROWS + 1},
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

    moment = pa.timestamp("us", "UTC")

    def moments(name: str) -> Any:
        values = (getattr(job, name) for job in found)
        return pa.array([None if at is None else int(at * 1e6) for at in values], moment)

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
