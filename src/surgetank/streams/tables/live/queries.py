"""Live queries: the newest rows of a table that meet a condition, and then what changes.

A live query knows up to where it has seen the changes of its table, and has no queue: it takes what came after.
One that falls behind what is kept is given a `gap`, and goes on after it.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import NotFound, QuotaExceeded
from surgetank.streams.tables.definition import SEQ, USER, Table
from surgetank.streams.tables.hot.protocol import OP, VERSION, HotTables, Op
from surgetank.streams.tables.live.conditions import Condition
from surgetank.streams.tables.live.feeds import Feed, Tail, changes_between, has_passed
from surgetank.streams.tables.live.statement import Subscribe
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.rows import RowForm

pc: Any = pyarrow.compute  # its functions are made when it is imported
_MOST_KNOWN = 200_000  # rows of which is known whether they meet the condition
_MOST_MISSED = 50_000  # changes that are read for who comes back
_MOST_BYTES = 32 * 1024**2  # of the rows to begin with
_IN_ONE_EVENT = 200
_RECHECK_S = 2.0


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something to tell: `rows` (those to begin with), `insert`, `update`, `delete` or `gap`.
    `version` is where to go on after it; None where more of the same belongs to it."""

    type: str
    version: int | None
    body: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The version is text: it has more digits than numbers of JavaScript."""
        id_ = None if self.version is None else str(self.version)
        return {"type": self.type, "id": id_, **self.body}


@dataclass(frozen=True, slots=True)
class Listed:
    """A live query, for who wants to know which there are."""

    id: int
    caller: str
    table: str
    where: str | None
    since: datetime
    events: int


class LiveTables:
    """The live queries of one process."""

    def __init__(
        self,
        hot: HotTables,
        reader: TableReader,
        *,
        most: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hot, self.reader, self.clock = hot, reader, clock
        self.tail = Tail(hot, clock=clock)
        self._most = most  # of one caller
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[int, LiveQuery] = {}
        self._callers: Counter[str] = Counter()

    def subscribe(
        self,
        asked: Subscribe,
        find: Callable[[], Readable],
        *,
        caller: str = "",
        after: int | None = None,
    ) -> LiveQuery:
        """Begin a live query. `find` says which table it is and whose rows of it the caller may
        read; it is asked again while the query goes on, and may raise what ends it. With `after`
        it goes on after that version, without rows to begin with.

        Raises `InvalidRequest`, `ColdStateUnavailable`, and what `find` raises; `QuotaExceeded` for a
        caller who has too many open. Who has no name (the owner of the process) may have any number.
        """
        number = next(self._numbers)
        self._count(caller)
        try:
            made = LiveQuery(self, asked, find, number=number, caller=caller, after=after)
        except BaseException:
            self._uncount(caller)
            raise
        self._open[number] = made
        return made

    def forgotten(self, number: int, caller: str) -> None:
        """A live query has ended."""
        self._open.pop(number, None)
        self._uncount(caller)

    def _count(self, caller: str) -> None:
        with self._lock:
            if caller and self._callers[caller] >= self._most:
                raise QuotaExceeded(
                    f"You have {self._most} live queries open already, as many as one may have.",
                    remedy="close some of them, or raise SURGETANK_SQL_LIVE_QUERIES.",
                )
            self._callers[caller] += 1

    def _uncount(self, caller: str) -> None:
        with self._lock:
            self._callers[caller] -= 1
            if self._callers[caller] <= 0:
                del self._callers[caller]

    def listed(self) -> list[Listed]:
        """The live queries that are open, oldest first."""
        return [each.listed() for _, each in sorted(self._open.copy().items())]

    def close(self) -> None:
        """End all. Idempotent."""
        for query in list(self._open.values()):
            query.close()
        self.tail.close()


class LiveQuery:
    """One live query. `take` gives what there is, `wait` waits for more; as an iterator it does
    both, until it is closed."""

    def __init__(
        self,
        tables: LiveTables,
        asked: Subscribe,
        find: Callable[[], Readable],
        *,
        number: int,
        caller: str,
        after: int | None,
    ) -> None:
        self._tables, self._asked, self._find = tables, asked, find
        self._number, self._caller = number, caller
        self._since = datetime.now(UTC)
        self._events = 0
        self._news = threading.Event()
        self._on_news: Callable[[], None] | None = None
        self._closed = False
        self._seen_to = 0  # changes up to here are behind it
        readable = find()
        self._user = readable.user if readable.table.by_user else None
        self._prepare(readable.table)
        self._checked_at = tables.clock()
        self._states: dict[int, bool] = {}  # by row, whether it meets the condition
        self._knows_all = False  # rows that are not in `_states` don't meet it
        self._feed: Feed = tables.tail.join(self._table, self._user, self._wake)
        self._missed: list[pa.Table] = []  # changes before those of the feed
        self._first: list[LiveEvent] = []
        try:
            if after is None:
                self._begin()
            else:
                self._resume(after)
        except BaseException:
            tables.tail.leave(self._feed, self._wake)
            raise
        self._news.set()

    # -- for who follows

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def on_news(self, listener: Callable[[], None]) -> None:
        """Call this, from another thread, when there may be something to take."""
        self._on_news = listener

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there may be something to take. False when the time is over."""
        return self._news.wait(timeout_s)

    def take(self) -> list[LiveEvent]:
        """What came since, in order. Raises what the table's access raises: the query is over
        then."""
        self._news.clear()
        self._recheck()
        events, self._first = self._first, []
        missed, self._missed = self._missed, []
        for rows in missed:
            events += self._events_of(rows, 0)
        with self._tables.tail.lock:
            since, through = self._feed.since, self._feed.through
            parts = self._feed.after(max(self._seen_to, since))
        if self._seen_to < since:
            self._knows_all = False
            self._states.clear()
            events.append(_gap(since))
            self._seen_to = since
        for rows in parts:
            events += self._events_of(rows, self._seen_to)
        self._seen_to = max(self._seen_to, through)
        self._events += len(events)
        return events

    def __iter__(self) -> Iterator[LiveEvent]:
        while not self._closed:
            yield from self.take()
            self._news.wait(_RECHECK_S)

    async def __aiter__(self) -> AsyncIterator[LiveEvent]:
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop may have ended first
                loop.call_soon_threadsafe(news.set)

        self.on_news(wake)
        while not self._closed:
            news.clear()
            for event in await asyncio.to_thread(self.take):
                yield event
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _RECHECK_S)

    def __enter__(self) -> LiveQuery:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. Idempotent."""
        if not self._closed:
            self._closed = True
            self._tables.tail.leave(self._feed, self._wake)
            self._tables.forgotten(self._number, self._caller)
            self._wake()

    def listed(self) -> Listed:
        """What others may know of it."""
        return Listed(
            id=self._number, caller=self._caller, table=self._table.full_name,
            where=self._asked.where, since=self._since, events=self._events,
        )  # fmt: skip

    def _wake(self) -> None:
        self._news.set()
        listener = self._on_news
        if listener is not None:
            listener()

    # -- the table

    def _prepare(self, table: Table) -> None:
        self._table = table
        self._form = RowForm(table)
        self._condition = Condition(self._asked.where, table) if self._asked.where else None
        self._names = [column.name for column in table.columns]

    def _recheck(self) -> None:
        now = self._tables.clock()
        if now - self._checked_at < _RECHECK_S:
            return
        self._checked_at = now
        readable = self._find()
        user = readable.user if readable.table.by_user else None
        if readable.table.id != self._table.id or user != self._user:
            raise NotFound(
                f"{self._table.full_name} is another table now, or is shared otherwise.",
                remedy="begin the live query again.",
            )
        if readable.table != self._table:
            self._prepare(readable.table)
            with self._tables.tail.lock:
                self._feed.table = readable.table

    # -- beginning

    def _begin(self) -> None:
        wanted = self._asked.last_rows
        if not wanted and self._condition is None:
            with self._tables.hot.snapshot() as snapshot:
                self._seen_to = snapshot.through(self._table)
            self._first = [LiveEvent("rows", self._seen_to, {"rows": [], "stale": False})]
            return
        kept: list[pa.Table] = []
        seqs: list[Any] = []
        known = 0
        with self._tables.reader.view(self._table, user=self._user) as view:
            for batch in self._tables.reader.scan(view):
                rows = pa.Table.from_batches([batch])
                if self._condition is not None:
                    rows = rows.filter(self._condition.met_by(rows))
                    if known <= _MOST_KNOWN:
                        seqs.append(rows.column(SEQ).to_numpy())
                        known += rows.num_rows
                if wanted and rows.num_rows:
                    kept = [_newest([*kept, rows], wanted)]
            self._seen_to, stale = view.through, view.stale
        if self._condition is not None and known <= _MOST_KNOWN:
            found = np.concatenate(seqs).tolist() if seqs else []
            self._states = dict.fromkeys(found, True)
            self._knows_all = True
        rows = kept[0].sort_by(SEQ) if kept else None
        if rows is not None and rows.nbytes > _MOST_BYTES:
            raise QuotaExceeded(
                f"The newest {rows.num_rows} rows have {rows.nbytes >> 20} MB, and {_MOST_BYTES >> 20} is the most.",
                remedy="begin with fewer: OPTIONS (last_rows=10).",
            )
        shown = self._shown(rows) if rows is not None else []
        parts = [shown[at : at + _IN_ONE_EVENT] for at in range(0, len(shown), _IN_ONE_EVENT)]
        for part in parts[:-1]:
            self._first.append(LiveEvent("rows", None, {"rows": part, "stale": stale}))
        last = parts[-1] if parts else []
        self._first.append(LiveEvent("rows", self._seen_to, {"rows": last, "stale": stale}))

    def _resume(self, after: int) -> None:
        """Find what came after a version: in the feed, or still hot. Else there is a gap."""
        self._seen_to = after
        since, hot = self._feed.since, self._tables.hot
        if since <= after:
            with hot.snapshot() as snapshot:
                if after <= snapshot.through(self._table):
                    return
                self._seen_to = snapshot.through(self._table)
        else:
            reached, count = after, 0
            with hot.snapshot() as snapshot:
                while reached < since and count < _MOST_MISSED:
                    rows, reached = changes_between(
                        snapshot, self._table, self._user, reached, since
                    )
                    count += rows.num_rows
                    if rows.num_rows:
                        self._missed.append(rows)
            if reached >= since and not has_passed(hot, self._table, self._user, after):
                self._seen_to = since
                return
            self._missed.clear()
            self._seen_to = since
        self._first = [_gap(self._seen_to)]

    # -- telling

    def _shown(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Rows as events have them."""
        return [
            {**_identity(row), "row": self._form.as_json([row[name] for name in self._names])}
            for row in _plain(rows, self._names)
        ]

    def _events_of(self, rows: pa.Table, after: int) -> list[LiveEvent]:
        """What changes after a version are to who follows."""
        newer = rows.filter(pc.greater(rows.column(VERSION), after))
        missing = [name for name in self._names if name not in newer.column_names]
        for name in missing:  # it was read before the column was added
            column = self._table.column(name)
            assert column is not None
            newer = newer.append_column(name, pa.nulls(newer.num_rows, column.type.arrow))
        meets = (
            [True] * newer.num_rows
            if self._condition is None
            else self._condition.met_by(newer).to_pylist()
        )
        events: list[LiveEvent] = []
        for row, met in zip(_plain(newer, self._names), meets, strict=True):
            kind = self._kind(Op(row[OP]), row[SEQ], row[VERSION], met)
            if kind is None:
                continue
            names = self._table.key if kind == "delete" else self._names
            shown = self._form.as_json([row[n] if n in names else None for n in self._names])
            body = {**_identity(row), "row": {name: shown[name] for name in names}}
            events.append(LiveEvent(kind, row[VERSION], body))
        return events

    def _kind(self, op: Op, seq: int, version: int, met: bool) -> str | None:
        """What a change is: None for nothing. Of a row of which is not known whether it met the
        condition, an update that meets it is an `update`, and one that doesn't a `delete`."""
        if self._condition is None:
            if op is Op.INSERT:  # a parked row that was put back keeps its number
                return "insert" if seq == version else "update"
            return "update" if op is Op.UPDATE else "delete"
        before = self._states.get(seq, False if self._knows_all or seq == version else None)
        now = met and op is not Op.DELETE
        if self._knows_all:
            if now:
                self._states[seq] = True
            else:
                self._states.pop(seq, None)
        else:
            self._states[seq] = now
        if len(self._states) > _MOST_KNOWN:
            self._states.clear()
            self._knows_all = False
        if now:
            return "insert" if before is False else "update"
        return None if before is False else "delete"


def _plain(rows: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    shown = [
        name for name in rows.column_names if name in (USER, SEQ, VERSION, OP) or name in names
    ]
    plain: list[dict[str, Any]] = rows.select(shown).to_pylist()
    return plain


def _identity(row: dict[str, Any]) -> dict[str, Any]:
    owner = {"user": row[USER]} if USER in row else {}
    return {"seq": str(row[SEQ]), **owner}


def _newest(parts: Sequence[pa.Table], most: int) -> pa.Table:
    rows = pa.concat_tables(parts)
    if rows.num_rows <= most:
        return rows
    return rows.take(pc.select_k_unstable(rows.column(SEQ), most, [(SEQ, "descending")]))


def _gap(version: int) -> LiveEvent:
    return LiveEvent(
        "gap", version, {"message": "Changes up to here were missed: read the rows again."}
    )
