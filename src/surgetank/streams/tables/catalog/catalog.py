"""Which tables there are: PostgreSQL decides, every process knows.

A change is one transaction, with a row in the audit. What a process knows is at most a second older than the database;
while that is away, it is what was copied last, beside the buffer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import Conflict, DatabaseUnavailable, NotFound
from surgetank.streams.tables.catalog.checks import added_column, columns_of
from surgetank.streams.tables.catalog.mirror import Mirror, Standing
from surgetank.streams.tables.catalog.rows import column_row, table_of
from surgetank.streams.tables.definition import Table, checked_name
from surgetank.streams.tables.rows import clocked
from surgetank.streams.tables.sql.statements import CreateTable, NewColumn

SQL = queries("streams/tables/catalog/catalog.sql")
_FRESH_S = 1.0  # how old what is known may be


class Catalog:
    """The tables of one database. For any number of threads, and several processes."""

    def __init__(
        self,
        database: Database,
        mirror: Mirror,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._mirror = mirror
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._known: Standing | None = None
        self._asked_at = float("-inf")
        self._stale = False

    # -- finding

    @property
    def stale(self) -> bool:
        """Whether the database was away when it was asked last."""
        return self._stale

    def find(self, namespace: str, name: str) -> Table | None:
        """The table of this name, in any case."""
        known = self._standing()
        found = known.find(namespace, name)
        # Another process may have made it since.
        return found or self._standing(fresh=True).find(namespace, name)

    def get(self, namespace: str, name: str) -> Table:
        """The table of this name. Raises `NotFound`."""
        found = self.find(namespace, name)
        if found is None:
            raise NotFound(
                f"There is no table {f'{namespace}.{name}'[:200]!r}.",
                remedy="SHOW TABLES lists them; CREATE TABLE makes one.",
            )
        return found

    def by_id(self, table_id: int) -> Table | None:
        """The table of this number, None where it was dropped."""
        known = self._standing()
        return known.tables.get(table_id) or self._standing(fresh=True).tables.get(table_id)

    def tables(self, namespace: str | None = None) -> list[Table]:
        """All tables, or those of a namespace, by name."""
        found = self._standing().tables.values()
        wanted = namespace and namespace.casefold()
        return sorted(
            (each for each in found if wanted is None or each.namespace.casefold() == wanted),
            key=lambda each: (each.namespace.casefold(), each.name.casefold()),
        )

    def namespaces(self) -> tuple[str, ...]:
        """All namespaces, by name."""
        return self._standing().namespaces

    # -- changing

    def create_namespace(self, name: str, *, actor: str, if_not_exists: bool = False) -> bool:
        """Make a namespace; whether it was made. Raises `Conflict` where it is there,
        `InvalidRequest`, `DatabaseUnavailable`."""
        checked_name(name, "namespace")
        with self._changing() as change:
            made = change.one("insert_namespace", name=name) is not None
            if made:
                change.note("namespace_created", actor, namespace=name)
        if not made and not if_not_exists:
            raise Conflict(f"The namespace {name!r} is there already.", remedy="use it.")
        return made

    def drop_namespace(self, name: str, *, actor: str, if_exists: bool = False) -> bool:
        """Remove an empty namespace; whether it was there. Raises `Conflict` where it has tables,
        `NotFound`, `DatabaseUnavailable`."""
        with self._changing() as change:
            found = change.one("namespace", name=name)
            if found is None:
                if if_exists:
                    return False
                raise _no_namespace(name)
            count = change.one("tables_in", namespace=found["namespace_id"])
            if count is not None and count["count"]:
                raise Conflict(
                    f"The namespace {name!r} has {count['count']} tables.",
                    remedy="drop them first.",
                )
            change.run("delete_namespace", namespace=found["namespace_id"])
            change.note("namespace_dropped", actor, namespace=found["name"])
        return True

    def create(self, wanted: CreateTable, *, actor: str, owner: str | None = None) -> Table:
        """Make a table. With `if_not_exists` the one of this name that is there is given.

        Raises `InvalidRequest` for a declaration that no table can have, `Conflict` where the name
        is taken, `NotFound` for the namespace, `DatabaseUnavailable`."""
        columns, key = columns_of(wanted)
        name = wanted.table
        with self._changing() as change:
            namespace = change.one("namespace", name=name.namespace)
            if namespace is None:
                raise _no_namespace(name.namespace)
            made = change.one(
                "insert_table",
                namespace=namespace["namespace_id"],
                name=name.name,
                kind=wanted.kind.value,
                key=list(key),
                access=wanted.access.value,
                rows=wanted.policy.rows,
                interval=wanted.policy.interval_s,
                ttl=wanted.ttl_s,
                storage=wanted.storage,
                owner=owner,
                next=columns[-1].id + 1,
                version=change.version,
            )
            if made is not None:
                for column in columns:
                    change.run("insert_column", **column_row(made["table_id"], column))
                change.note(
                    "table_created", actor, table=made["table_id"], name=str(name), kind=wanted.kind
                )
        if made is None and not wanted.if_not_exists:
            raise Conflict(
                f"There is a table {str(name)!r} already.",
                remedy="choose another name, or write IF NOT EXISTS.",
            )
        return self._fresh(name.namespace, name.name)

    def add_column(self, table: Table, column: NewColumn, *, actor: str) -> Table:
        """Add a column to a table as it is known: one that was changed meanwhile is not changed.

        Raises `Conflict` for that, and for a name that is taken, `InvalidRequest`,
        `DatabaseUnavailable`."""
        added = added_column(table, column, self._now(), lambda n, at: clocked(n, lambda: at))
        with self._changing() as change:
            changed = change.one(
                "change_table",
                table=table.id,
                expected=table.schema_version,
                version=change.version,
            )
            if changed is None:
                raise Conflict(
                    f"{table.full_name} was changed or dropped meanwhile.", remedy="try again."
                )
            (number,) = changed.values()
            change.run("insert_column", **column_row(table.id, replace(added, id=number)))
            change.note(
                "table_altered", actor, table=table.id, name=table.full_name, added=column.name
            )
        return self._fresh(table.namespace, table.name)

    def drop(self, table: Table, *, actor: str) -> bool:
        """Drop a table; whether it was there. Its rows are for others to remove. Raises
        `DatabaseUnavailable`."""
        with self._changing() as change:
            dropped = change.one("drop_table", table=table.id, version=change.version) is not None
            if dropped:
                change.run("drop_columns", table=table.id)
                change.note("table_dropped", actor, table=table.id, name=table.full_name)
        self._standing(fresh=True)
        return dropped

    def acted(self, actor: str, user: str) -> None:
        """A row in the audit: somebody acts as this user. Raises `DatabaseUnavailable`."""
        origin = acting_from.get() or None
        with self._database.asking() as connection:
            connection.execute(SQL["acted"], {"actor": actor, "origin": origin, "user": user})

    def close(self) -> None:
        """Close the copy. Idempotent."""
        self._mirror.close()

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        with self._database.asking() as connection:
            change = _Change(connection, 0)
            version = change.one("advance")
            assert version is not None, "the row is made with the table"
            yield _Change(connection, version["version"])
        self._asked_at = float("-inf")  # what is known is older now

    def _fresh(self, namespace: str, name: str) -> Table:
        found = self._standing(fresh=True).find(namespace, name)
        if found is None:
            raise Conflict(
                f"The table {namespace}.{name} was dropped by somebody else meanwhile.",
                remedy="try again.",
            )
        return found

    # -- knowing

    def _standing(self, *, fresh: bool = False) -> Standing:
        """What is known, asked for again if it is too old."""
        known = self._known
        if known is not None and not fresh:
            # One asks; a server that stands still holds up nobody beside it who knows something.
            if self._clock() - self._asked_at < _FRESH_S or not self._lock.acquire(blocking=False):
                return known
        else:
            self._lock.acquire()
        try:
            asked = self._clock()
            known = self._known or self._mirror.load()
            try:
                known = self._newest(known)
            except DatabaseUnavailable:
                known, self._stale = self._copied(known), True
            else:
                self._stale = False
            self._known, self._asked_at = known, asked
            return known
        finally:
            self._lock.release()

    def _copied(self, known: Standing) -> Standing:
        """What another process on the same file has found out."""
        return (
            known
            if self._mirror.version() == (known.catalog_id, known.version)
            else self._mirror.load()
        )

    def _newest(self, known: Standing) -> Standing:
        with self._database.reading() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            row = cursor.execute(SQL["version"]).fetchone()
            assert row is not None, "the row is made with the table"
            catalog_id, version = row["catalog_id"], row["version"]
            if (catalog_id, version) == (known.catalog_id, known.version):
                return known
            anew = catalog_id != known.catalog_id or version < known.version
        with self._database.asking() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = cursor.execute(SQL["version"]).fetchone()
            assert row is not None
            found = cursor.execute(SQL["newer"], {"after": 0 if anew else known.version}).fetchall()
            ids = [each["table_id"] for each in found]
            columns: dict[int, list[Mapping[str, Any]]] = {each: [] for each in ids}
            for column in cursor.execute(SQL["columns"], {"tables": ids}):
                columns[column["table_id"]].append(column)
            names = cursor.execute(SQL["namespaces"]).fetchall()
        namespaces = tuple(each["name"] for each in names)
        tables = {} if anew else dict(known.tables)
        for each in found:
            tables.pop(each["table_id"], None)
            if each["dropped_at"] is None:
                tables[each["table_id"]] = table_of(each, columns[each["table_id"]])
        gone = {key for key, table in tables.items() if table.namespace not in namespaces}
        for key in gone:
            del tables[key]
        standing = Standing(row["catalog_id"], row["version"], namespaces, tables)
        self._mirror.keep(standing, {*ids, *gone}, None if anew else known)
        return standing


@dataclass(frozen=True, slots=True)
class _Change:
    """One transaction that changes the catalogue; `version` is what it becomes."""

    connection: Connection[Any]
    version: int

    def run(self, query: str, **values: Any) -> None:
        self.connection.execute(SQL[query], values)

    def one(self, query: str, **values: Any) -> dict[str, Any] | None:
        cursor = self.connection.cursor(row_factory=dict_row)
        return cursor.execute(SQL[query], values).fetchone()

    def note(self, action: str, actor: str, **detail: Any) -> None:
        origin = acting_from.get() or None
        self.run("note", action=action, actor=actor, origin=origin, detail=Jsonb(detail))


def _no_namespace(name: str) -> NotFound:
    return NotFound(
        f"There is no namespace {name[:200]!r}.",
        remedy="SHOW NAMESPACES lists them; CREATE NAMESPACE makes one.",
    )
