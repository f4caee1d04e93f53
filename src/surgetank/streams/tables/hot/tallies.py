"""How much waits of each table and of each user, and what failed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from surgetank.buffer.failures import failure_of
from surgetank.model import Failure, FailureGroup, PartitionState, StreamDepth
from surgetank.streams.tables.definition import NOBODY, STREAM, USER, Kind, Table
from surgetank.streams.tables.hot.counting import EVER, skipped_of, waiting_of, waits
from surgetank.streams.tables.hot.covering import uncovered
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.journal import journal_rows
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT, VERSION, Progress, Waiting, store_of
from surgetank.streams.tables.hot.schema import rows_of
from surgetank.streams.tables.hot.segments import Range, segments_of


@dataclass(slots=True)
class _Failing:
    failure: Failure
    attempts: int
    next_attempt_at: float
    since: float


@dataclass(slots=True)
class _User:
    changes: int = 0
    bytes: int = 0
    oldest_at: float = 0.0


@dataclass(slots=True)
class _State:
    """One table with its users."""

    table: Table
    owner: str | None
    lease_until: float
    failing: _Failing | None
    users: Mapping[str, _User] = field(default_factory=dict)
    held: Mapping[str, _Failing] = field(default_factory=dict)


class Tallies:
    """The side of `HotTables` that counts."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def waiting(self) -> list[Waiting]:
        """See `HotTables.waiting`."""
        now = self._file.clock()
        found: list[Waiting] = []
        with self._file.read() as connection:
            for table in self._file.tables(connection):
                if table.kind is Kind.STREAM:
                    continue
                count = waits(connection, table.id)
                if not count.changes:
                    continue
                (held,) = connection.execute(
                    "SELECT count(*) FROM hot_failing WHERE table_id = ? AND next_attempt_at > ?",
                    (table.id, now),
                ).fetchone()
                found.append(
                    Waiting(table, count.changes, count.bytes, count.oldest_at or 0.0, held)
                )
        return sorted(found, key=lambda each: each.oldest_at)

    def progress(self, table: Table) -> dict[str, Progress]:
        """See `HotTables.progress`."""
        with self._file.read() as connection:
            return {
                store_of(origin << ORIGIN_SHIFT): reached
                for origin, reached in progress_of(connection, table.id).items()
            }

    def depth(self) -> StreamDepth:
        """See `HotTables.depth`."""
        entries = size = partitions = failing = 0
        oldest: list[float] = []
        with self._file.read() as connection:
            for table in self._file.tables(connection):
                if table.kind is Kind.STREAM:
                    continue
                count = waits(connection, table.id)
                if not count.changes:
                    continue
                entries, size = entries + count.changes, size + count.bytes
                oldest += [] if count.oldest_at is None else [count.oldest_at]
                users = _names(self._file, connection, table)
                partitions += len(users)
                (failed,) = connection.execute(
                    "SELECT failure FROM hot_tables WHERE table_id = ?", (table.id,)
                ).fetchone()
                held = {hash(user) for user in _held(connection, table)}
                failing += len(users if failed else users & held)
            (parked,) = connection.execute(
                "SELECT count(*) FROM hot_parked WHERE table_id IN"
                " (SELECT table_id FROM hot_tables WHERE dropped = 0)"
            ).fetchone()
        return StreamDepth(
            stream=STREAM,
            entries=entries,
            bytes=size,
            partitions=partitions,
            oldest_at=min(oldest, default=None),
            failing=failing,
            parked=parked,
        )

    def states(self, *, failing: bool = False, limit: int = 1000) -> list[PartitionState]:
        """See `HotTables.states`."""
        with self._file.read() as connection:
            found: list[PartitionState] = []
            for state in _states(self._file, connection):
                for name, user in state.users.items():
                    failed = state.held.get(name) or state.failing
                    if failing and failed is None:
                        continue
                    if len(found) == limit:
                        return found
                    found.append(_partition(state, name, user, failed))
        return found

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        """See `HotTables.failures`."""
        groups: dict[Failure, list[PartitionState]] = {}
        for state in self.states(failing=True, limit=1_000_000):
            assert state.failure is not None
            groups.setdefault(state.failure, []).append(state)
        return [_group(failure, states) for failure, states in list(groups.items())[:limit]]


