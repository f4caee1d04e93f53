"""Who uses the space: bytes by kind, channel and thread, how the largest threads grow, and what
pruning would free.

On tables of more than `SAMPLE_BYTES` the totals are estimates from a sample of pages, so that
asking stays cheap; the threads that are shown are always counted exactly. Without the database the
hot part is still told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from psycopg.rows import dict_row

from surgetank.buffer.coordination import Backlog
from surgetank.buffer.log import Log
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    InvalidRequest,
    StateCorrupt,
)
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.retention.inventory import Inventory, Rows
from surgetank.streams.checkpoints.retention.plan import Contents, Limits, plan

SQL = queries("streams/checkpoints/retention/storage.sql")
KINDS = ("checkpoints", "whole", "patches", "writes")
SAMPLE_BYTES = 256 * 1024**2
NEWEST_FORMAT = 2
_ROWS_FOR_GROWTH = 100_000
_STEPS = 10
_STATES = 100_000
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Rows and bytes of one kind: `checkpoints`, `whole` blobs, `patches`, `writes`, for one
    channel or all.

    `raw_bytes` is what blobs weigh decoded.
    """

    kind: str
    channel: str | None
    rows: int
    bytes: int
    raw_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GrowthStep:
    """A tenth of a thread's checkpoints, oldest first, and the bytes that they brought."""

    from_at: float
    until_at: float
    checkpoints: int
    bytes: int

    @property
    def bytes_per_checkpoint(self) -> float:
        """What one of them brought on average."""
        return self.bytes / self.checkpoints


@dataclass(frozen=True, slots=True)
class Prunable:
    """What pruning would delete and free. `freed_bytes` is an estimate: patches whose base goes are
    made anew."""

    checkpoints: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class ThreadUsage:
    """One thread, counted exactly. `growth` and what follows are None for threads of very many rows
    or in doubt.

    `to_latest` is what `surgetank prune THREAD` would do, `to_limits` what the limits in the
    settings say.
    """

    thread_id: str
    bytes: int
    checkpoints: int
    hot_bytes: int
    usage: tuple[Usage, ...]
    updated_at: float | None = None
    state_bytes: int = 0
    growth: tuple[GrowthStep, ...] | None = None
    last_day_bytes: int | None = None
    last_week_bytes: int | None = None
    to_latest: Prunable | None = None
    to_limits: Prunable | None = None

    @property
    def bytes_per_checkpoint(self) -> float:
        """Everything in the database, per checkpoint."""
        return self.bytes / self.checkpoints if self.checkpoints else 0.0


