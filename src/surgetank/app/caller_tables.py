"""Tables as one caller of the server may see and fill them: `tank.tables.for_caller(caller)`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from surgetank.app.sql import SqlCaller
from surgetank.exceptions import EntryRejected, SurgetankError
from surgetank.streams.tables.definition import Column, Table

if TYPE_CHECKING:
    from surgetank.app.table_room import OpenTables
    from surgetank.streams.tables.insertion import BadRow as BadRow  # noqa: PLC0414 - given on
    from surgetank.streams.tables.insertion import Inserted as Inserted  # noqa: PLC0414
    from surgetank.streams.tables.sql.figures import TableFigures as TableFigures  # noqa: PLC0414

__all__ = [
    "ARROW",
    "JSON",
    "NDJSON",
    "ROW_FORMS",
    "CallerTables",
    "Column",
    "default_text",
    "refused_row",
    "where_refused",
]

JSON, NDJSON = "application/json", "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
ROW_FORMS = (JSON, NDJSON, ARROW)  # media types of rows
_PATH = re.compile(r"\$(?:\[(?P<row>[0-9]{1,9})\])?(?:\.(?P<column>.*))?", re.DOTALL)


class CallerTables:
    """What SQL shows and lets do with the same names. Methods block. Raises `NotFound` for a table
    that there is not, or that is not for this caller."""

    def __init__(self, opened: Callable[[], OpenTables], caller: SqlCaller) -> None:
        self._opened = opened
        self._caller = caller

    def list(self) -> list[Table]:
        """The tables that the caller may read, by name."""
        tables = self._opened()
        from surgetank.streams.tables.sql.rights import readable  # noqa: PLC0415 - an extra

        return [
            each for each in tables.catalog.tables() if readable(self._caller, each) is not None
        ]

    def describe(self, namespace: str, name: str) -> Table:
        """A table as it is now."""
        return self._get(self._caller, namespace, name)[1]

    def figures(self, table: Table) -> TableFigures | None:
        """How much waits and is in files; None for who is no operator. Raises
        `ColdStateUnavailable`."""
        tables = self._opened()
        from surgetank.streams.tables.sql.figures import figures_of  # noqa: PLC0415 - an extra

        if not self._caller.defines and not self._caller.administers:
            return None
        return figures_of(table, tables.hot, tables.cold)

    def insert(
        self,
        namespace: str,
        name: str,
        body: bytes,
        *,
        form: str,
        on_bad: Literal["refuse", "skip"] = "refuse",
        on_conflict: Literal["refuse", "nothing", "update"] = "refuse",
        updates: Sequence[str] = (),
        key: str | None = None,
        as_user: str | None = None,
    ) -> Inserted:
        """Insert rows of the caller's, sent in one of `ROW_FORMS`. Administrators may act
        `as_user`, which is in the audit.

        Raises `InvalidRequest` for what can't be read, `NotAllowed`, and as `Tables.insert`.
        """
        tables, caller = self._opened(), self._caller
        from surgetank.streams.tables.incoming import RowsForm, rows_of  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.sql import rights  # noqa: PLC0415
        from surgetank.streams.tables.sql.statements import OnConflict  # noqa: PLC0415
        from surgetank.streams.tables.values import Source  # noqa: PLC0415

        if as_user is not None:
            caller = rights.acting(caller, as_user, tables.catalog.acted)
        table = rights.changeable(caller, self._get(caller, namespace, name)[1]).table
        return tables.ingest.insert(
            table,
            rows_of(body, RowsForm(form)),
            user=rights.inserting(caller, table),
            source=Source.PYTHON if form == ARROW else Source.JSON,
            on_bad=on_bad,
            on_conflict=OnConflict(on_conflict),
            updates=updates,
            key=key,
        )

    def _get(self, caller: SqlCaller, namespace: str, name: str) -> tuple[OpenTables, Table]:
        tables = self._opened()
        from surgetank.streams.tables.sql.rights import not_there, readable  # noqa: PLC0415 - an extra

        table = tables.catalog.find(namespace, name)
        if table is None or readable(caller, table) is None:
            raise not_there(f"{namespace}.{name}")
        return tables, table


def where_refused(path: str) -> tuple[int | None, str | None]:
    """The row (from 0) and the column that `EntryRejected.path` names: `$[3].note`."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None, None
    return None if found["row"] is None else int(found["row"]), found["column"]


def refused_row(error: SurgetankError) -> tuple[int | None, str | None, str] | None:
    """The row, column and reason of an insert that was refused for one; None for another error."""
    from surgetank.streams.tables.insertion import KeyTaken  # noqa: PLC0415 - an extra

    if isinstance(error, EntryRejected):
        return (*where_refused(error.path), error.reason)
    return (error.index, error.column, error.why) if isinstance(error, KeyTaken) else None


def default_text(column: Column) -> str | None:
    """The DEFAULT of a column, as SQL has it."""
    from surgetank.streams.tables.sql.listing import default_text as text_of  # noqa: PLC0415 - an extra

    return text_of(column)
