"""SQL of an engine: statements, on whose behalf they are run, and what each of them gave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from surgetank.app.relations import Relations
from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.query.calls import SqlCaller, SqlOutcome, SqlResult
from surgetank.streams.tables.query.cancelling import Cancellation
from surgetank.streams.tables.query.parameters import Parameters

if TYPE_CHECKING:
    from surgetank.app.table_room import OpenTables
    from surgetank.streams.tables.query.executor import Executor
    from surgetank.streams.tables.sql.service import TableCatalogue
    from surgetank.table_settings import TableSettings

__all__ = [
    "OWNER", "Cancellation", "SqlCaller", "SqlOutcome", "SqlResult", "Statements", "is_complete", "is_subscription",
]  # fmt: skip
OWNER = SqlCaller(user="", trusted=True, defines=True, administers=True)


def is_complete(text: str) -> bool:
    """Whether a text ends with the semicolon of its last statement: not in a quote or a comment.
    Raises `QuotaExceeded`."""
    from surgetank.streams.tables.sql.tokens import words_of  # noqa: PLC0415 - an extra

    try:
        words = words_of(text)
    except InvalidRequest:  # a quote is open
        return False
    return bool(words) and words[-1].is_end


def is_subscription(text: str) -> bool:
    """Whether a text begins with SUBSCRIBE: a live query, which `tank.live` follows."""
    from surgetank.streams.tables.sql.tokens import Cursor, words_of  # noqa: PLC0415 - an extra

    try:
        words = words_of(text)
    except InvalidRequest:
        return False
    return Cursor(text, words).peek() == "SUBSCRIBE"


class Statements:
    """Runs SQL. Methods block, but for `wait`."""

    def __init__(
        self,
        opened: Callable[[], OpenTables],
        relations: Callable[[], Relations],
        settings: TableSettings,
    ) -> None:
        self._opened = opened
        self._relations = relations
        self._settings = settings
        self._ready: tuple[OpenTables, TableCatalogue, Executor] | None = None

    def __call__(
        self, text: str, parameters: Parameters | None = None, *, user: str | None = None
    ) -> tuple[SqlResult, ...]:
        """Run statements as the owner of this engine, in this process: what each gave, in order.

            (result,) = tank.sql("SELECT status, count(*) FROM system.runs GROUP BY status")
            result.rows        # an Arrow table

        `parameters` are what `$1` or `?` (a sequence) or `$name` (a mapping) stand for. `user`: for
        this user, whose rows are read and inserted, and nobody else's. Raises `InvalidRequest`,
        `NotFound`, `DatabaseUnavailable`, `MissingExtra`.
        """
        caller = OWNER if user is None else SqlCaller(user=user, trusted=True)
        return self.run(text, caller, parameters=parameters).done()

    async def wait(
        self, text: str, parameters: Parameters | None = None, *, user: str | None = None
    ) -> tuple[SqlResult, ...]:
        """The same for an event loop: `await tank.asql(...)`."""
        return await asyncio.to_thread(self, text, parameters, user=user)

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
        executor = self._made()[1]
        return executor.run(text, caller, parameters=parameters, most_rows=most_rows)

    def names(self, caller: SqlCaller) -> Sequence[str]:
        """Names that the caller may select from: tables, and relations of the system."""
        catalogue = self._made()[0]
        tables = [table.full_name for table in catalogue.visible(caller)]
        return [*tables, *catalogue.system(caller)]

    def columns(self, caller: SqlCaller) -> Mapping[str, Sequence[str]]:
        """The columns of all that the caller may select from, by its name."""
        return self._made()[0].columns(caller)

    def _made(self) -> tuple[TableCatalogue, Executor]:
        tables, ready = self._opened(), self._ready
        if ready is None or ready[0] is not tables:
            from surgetank.streams.tables.query.executor import Executor  # noqa: PLC0415 - an extra
            from surgetank.streams.tables.query.queries import limits_of  # noqa: PLC0415
            from surgetank.streams.tables.sql.service import TableCatalogue  # noqa: PLC0415

            catalogue = TableCatalogue(
                tables.catalog,
                hot=tables.hot,
                cold=tables.cold,
                ingest=tables.ingest,
                flusher=tables.flusher,
                create=tables.create,
                drop=tables.drop,
                relations=self._relations(),
            )
            executor = Executor(
                catalogue, tables.queries, tables.changes, limits=limits_of(self._settings)
            )
            ready = self._ready = (tables, catalogue, executor)
        return ready[1], ready[2]
