"""Live queries of an engine: the rows of a table now, and every change of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from surgetank.app.sql import OWNER, SqlCaller
from surgetank.exceptions import InvalidRequest

if TYPE_CHECKING:
    from surgetank.app.table_room import OpenTables
    from surgetank.streams.tables.live.queries import Listed, LiveTables
    from surgetank.streams.tables.live.queries import LiveEvent as LiveEvent  # noqa: PLC0414 - given on
    from surgetank.streams.tables.live.queries import LiveQuery as LiveQuery  # noqa: PLC0414
    from surgetank.streams.tables.query.sources import Readable


class LiveQueries:
    """Begins live queries. Methods block."""

    def __init__(self, tables: Callable[[], OpenTables], *, most: int) -> None:
        self._tables, self._most = tables, most
        self._lock = threading.Lock()
        self._live: LiveTables | None = None

    def __call__(
        self, text: str, user: str | None = None, *, after: int | None = None
    ) -> LiveQuery:
        """Follow a table, as this user or as the owner of this engine, who sees everybody's rows.

            with tank.live("SUBSCRIBE TO app.notes WHERE done = false") as query:
                for event in query:      # or: async for
                    print(event.type, event.body)

        With `after` it goes on after the `version` of an event, without rows to begin with. Raises
        `InvalidRequest`, `NotFound`, `ColdStateUnavailable`, `MissingExtra`, and `QuotaExceeded` for a
        user who has as many open as one may (`sql_live_queries`).
        """
        return self.begin(text, OWNER if user is None else SqlCaller(user=user), after=after)

    def begin(self, text: str, caller: SqlCaller, *, after: int | None = None) -> LiveQuery:
        """Follow a table for a caller, who sees what SELECT shows to them."""
        tables = self._tables()
        from surgetank.streams.tables.live.queries import LiveTables  # noqa: PLC0415 - an extra
        from surgetank.streams.tables.live.statement import subscribe  # noqa: PLC0415
        from surgetank.streams.tables.sql.rights import not_there, readable  # noqa: PLC0415

        asked = subscribe(text)
        if after is not None and not 0 <= after < 1 << 63:
            raise InvalidRequest("No event has this number.", remedy="give the id of one.")

        def find() -> Readable:
            table = tables.catalog.find(asked.schema, asked.name)
            found = None if table is None else readable(caller, table)
            if found is None:
                raise not_there(f"{asked.schema}.{asked.name}")
            return found

        with self._lock:
            if self._live is None:
                self._live = LiveTables(tables.hot, tables.reader, most=self._most)
            live = self._live
        return live.subscribe(asked, find, caller=caller.user, after=after)

    def listed(self) -> list[Listed]:
        """The live queries of this process, oldest first."""
        return self._live.listed() if self._live is not None else []

    def forget_user(self, user: str) -> None:
        """Keep no change of a user who is erased."""
        if self._live is not None:
            self._live.tail.forget_user(user)

    def close(self) -> None:
        """End all. Idempotent."""
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.close()
