"""What statements do to tables: the catalogue as SQL sees it, with the rights of who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from surgetank.exceptions import Conflict, DatabaseUnavailable, InvalidRequest, NotFound
from surgetank.model import FlushJob
from surgetank.streams.tables.catalog.catalog import Catalog
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.query.calls import SqlCaller, SqlResult
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.sql import listing
from surgetank.streams.tables.sql.figures import figures_of
from surgetank.streams.tables.sql.rights import (
    acting,
    actor_of,
    changeable,
    inserting,
    need_operator,
    not_there,
    readable,
)
from surgetank.streams.tables.sql.statements import (
    PUBLIC,
    Action,
    AddColumn,
    CreateNamespace,
    CreateTable,
    Describe,
    DropNamespace,
    DropTable,
    FlushAll,
    FlushTable,
    Insert,
    KillJob,
    OnConflict,
    ShowNamespaces,
    ShowStats,
    ShowTables,
    Subscribe,
    TableName,
)
from surgetank.streams.tables.values import Source

if TYPE_CHECKING:
    import pyarrow as pa

    from surgetank.streams.tables.cold.protocol import ColdTables
    from surgetank.streams.tables.hot.protocol import HotTables

TABLES, COLUMNS = "information_schema.tables", "information_schema.columns"
OWN_RELATIONS = (TABLES, COLUMNS, "system.tables", "system.table_options")


class Inserted(Protocol):
    """How many rows an insert made, and how many it changed."""

    @property
    def rows(self) -> int:
        """New ones."""
        ...

    @property
    def updated(self) -> int:
        """Those whose key was there."""
        ...


class Inserting(Protocol):
    """Who inserts rows: `ingest.TableIngest`."""

    def insert(
        self,
        table: Table,
        rows: Any,
        *,
        user: str | None = None,
        source: Source = Source.PYTHON,
        on_conflict: OnConflict = OnConflict.REFUSE,
        updates: Sequence[str] = (),
        unless_erased_since: int | None = None,
    ) -> Inserted:
        """Insert rows by the names of their columns."""
        ...


class Flushing(Protocol):
    """Who flushes tables."""

    def run(self, trigger: str, *, partition: str | None = None) -> FlushJob:
        """Flush what waits, of one table if `partition` is its full name."""
        ...

    def kill(self, job_id: str) -> bool:
        """End a running job; whether it runs here."""
        ...


class SystemRelations(Protocol):
    """Relations of other rooms."""

    def names(self, caller: SqlCaller) -> Sequence[str]:
        """The relations that the caller may read, as `system.jobs`."""
        ...

    def read(self, caller: SqlCaller, reference: Reference) -> pa.Table | None:
        """The rows of one of the schema `system` that the caller may see; None: there is none of
        this name for this caller."""
        ...

    def schema(self, caller: SqlCaller, name: str) -> pa.Schema | None:
        """The columns of one of them, named without its schema; None likewise."""
        ...


class TableCatalogue:
    """Implements what `query.executor.Executor` needs. For any number of threads."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        hot: HotTables,
        cold: ColdTables,
        ingest: Inserting,
        flusher: Flushing,
        create: Callable[..., Table],
        drop: Callable[..., bool],
        relations: SystemRelations,
    ) -> None:
        self._catalog = catalog
        self._hot, self._cold, self._ingest = hot, cold, ingest
        self._flusher, self._create, self._drop = flusher, create, drop
        self._relations = relations

    # -- for queries and changes

    def scope(self, caller: SqlCaller) -> Scope:
        """What the caller may read."""
        return Scope(self, caller)

    def changeable(self, caller: SqlCaller, name: TableName) -> Readable:
        """The table, and whose rows of it the caller may change."""
        return changeable(caller, self._get(caller, name))

    def insert(
        self,
        caller: SqlCaller,
        into: Readable,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        how: Insert,
        unless_erased_since: int | None = None,
    ) -> int:
        """Insert rows of the caller's. `unless_erased_since`: see `HotTables.accept`."""
        table = into.table
        _check_conflict_key(table, how.conflict_key)
        made = self._ingest.insert(
            table,
            rows,
            user=inserting(caller, table),
            source=Source.SQL,
            on_conflict=how.on_conflict,
            updates=how.updates,
            unless_erased_since=unless_erased_since,
        )
        return made.rows + made.updated

    def acting(self, caller: SqlCaller, user: str) -> SqlCaller:
        """The caller as somebody else, which is in the audit."""
        return acting(caller, user, self._catalog.acted)

    def visible(self, caller: SqlCaller, namespace: str | None = None) -> list[Table]:
        """The tables that the caller may read."""
        return [
            table
            for table in self._catalog.tables(namespace)
            if readable(caller, table) is not None
        ]

    def find(self, caller: SqlCaller, schema: str | None, name: str) -> Readable | None:
        """A table that the caller may read."""
        table = self._catalog.find(schema or PUBLIC, name)
        return None if table is None else readable(caller, table)

    def relation(self, caller: SqlCaller, reference: Reference) -> pa.Table | None:
        """The rows of a relation of the system that the caller may see."""
        match f"{reference.schema}.{reference.name}".casefold():
            case "information_schema.tables":
                return listing.information_tables(self.visible(caller), self.system(caller))
            case "information_schema.columns":
                return listing.information_columns(self.visible(caller), self._schemas(caller))
            case "system.tables":
                return listing.system_tables(self.visible(caller))
            case "system.table_options":
                return listing.table_options(self.visible(caller))
        if (reference.schema or "").casefold() != "system":
            return None
        return self._relations.read(caller, reference)

    def system(self, caller: SqlCaller) -> list[str]:
        """The relations of the system that the caller may read."""
        return [*OWN_RELATIONS, *self._relations.names(caller)]

    def columns(self, caller: SqlCaller) -> dict[str, Sequence[str]]:
        """The columns of all that the caller may select from, by its name."""
        found: dict[str, Sequence[str]] = {
            table.full_name: [column.name for column in table.columns]
            for table in self.visible(caller)
        }
        return found | {name: schema.names for name, schema in self._schemas(caller)}

    def _schemas(self, caller: SqlCaller) -> Iterator[tuple[str, pa.Schema]]:
        """The relations of the system with their columns."""
        empty = {
            TABLES: listing.information_tables((), ()),
            COLUMNS: listing.information_columns(()),
            "system.tables": listing.system_tables(()),
            "system.table_options": listing.table_options(()),
        }
        for name in self.system(caller):
            if name in empty:
                yield name, empty[name].schema
                continue
            with suppress(DatabaseUnavailable):  # tables are listed in an outage, too
                schema = self._relations.schema(caller, name.partition(".")[2])
                if schema is not None:
                    yield name, schema

    # -- all other statements

    def other(self, caller: SqlCaller, action: Action) -> SqlResult:
        """Run a statement that is no query and changes no rows."""
        match action:
            case CreateNamespace() | DropNamespace() | CreateTable() | AddColumn() | DropTable():
                return self._define(caller, action)
            case ShowTables():
                return _rows("SHOW TABLES", self._shown(caller, action.namespace))
            case ShowNamespaces():
                return _rows(
                    "SHOW NAMESPACES", listing.shown_namespaces(self._catalog.namespaces())
                )
            case Describe():
                return _rows("DESCRIBE", self._described(caller, action.table))
            case ShowStats():
                return _rows("SHOW STATS", self._stats(caller, action.table))
            case FlushTable():
                return self._flush(caller, action.table)
            case FlushAll():
                return self._flush(caller, None)
            case KillJob():
                return self._kill(caller, action.job)
            case Subscribe():
                raise InvalidRequest(
                    "A live query has no end, so it isn't run with other statements.",
                    remedy="send it alone: surgetank sql, tank.live, GET /sql/live, or the WebSocket.",
                )
        raise InvalidRequest("This is no statement that can be run here.", remedy="see SQL.")

    def _define(
        self,
        caller: SqlCaller,
        action: CreateNamespace | DropNamespace | CreateTable | AddColumn | DropTable,
    ) -> SqlResult:
        actor = actor_of(caller)
        need_operator(caller, "Making, changing and dropping tables")
        match action:
            case CreateNamespace():
                self._catalog.create_namespace(
                    action.name, actor=actor, if_not_exists=action.if_not_exists
                )
                return SqlResult(number=0, kind="CREATE NAMESPACE")
            case DropNamespace():
                self._catalog.drop_namespace(action.name, actor=actor, if_exists=action.if_exists)
                return SqlResult(number=0, kind="DROP NAMESPACE")
            case CreateTable():
                self._create(action, actor=actor, owner=caller.user or None)
                return SqlResult(number=0, kind="CREATE TABLE")
            case AddColumn():
                self.add_column(action, actor)
                return SqlResult(number=0, kind="ALTER TABLE")
            case DropTable():
                self.drop(action, actor)
                return SqlResult(number=0, kind="DROP TABLE")

    def add_column(self, action: AddColumn, actor: str) -> None:
        """ALTER TABLE."""
        table = self._catalog.get(action.table.namespace, action.table.name)
        if action.if_not_exists and table.column(action.column.name) is not None:
            return
        self._catalog.add_column(table, action.column, actor=actor)

    def drop(self, action: DropTable, actor: str) -> None:
        """DROP TABLE: it is gone for all at once, and its rows after that."""
        table = self._catalog.find(action.table.namespace, action.table.name)
        if table is None:
            if action.if_exists:
                return
            raise not_there(str(action.table))
        if not self._drop(table, actor=actor) and not action.if_exists:
            raise not_there(str(action.table))

    def _get(self, caller: SqlCaller, name: TableName) -> Table:
        found = self.find(caller, name.namespace, name.name)
        if found is None:
            raise not_there(str(name))
        return found.table

    def _described(self, caller: SqlCaller, name: TableName) -> pa.Table:
        of_system = next((s for n, s in self._of_system(caller, name.namespace, name.name)), None)
        if of_system is not None:
            return listing.described_relation(of_system)
        return listing.described(self._get(caller, name))

    def _of_system(
        self, caller: SqlCaller, schema: str | None, name: str | None = None
    ) -> list[tuple[str, pa.Schema]]:
        """Relations of a schema of the system, or the one of this name."""
        wanted = f"{schema}.{name or ''}".casefold()
        if not wanted.startswith(("system.", "information_schema.")):
            return []
        return [
            (each, columns)
            for each, columns in self._schemas(caller)
            if each == wanted or (name is None and each.startswith(wanted))
        ]

    def _shown(self, caller: SqlCaller, namespace: str | None) -> pa.Table:
        if of_system := self._of_system(caller, namespace):
            return listing.shown_relations(of_system)
        if namespace is not None and namespace.casefold() not in (
            each.casefold() for each in self._catalog.namespaces()
        ):
            raise NotFound(
                f"There is no namespace {namespace[:200]!r}.", remedy="SHOW NAMESPACES lists them."
            )
        return listing.shown_tables(self.visible(caller, namespace))

    def _stats(self, caller: SqlCaller, name: TableName) -> pa.Table:
        table = self._get(caller, name)
        need_operator(caller, "SHOW STATS")
        found = asdict(figures_of(table, self._hot, self._cold))
        fields: dict[str, type] = {"namespace": str, "table": str}
        fields |= {name: type(value) for name, value in found.items()}
        return listing.rows(fields, [(table.namespace, table.name, *found.values())])

    def _flush(self, caller: SqlCaller, name: TableName | None) -> SqlResult:
        need_operator(caller, "Flushing tables")
        table = None if name is None else self._get(caller, name)
        if table is not None and table.kind is Kind.STREAM:
            raise InvalidRequest(
                f"{table.full_name} is a STREAM table: its rows are never flushed.",
                remedy="flush others.",
            )
        job = self._flusher.run("manual", partition=None if table is None else table.full_name)
        kind = "STORAGE FLUSH ALL" if table is None else "STORAGE FLUSH TABLE"
        return _rows(
            kind,
            listing.rows(
                {"job_id": str, "status": str, "rows_flushed": int, "message": str},
                [(job.id, job.status.value, job.result.rows_flushed, job.result.message)],
            ),
        )

    def _kill(self, caller: SqlCaller, job: str) -> SqlResult:
        need_operator(caller, "Ending jobs")
        if not self._flusher.kill(job):
            raise Conflict(
                f"The job {job[:80]!r} isn't a flush of tables that runs here.",
                remedy="SELECT * FROM system.jobs lists them; one of another process ends there.",
            )
        return SqlResult(number=0, kind="KILL JOB")