@dataclass(frozen=True, slots=True)
class HotUsage:
    """What waits of checkpoints in the buffer: all of it, and the threads that have most."""

    entries: int
    bytes: int
    file_bytes: int
    threads: tuple[tuple[str, int, int], ...]  # thread, entries, bytes
    memory_bytes: int = 0  # of the server that it is in
    memory_max: int = 0


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table occupies on disk, with its indexes, out of line values and free space."""

    name: str
    bytes: int
    index_bytes: int


@dataclass(frozen=True, slots=True)
class RetentionPass:
    """The last pass of background retention through one buffer. `finished_at` is that of the last
    complete one."""

    buffer_id: str
    under_way: bool
    started_at: float
    finished_at: float | None
    threads_seen: int
    threads_pruned: int
    checkpoints_deleted: int


@dataclass(frozen=True, slots=True)
class StorageReport:
    """The whole picture. `share` is the part of the tables that was read for `kinds` and
    `channels`: below 1 they are estimates. `problem` says why there is nothing of the database;
    `format` is the storage format's level.
    """

    database: str
    hot: HotUsage
    problem: str | None = None
    remedy: str | None = None
    share: float = 1.0
    tables: tuple[TableSize, ...] = ()
    kinds: tuple[Usage, ...] = ()
    channels: tuple[Usage, ...] = ()
    threads: tuple[ThreadUsage, ...] = ()
    retention: tuple[RetentionPass, ...] = ()
    format: int | None = None

    @property
    def estimated(self) -> bool:
        """Whether `kinds` and `channels` come from a sample."""
        return self.share < 1


class HotStorage(Backlog, Log, Protocol):
    """What is measured of the buffer."""


def storage(
    buffer: HotStorage,
    database: Database,
    *,
    limits: Limits,
    now: float,
    thread: str | None = None,
    top: int = 10,
    sample_bytes: int = SAMPLE_BYTES,
) -> StorageReport:
    """Look. Raises `InvalidRequest` for a `top` below 1; a database that is down is told in the
    report."""
    if top < 1:
        raise InvalidRequest(
            f"The number of rows {top} can't be used.", remedy="give --top 1 or more."
        )
    hot_bytes, hot = _hot(buffer, thread, top)
    try:
        with database.asking(patient=True) as connection, connection.cursor(
            binary=True, row_factory=dict_row
        ) as cursor:  # fmt: skip
            return _Survey(buffer, cursor, limits, now, hot_bytes).report(
                database.address, hot, thread, top, sample_bytes
            )
    except (DatabaseUnavailable, ConfigurationError) as error:
        return StorageReport(database.address, hot, problem=error.what, remedy=error.remedy)


def raise_format(database: Database) -> bool:
    """Raise the storage format to the newest level; False when it is there already. It can't be
    lowered.

    Only when no process of an older version writes to or reads from the database any more: it fails
    to read what is written from then on. Raises `DatabaseUnavailable`.
    """
    with database.asking(patient=True) as connection:
        return connection.execute(SQL["raise_format"]).rowcount > 0


def _hot(buffer: HotStorage, thread: str | None, top: int) -> tuple[dict[str, int], HotUsage]:
    depth = buffer.depth()
    waiting = [s for s in depth.streams if s.stream == STREAM]
    if thread is not None:
        state = buffer.state(STREAM, thread)
        states = [state] if state is not None else []
    else:
        states = buffer.states(STREAM, limit=_STATES)
    largest = sorted(states, key=lambda s: s.bytes, reverse=True)[:top]
    shown = tuple((s.partition, s.entries, s.bytes) for s in largest)
    return {s.partition: s.bytes for s in states}, HotUsage(
        entries=sum(s.entries for s in waiting),
        bytes=sum(s.bytes for s in waiting),
        file_bytes=depth.file_bytes,
        threads=shown,
        memory_bytes=depth.memory_bytes,
        memory_max=depth.memory_max,
    )


class _Survey:
    """One look at the database."""

    def __init__(
        self,
        buffer: HotStorage,
        cursor: Rows,
        limits: Limits,
        now: float,
        hot_bytes: dict[str, int],
    ) -> None:
        self._buffer = buffer
        self._cursor = cursor
        self._limits = limits
        self._now = now
        self._hot_bytes = hot_bytes

    def report(
        self, address: str, hot: HotUsage, thread: str | None, top: int, sample_bytes: int
    ) -> StorageReport:
        """The whole picture, or that of one thread."""
        rows = self._cursor.execute(SQL["tables"]).fetchall()
        tables = tuple(TableSize(r["name"], r["total_bytes"], r["index_bytes"]) for r in rows)
        share = 1.0
        if thread is not None:
            threads = self._threads([thread])
            usages = [u for t in threads for u in t.usage]
        else:
            largest = max((r["main_bytes"] for r in rows), default=0)
            share = min(1.0, sample_bytes / largest) if largest else 1.0
            usages, names = self._sampled(share, top)
            threads = self._threads(names)
        passes = self._cursor.execute(
            queries("streams/checkpoints/retention/retention.sql")["passes"]
        ).fetchall()
        level = self._cursor.execute(
            queries("streams/checkpoints/cold/flush.sql")["storage_level"]
        ).fetchone()
        return StorageReport(
            address,
            hot,
            share=share,
            tables=tables,
            kinds=_by_kind(usages),
            channels=_largest_channels(usages, top),
            threads=threads,
            retention=tuple(RetentionPass(**row) for row in passes),
            format=level["level"] if level else None,
        )

    def _sampled(self, share: float, top: int) -> tuple[list[Usage], list[str]]:
        usages: list[Usage] = []
        names: list[str] = []
        for r in self._cursor.execute(SQL["kinds_sampled"], {"share": share, "top": top}):
            if r["thread_id"] is not None:
                names.append(r["thread_id"])
            else:
                usages.append(_usage(r))
        return usages, names

    def _threads(self, names: Sequence[str]) -> tuple[ThreadUsage, ...]:
        usages: dict[str, list[Usage]] = {}
        for r in self._cursor.execute(SQL["threads"], {"threads": list(names)}):
            usages.setdefault(r["thread_id"], []).append(_usage(r))
        rows = {
            r["thread_id"]: r
            for r in self._cursor.execute(SQL["thread_rows"], {"threads": list(names)}).fetchall()
        }
        threads = [
            self._thread(name, usages[name], rows.get(name)) for name in names if name in usages
        ]
        return tuple(sorted(threads, key=lambda t: t.bytes, reverse=True))

    def _thread(self, name: str, usages: list[Usage], row: dict[str, Any] | None) -> ThreadUsage:
        checkpoints = sum(u.rows for u in usages if u.kind == "checkpoints")
        return ThreadUsage(
            thread_id=name,
            bytes=sum(u.bytes for u in usages),
            checkpoints=checkpoints,
            hot_bytes=self._hot_bytes.get(name, 0),
            usage=tuple(sorted(usages, key=lambda u: u.bytes, reverse=True)),
            updated_at=row["updated_at"] if row else None,
            state_bytes=row["state_bytes"] if row else 0,
            **self._outlook(name, sum(u.rows for u in usages)),
        )

    def _outlook(self, name: str, rows: int) -> dict[str, Any]:
        """How the thread grew, and what would go."""
        if rows > _ROWS_FOR_GROWTH:
            return {}
        try:
            contents = Inventory(self._buffer, self._cursor).load(name, values=True)
        except StateCorrupt:  # told whenever somebody reads it; here the sizes still count
            return {}
        if contents is None:
            return {}
        brought = _brought(contents)
        limited = _prunable(contents, self._limits) if self._limits else None
        return {
            "growth": _growth(brought, self._now),
            "last_day_bytes": sum(size for age_s, size in brought if age_s <= _DAY_S),
            "last_week_bytes": sum(size for age_s, size in brought if age_s <= 7 * _DAY_S),
            "to_latest": _prunable(contents, Limits(keep=1)),
            "to_limits": limited,
        }


def _usage(row: dict[str, Any]) -> Usage:
    return Usage(
        row["kind"], row["channel"], round(row["rows"]), round(row["size"]), round(row["raw_bytes"])
    )


def _prunable(contents: Contents, limits: Limits) -> Prunable:
    found = plan(contents, limits)
    return Prunable(found.count, found.freed_bytes or 0)


def _brought(contents: Contents) -> list[tuple[float, int]]:
    """Age of each cold checkpoint, oldest first, with its bytes and those of the values that came
    with it."""
    seen: set[int] = set()
    brought = []
    for c in sorted(
        (c for c in contents.checkpoints if not c.hot), key=lambda c: (-c.age_s, c.checkpoint_id)
    ):
        new = set(c.blobs) - seen
        seen |= new
        brought.append((c.age_s, c.size + sum(contents.blobs[number].size for number in new)))
    return brought


def _growth(brought: Sequence[tuple[float, int]], now: float) -> tuple[GrowthStep, ...]:
    count = len(brought)
    steps = min(_STEPS, count)
    edges = [count * i // steps for i in range(steps + 1)] if steps else []
    return tuple(
        GrowthStep(
            now - brought[start][0],
            now - brought[end - 1][0],
            end - start,
            sum(s for _, s in brought[start:end]),
        )
        for start, end in pairwise(edges)
    )


def _by_kind(usages: Sequence[Usage]) -> tuple[Usage, ...]:
    sums = []
    for kind in KINDS:
        of_kind = [u for u in usages if u.kind == kind]
        sums.append(
            Usage(
                kind, None, sum(u.rows for u in of_kind), sum(u.bytes for u in of_kind),
                sum(u.raw_bytes for u in of_kind),
            )
        )  # fmt: skip
    return tuple(sums)


def _largest_channels(usages: Sequence[Usage], top: int) -> tuple[Usage, ...]:
    """The usages of the channels that weigh most, by channel and kind."""
    weights: dict[str, int] = {}
    for u in usages:
        if u.channel is not None:
            weights[u.channel] = weights.get(u.channel, 0) + u.bytes
    shown = sorted(weights, key=lambda c: (-weights[c], c))[:top]
    order = {channel: rank for rank, channel in enumerate(shown)}
    found = [u for u in usages if u.channel in order]
    return tuple(sorted(found, key=lambda u: (order[u.channel or ""], KINDS.index(u.kind))))