def _states(file: HotFile, connection: sqlite3.Connection) -> Iterator[_State]:
    for table in file.tables(connection):
        if table.kind is Kind.STREAM:
            continue
        row = connection.execute(
            "SELECT owner, lease_until, failure, attempts, next_attempt_at, failing_since"
            " FROM hot_tables WHERE table_id = ?",
            (table.id,),
        ).fetchone()
        owner, until, failure, attempts, next_at, since = row
        if not waits(connection, table.id).changes:
            continue
        failing = _Failing(failure_of(failure), attempts, next_at, since) if failure else None
        yield _State(
            table,
            owner,
            until,
            failing,
            users=_users(connection, table),
            held=_held(connection, table),
        )


def _names(file: HotFile, connection: sqlite3.Connection, table: Table) -> set[int]:
    """The hashes of those who have something waiting."""
    if not table.by_user:
        return {hash(NOBODY)}
    progress, skipped = progress_of(connection, table.id), skipped_of(connection, table.id)
    known = file.whose.users(connection, table, progress)
    users = set[int](known.tolist() if known is not None else ())
    if known is None:  # another reader saw a newer state
        users = {hash(user) for user in _rows_by_user(connection, table)}
    for segment in segments_of(connection, table):
        users |= {hash(user) for user in waiting_of(segment, progress, skipped)}
    return users


def _rows_by_user(connection: sqlite3.Connection, table: Table) -> dict[str, tuple[int, int]]:
    """How many rows of the journal wait of each user, and the first version."""
    found: dict[str, tuple[int, int]] = {}
    progress = progress_of(connection, table.id)
    for part in journal_rows(connection, table, (), Range(0, EVER), progress=progress):
        if not table.by_user:
            before, first = found.get(NOBODY, (0, part.column(VERSION)[0].as_py()))
            found[NOBODY] = before + part.num_rows, first
            continue
        counts = part.group_by(USER).aggregate([(VERSION, "count"), (VERSION, "min")])
        for user, count, first in zip(*counts.to_pydict().values(), strict=True):
            before, earlier = found.get(user, (0, first))
            found[user] = before + count, earlier
    return found


def _users(connection: sqlite3.Connection, table: Table) -> dict[str, _User]:
    progress, skipped = progress_of(connection, table.id), skipped_of(connection, table.id)
    where, values = uncovered(progress)
    size, count = connection.execute(
        f"SELECT sum(bytes), count(bytes) FROM {rows_of(table.id)} WHERE {where}", values
    ).fetchone()
    users: dict[str, _User] = {}
    for user, (changes, first) in _rows_by_user(connection, table).items():
        (at,) = connection.execute(
            f"SELECT at FROM {rows_of(table.id)} WHERE version = ?", (first,)
        ).fetchone()
        users[user] = _User(changes, size * changes // count, at)
    for segment in segments_of(connection, table):
        each = segment.bytes / max(1, segment.rows)
        for name, changes in waiting_of(segment, progress, skipped).items():
            user_of = users.setdefault(name, _User(oldest_at=segment.at))
            user_of.changes += changes
            user_of.bytes += int(changes * each)
            user_of.oldest_at = min(user_of.oldest_at, segment.at)
    return users


def _held(connection: sqlite3.Connection, table: Table) -> dict[str, _Failing]:
    return {
        user: _Failing(failure_of(failure), attempts, next_at, since)
        for user, failure, attempts, next_at, since in connection.execute(
            "SELECT user, failure, attempts, next_attempt_at, failing_since FROM hot_failing"
            " WHERE table_id = ?",
            (table.id,),
        )
    }


def _partition(state: _State, name: str, user: _User, failed: _Failing | None) -> PartitionState:
    return PartitionState(
        stream=STREAM,
        partition=state.table.partition(name),
        entries=user.changes,
        bytes=user.bytes,
        oldest_at=user.oldest_at,
        attempts=failed.attempts if failed is not None else 0,
        next_attempt_at=failed.next_attempt_at if failed is not None else 0.0,
        failing_since=failed.since if failed is not None else None,
        failure=failed.failure if failed is not None else None,
        leased_by=state.owner,
        lease_expires_at=state.lease_until,
    )


def _group(failure: Failure, states: list[PartitionState]) -> FailureGroup:
    return FailureGroup(
        stream=STREAM,
        failure=failure,
        partitions=len(states),
        entries=sum(state.entries for state in states),
        bytes=sum(state.bytes for state in states),
        since=min(state.failing_since or 0.0 for state in states),
        attempts=max(state.attempts for state in states),
        next_attempt_at=min(state.next_attempt_at for state in states),
        partition=states[0].partition,
    )
