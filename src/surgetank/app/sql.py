"""SQL of an engine: statements, on whose behalf they are run, and what each of them gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from surgetank.app.relations import JOBS, NAMES, Relations
from surgetank.exceptions import InvalidRequest, MissingExtra, NotFound
from surgetank.streams.tables.query.calls import SqlCaller, SqlOutcome, SqlResult
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.table_settings import TableSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from surgetank.streams.tables.query.executor import Executor
    from surgetank.streams.tables.query.queries import Queries
    from surgetank.streams.tables.query.sources import Readable
    from surgetank.streams.tables.sql.statements import Action, Insert, TableName

__all__ = ["OWNER", "SqlCaller", "SqlOutcome", "SqlResult", "Statements"]
OWNER = SqlCaller(user="", trusted=True, defines=True, administers=True)


class Statements:
    """Runs SQL. Methods block."""

    def __init__(self, relations: Callable[[], Relations], settings: TableSettings) -> None:
        self._relations = relations
        self._settings = settings
        self._queries: Queries | None = None
        self._executor: Executor | None = None

    def __call__(self, text: str, parameters: Parameters | None = None) -> tuple[SqlResult, ...]:
        """Run statements as the owner of this engine, in this process: what each gave, in order.

            (result,) = tank.sql("SELECT status, count(*) FROM system.runs GROUP BY status")
            result.rows        # an Arrow table

        `parameters` are what `$1` or `?` (a sequence) or `$name` (a mapping) stand for. Raises
        `InvalidRequest`, `NotFound`, `DatabaseUnavailable`, `MissingExtra`.
        """
        return self.run(text, OWNER, parameters=parameters).done()

    def run(
        self,
        text: str,
        caller: SqlCaller,
        *,
        parameters: Parameters | None = None,
        most_rows: int | None = None,
    ) -> SqlOutcome:
        """Run statements for a caller, one after the other, until one fails. A caller who isn't
        trusted has a process of its own, and limits of time, memory, rows and bytes (settings
        `sql_...`). Errors of Surgetank's family are in the outcome."""
        return self._ready().run(text, caller, parameters=parameters, most_rows=most_rows)

    def names(self, caller: SqlCaller) -> Sequence[str]:
        """Names that the caller may select from."""
        return [f"system.{name}" for name in (*NAMES, JOBS)] if caller.administers else []

    def close(self) -> None:
        """End the processes of queries. Idempotent."""
        queries, self._queries, self._executor = self._queries, None, None
        if queries is not None:
            queries.close()

    def _ready(self) -> Executor:
        if self._executor is None:
            for package in ("duckdb", "pyarrow"):
                if find_spec(package) is None:
                    raise MissingExtra(package, "tables", "SQL")
            from surgetank.streams.tables.query.executor import Executor  # noqa: PLC0415 - an extra
            from surgetank.streams.tables.query.queries import Queries, pool_of  # noqa: PLC0415
            from surgetank.streams.tables.query.trusted import TrustedQueries  # noqa: PLC0415

            pool = pool_of(self._settings)
            self._queries = Queries(None, pool, TrustedQueries(None))
            self._executor = Executor(
                _Catalogue(self._relations), self._queries, None, limits=pool.limits
            )
        return self._executor


class _Catalogue:
    """There are no tables yet: only relations of the system."""

    def __init__(self, relations: Callable[[], Relations]) -> None:
        self._relations = relations

    def scope(self, caller: SqlCaller) -> _Scope:
        return _Scope(caller, self._relations)

    def changeable(self, caller: SqlCaller, name: TableName) -> Readable:  # noqa: ARG002
        raise _no_table(name.namespace, name.name)

    def insert(
        self,
        caller: SqlCaller,  # noqa: ARG002
        into: Readable,
        rows: Sequence[Mapping[str, Any]],  # noqa: ARG002
        how: Insert,  # noqa: ARG002
    ) -> int:
        raise _no_table(into.table.namespace, into.table.name)

    def acting(self, caller: SqlCaller, user: str) -> SqlCaller:  # noqa: ARG002
        raise _no_statement()

    def other(self, caller: SqlCaller, action: Action) -> SqlResult:  # noqa: ARG002
        raise _no_statement()


def _no_statement() -> InvalidRequest:
    return InvalidRequest(
        "This is no statement that can be run here.", remedy="use SELECT over the schema system."
    )


class _Scope:
    """Relations of the system, for administrators."""

    def __init__(self, caller: SqlCaller, relations: Callable[[], Relations]) -> None:
        self._caller = caller
        self._relations = relations

    def table(self, reference: Reference) -> Readable | None:  # noqa: ARG002
        return None

    def relation(self, reference: Reference) -> pa.Table | None:
        found = None
        if self._caller.administers and (reference.schema or "").casefold() == "system":
            found = self._relations().read(reference)
        if found is None and not reference.optional:
            raise _no_table(reference.schema, reference.name)
        return found


def _no_table(schema: str | None, name: str) -> NotFound:
    full = name if schema is None else f"{schema}.{name}"
    return NotFound(
        f"There is no table {full[:200]!r}, or it is not for you.",
        remedy=f"administrators may select from system.{', system.'.join((*NAMES, JOBS))}.",
    )