class Scope:
    """What one caller may read."""

    def __init__(self, catalogue: TableCatalogue, caller: SqlCaller) -> None:
        self._catalogue = catalogue
        self._caller = caller

    def table(self, reference: Reference) -> Readable | None:
        """The table of this name, and whose rows of it."""
        return self._catalogue.find(self._caller, reference.schema, reference.name)

    def relation(self, reference: Reference) -> pa.Table | None:
        """The rows of a relation of the system. Raises `NotFound`."""
        found = self._catalogue.relation(self._caller, reference)
        if found is None and not reference.optional:
            schema = f"{reference.schema}." if reference.schema else ""
            raise not_there(f"{schema}{reference.name}")
        return found


def _rows(kind: str, rows: pa.Table) -> SqlResult:
    types: Iterable[str] = (_TYPES.get(str(field.type), "VARCHAR") for field in rows.schema)
    return SqlResult(number=0, kind=kind, rows=rows, types=tuple(types))


_TYPES: Mapping[str, str] = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
}


def _check_conflict_key(table: Table, named: Sequence[str]) -> None:
    if named and {name.casefold() for name in named} != {name.casefold() for name in table.key}:
        raise InvalidRequest(
            f"ON CONFLICT names ({', '.join(named)[:200]}), and the PRIMARY KEY of {table.full_name} is "
            f"({', '.join(table.key)}).",
            remedy="name the PRIMARY KEY, or leave it out.",
        )
