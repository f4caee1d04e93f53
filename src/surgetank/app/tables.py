"""`tank.tables`: tables of users' rows, for the owner of this engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from surgetank.app.caller_tables import CallerTables
from surgetank.app.sql import SqlCaller
from surgetank.app.table_files import (
    ExportForm,
    ExportWishes,
    FileImport,
    ImportForm,
    ImportWishes,
    Progress,
    TableExport,
    TableImport,
    export_table,
)
from surgetank.exceptions import InvalidRequest
from surgetank.model import FlushJob
from surgetank.streams.tables.definition import Access, Kind, Table, TablePolicy

if TYPE_CHECKING:
    from surgetank.app.table_room import OpenTables
    from surgetank.streams.tables.insertion import BadRow, Inserted
    from surgetank.streams.tables.sql.statements import TableName

__all__ = ["Access", "Kind", "Table", "TablePolicy", "Tables"]
_ACTOR = "library"


class ImportOptions(TypedDict, total=False):
    """How a file is imported. `form`: by its name. `user`, or the column that says whose each row
    is (by itself `_user`); `create` makes the table, of `kind` and with the PRIMARY KEY `key`.
    `on_bad="skip"` leaves out rows that can't be stored, each of which is given to `bad`; `again`
    is a word that makes it another import of the same file. `progress` is called with the bytes
    that were read, and how many there are.
    """

    form: ImportForm | None
    user: str | None
    user_column: str | None
    create: bool
    kind: Kind | None
    key: Sequence[str]
    on_bad: Literal["refuse", "skip"]
    on_conflict: Literal["refuse", "nothing", "update"]
    again: str
    bad: Callable[[BadRow], None] | None
    progress: Progress | None


class Tables:
    """Makes, shows and fills tables. Methods block. Names are `namespace.table`, or `table` in the
    namespace `public`.

    Raises `MissingExtra` without the extra `tables`, `NotFound` for a table that there is not."""

    def __init__(self, opened: Callable[[], OpenTables], location: Callable[[], str]) -> None:
        self._opened = opened
        self._location = location

    def create(
        self,
        name: str,
        columns: Mapping[str, str] | None = None,
        *,
        key: Sequence[str] = (),
        kind: Kind | str = Kind.USER,
        access: Access | str = Access.PRIVATE,
        flush_policy: str = "",
        ttl_s: float | None = None,
        if_not_exists: bool = False,
    ) -> Table:
        """Make a table.

            tank.tables.create("shop.orders", {"id": "BIGINT PRIMARY KEY", "note": "TEXT DEFAULT ''"})
            tank.tables.create("CREATE TABLE shop.orders (id BIGINT PRIMARY KEY)")

        `columns` are declarations as in SQL, `key` the columns of the PRIMARY KEY, `flush_policy`
        such as `rows:1000,interval:60`. Without `columns` the name is the whole statement. The
        namespace has to be there. Raises `InvalidRequest`, `Conflict` for a name that is taken,
        `DatabaseUnavailable`.
        """
        tables = self._opened()
        from surgetank.streams.tables.sql import definitions as of  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.sql.parsing import parse  # noqa: PLC0415
        from surgetank.streams.tables.sql.statements import CreateTable  # noqa: PLC0415

        if columns is None:
            actions = [each.action for each in parse(name)]
            if len(actions) != 1 or not isinstance(actions[0], CreateTable):
                raise InvalidRequest(
                    "This is not one CREATE TABLE.",
                    remedy="give its name and its columns, or the statement.",
                )
            return tables.create(actions[0], actor=_ACTOR)
        declared = [of.declared(each, text) for each, text in columns.items()]
        inline = tuple(column.name for column, is_key in declared if is_key)
        if inline and key:
            raise InvalidRequest("The PRIMARY KEY is named twice.", remedy="name it once.")
        wanted = CreateTable(
            table=_named(name),
            columns=tuple(column for column, _ in declared),
            key=tuple(key) or inline,
            kind=of.chosen_kind(kind),
            access=of.chosen_access(access),
            policy=of.flush_policy(flush_policy) if flush_policy else TablePolicy(),
            ttl_s=ttl_s,
            if_not_exists=if_not_exists,
        )
        return tables.create(wanted, actor=_ACTOR)

    def create_namespace(self, name: str, *, if_not_exists: bool = False) -> None:
        """Make a namespace. Raises `Conflict`, `InvalidRequest`, `DatabaseUnavailable`."""
        self._opened().catalog.create_namespace(name, actor=_ACTOR, if_not_exists=if_not_exists)

    def namespaces(self) -> tuple[str, ...]:
        """All namespaces."""
        return self._opened().catalog.namespaces()

    def list(self, namespace: str | None = None) -> list[Table]:
        """All tables, or those of a namespace, by name."""
        return self._opened().catalog.tables(namespace)

    def describe(self, name: str) -> Table:
        """A table as it is now: columns, key, kind, policy."""
        return self._get(name)[1]

    def add_column(self, name: str, column: str, declaration: str) -> Table:
        """Add a column, declared as in SQL (`INT NOT NULL DEFAULT 0`). Raises `Conflict`,
        `InvalidRequest`, `DatabaseUnavailable`."""
        tables, table = self._get(name)
        from surgetank.streams.tables.sql.definitions import declared  # noqa: PLC0415 - an extra

        made, is_key = declared(column, declaration)
        if is_key:
            raise InvalidRequest(
                "A column that is added can't be the PRIMARY KEY.", remedy="create another table."
            )
        return tables.catalog.add_column(table, made, actor=_ACTOR)

    def insert(
        self,
        name: str,
        rows: Any,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        on_bad: Literal["refuse", "skip"] = "refuse",
        on_conflict: Literal["refuse", "nothing", "update"] = "refuse",
        updates: Sequence[str] = (),
        key: str | None = None,
    ) -> Inserted:
        """Insert rows of a user: dicts, tuples (of `columns`, or of all), or anything of Arrow,
        polars and pandas. Without `user` each row names its own in `_user`; rows of a SHARED table
        have none.

            tank.tables.insert("shop.orders", [{"id": 1, "note": "tea"}], user="ann")

        `key` makes it safe to repeat the call. `on_bad="skip"` leaves out what can't be stored.
        Raises `EntryRejected` naming row and column, `Conflict` for a key that is there, `BufferFull`.
        """
        tables, table = self._get(name)
        from surgetank.streams.tables.sql.statements import OnConflict  # noqa: PLC0415 - an extra

        return tables.ingest.insert(
            table,
            rows,
            user=user,
            columns=columns,
            on_bad=on_bad,
            on_conflict=OnConflict(on_conflict),
            updates=updates,
            key=key,
        )

    def import_from(
        self, name: str, path: Path | str, **options: Unpack[ImportOptions]
    ) -> TableImport:
        """Insert the rows of a Parquet, CSV or NDJSON file, and flush them.

            tank.tables.import_from("shop.orders", "orders.csv", user="ann")

        The same call goes on with one that was interrupted, within 30 days, and stores no row
        twice. Raises `EntryRejected` naming row (from 0) and column, before anything is stored;
        `Conflict` for a key that is there or a file that is changed meanwhile, `InvalidRequest` for
        a file that can't be read, `BufferFull`.
        """
        with self.importing(name, path, **options) as transfer:
            return transfer.run()

    @contextmanager
    def importing(
        self, name: str, path: Path | str, **options: Unpack[ImportOptions]
    ) -> Iterator[FileImport]:
        """`import_from` in two steps, for who wants the report of an import that stopped."""
        tables = self._opened()
        from surgetank.streams.tables.exchange.reading import RowsFile, form_of  # noqa: PLC0415 - an extra

        wishes, path = dict(options), Path(path)
        with RowsFile(path, form_of(path, options.get("form"))) as file:
            wishes.pop("form", None)
            yield FileImport(tables, _named(name), file, ImportWishes(**wishes))  # type: ignore[arg-type]

    def export_to(
        self,
        name: str,
        target: Path | str,
        *,
        form: ExportForm,
        user: str | None = None,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> TableExport:
        """Write a table, or a user's rows of it, as it is at one moment, to a file (`delta`: a
        folder), which is there when it is complete.

        Raises `InvalidRequest` for a target that is there (without `replace`) or can't be written,
        `ColdStateUnavailable`, `MissingExtra` for Delta, `Conflict` where it takes longer than
        replaced files are kept.
        """
        tables, table = self._get(name)
        wishes = ExportWishes(form=form, user=user, replace=replace, progress=progress)
        return export_table(tables, table, Path(target), wishes)

    def for_caller(self, caller: SqlCaller) -> CallerTables:
        """The tables as a caller of the server may see and fill them."""
        return CallerTables(self._opened, caller)

    def location(self) -> str:
        """Where files of tables are stored, without credentials. A bucket is asked: raises
        `ColdStateUnavailable` where it doesn't answer or refuses."""
        return self._location()

    def flush(self, name: str | None = None) -> FlushJob:
        """Flush one table, or all of them, and wait."""
        if name is None:
            return self._opened().flusher.run("manual")
        tables, table = self._get(name)
        return tables.flusher.run("manual", partition=table.full_name)

    def drop(self, name: str, *, if_exists: bool = False) -> bool:
        """Drop a table with all its rows; whether it was there. Raises `DatabaseUnavailable`."""
        tables, named = self._opened(), _named(name)
        if if_exists and tables.catalog.find(named.namespace, named.name) is None:
            return False
        table = tables.catalog.get(named.namespace, named.name)
        return tables.drop(table, actor=_ACTOR)

    def _get(self, name: str) -> tuple[OpenTables, Table]:
        tables, named = self._opened(), _named(name)
        return tables, tables.catalog.get(named.namespace, named.name)


def _named(name: str) -> TableName:
    """`namespace.table`, or `table`."""
    from surgetank.streams.tables.sql.statements import TableName  # noqa: PLC0415 - an extra

    namespace, point, table = name.rpartition(".")
    return TableName(table, namespace) if point else TableName(name)
