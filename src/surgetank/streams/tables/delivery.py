"""Bringing groups of a table's changes into files: in one commit, or, where something is refused, without it.

A row that can't be written is named by who refuses it, and parked before the others are committed: no crash between
the two loses it. For what nobody foresaw the users are halved until one stands alone; that one is tried again later,
and its rows are parked only when it goes on failing while others are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import Conflict, EntryRejected, LeaseLost, NotFound, SinkError
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.classify import classify, scope_of
from surgetank.flush.job import Clockwork
from surgetank.flush.policy import RetryPolicy, next_attempt
from surgetank.flush.sqlstates import Scope
from surgetank.model import (
    Failure,
    FailureKind,
    FlushJob,
    ParkedEntry,
    PartitionOutcome,
    PartitionState,
)
from surgetank.streams.tables.cold.protocol import ColdTables, UserErased
from surgetank.streams.tables.definition import NOBODY, STREAM, USER, Table
from surgetank.streams.tables.hot.protocol import (
    VERSION,
    Held,
    HotTables,
    Progress,
    Refused,
    TableLease,
)

pc: Any = pyarrow.compute  # its functions are made when it is imported
_UNFORESEEN_ATTEMPTS = 2  # so often a user waits for a failure that nobody foresaw


class TableFailed(Exception):
    """Nothing of a table can be flushed now. `sink`: nothing of any table."""

    def __init__(self, failure: Failure, *, sink: bool) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.sink = sink


class Surroundings(NamedTuple):
    """What all deliveries of a flusher share."""

    hot: HotTables
    cold: ColdTables
    breaker: CircuitBreaker
    retry: RetryPolicy
    clockwork: Clockwork
    on_recovered: Callable[[], None]


@dataclass(slots=True)
class _Tally:
    """What became of one user's changes in a job."""

    entries: int = 0
    bytes: int = 0
    held: Held | None = None
    recovered: bool = False
    parked: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of some users that are committed together; of a single user perhaps only those up to a
    version."""

    users: dict[str, int]
    rows: pa.Table
    until: int | None = None


class TableDelivery:
    """Delivers one table in one job, group by group."""

    def __init__(self, table: Table, job: FlushJob, around: Surroundings) -> None:
        self.table = table
        self._job = job
        self._around = around
        self._tallies: dict[str, _Tally] = {}
        self._before: dict[str, PartitionState] | None = None
        self._written = False  # whether anything was, in this job
        self.behind: set[int] = set()  # versions that were parked behind others: nobody writes them

    @property
    def held(self) -> int:
        """How many users failed."""
        return sum(tally.held is not None for tally in self._tallies.values())

    def deliver(
        self,
        lease: TableLease,
        progress: Progress,
        rows: pa.Table,
        through: int,
        *,
        taken_at: int | None = None,
    ) -> Progress:
        """Commit a group and acknowledge it; returns the progress afterwards. `taken_at` is what
        `ColdTables.known_snapshot` gave before it was taken. Raises `LeaseLost`, `UserErased`,
        `TableFailed`, and what the hot store raises."""
        kept = {*lease.held, *(u for u, tally in self._tallies.items() if tally.held is not None)}
        pieces = [_Piece(_counted(self.table, rows), rows)]
        held: dict[str, Held] = {}
        while pieces:
            piece = pieces.pop()
            waiting = {user for other in pieces for user in other.users}
            reached = progress.advanced(through, kept | waiting)
            if piece.until is not None:
                (user,) = piece.users
                reached = Progress(reached.through, {**reached.held, user: piece.until})
            try:
                self._write(lease, piece, reached, taken_at)
            except (LeaseLost, UserErased):
                raise
            except Exception as error:  # noqa: BLE001 - classified, recorded and told by the job
                smaller = self._smaller(lease, piece, error)
                if not smaller:  # it stands alone, and waits
                    (user,) = piece.users
                    held[user] = self._hold(user, classify(error))
                    kept.add(user)
                    pieces = [other for other in pieces if user not in other.users]
                pieces += reversed(smaller)
                if self.behind:
                    pieces = [self._without_behind(each) for each in pieces]
        acked = self._around.hot.ack(lease, through, held=held)
        for user in acked.recovered:
            self._tally(user).recovered = True
        return progress.advanced(through, kept)

    def fail(self, lease: TableLease, rows: pa.Table, failure: Failure) -> None:
        """Record that nothing of the table could be flushed."""
        users = _counted(self.table, rows) or {NOBODY: 0}
        held = self._decide(failure, max((self._attempts(user) for user in users), default=0))
        for user in users:
            self._tally(user).held = held
        self._around.hot.fail(lease, held)

    def outcomes(self) -> list[PartitionOutcome]:
        """What became of each user."""
        parked: dict[tuple[str, int], ParkedEntry] = {}
        if any(tally.parked for tally in self._tallies.values()):
            parked = {(e.partition, e.seq): e for e in self._around.hot.parked()}
        return [self._outcome(user, tally, parked) for user, tally in self._tallies.items()]

    # -- steps

    def _write(
        self, lease: TableLease, piece: _Piece, reached: Progress, taken_at: int | None
    ) -> None:
        flushed = self._around.cold.write(
            self.table,
            piece.rows,
            lease=lease,
            progress=reached,
            store_id=lease.store_id,
            job=self._job,
            taken_at=taken_at,
        )
        self._written = True
        if self._around.breaker.success():
            self._around.on_recovered()
        total = max(1, piece.rows.num_rows)
        for user, count in piece.users.items():
            tally = self._tally(user)
            tally.entries += count
            tally.bytes += flushed.bytes * count // total

    def _smaller(self, lease: TableLease, piece: _Piece, error: Exception) -> list[_Piece]:
        """What to try instead, in order. Nothing: a single user failed."""
        failure, scope = classify(error), scope_of(error)
        # A plain `SinkError` is about the table (a type that can't be written), not about a user.
        of_table = isinstance(error, NotFound | Conflict) or type(error) is SinkError
        if scope is Scope.SINK or failure.sqlstate is not None or of_table:
            raise TableFailed(failure, sink=scope is Scope.SINK) from error
        if isinstance(error, EntryRejected) and error.seq is not None:
            named = pc.equal(piece.rows.column(VERSION), error.seq)
            if pc.any(named).as_py():
                # The others that are refused like it are found at once, not each in a try of its own.
                others = self._around.cold.refusals(self.table, piece.rows)
                refused = {each.seq: classify(each) for each in others if each.seq is not None}
                return [self._park(lease, piece, {error.seq: failure, **refused})]
        if len(piece.users) > 1:
            return self._halves(piece)
        (user,) = piece.users
        if scope is Scope.PARTITION or not self._is_lasting(user, failure):
            return []
        if piece.rows.num_rows > 1:
            return _halves_of_rows(piece, user)
        version = piece.rows.column(VERSION)[0].as_py()
        return [self._park(lease, piece, {version: replace(failure, kind=FailureKind.REJECTED)})]

    def _park(self, lease: TableLease, piece: _Piece, failures: Mapping[int, Failure]) -> _Piece:
        """Park rows, by their versions; returns the piece without them."""
        named = pc.is_in(piece.rows.column(VERSION), value_set=pa.array(failures, pa.int64()))
        rows = piece.rows.filter(named)
        versions = rows.column(VERSION).to_pylist()
        users = rows.column(USER).to_pylist() if self.table.by_user else [NOBODY] * len(versions)
        refused = [
            Refused(user, version, failures[version])
            for user, version in zip(users, versions, strict=True)
        ]
        acked = self._around.hot.ack(lease, 0, refused=refused)
        for user, version in acked.behind:
            self.behind.add(version)
            self._tally(user).parked.append(version)
        left = dict(piece.users)
        for user, version in zip(users, versions, strict=True):
            self._tally(user).parked.append(version)
            left[user] -= 1
        return replace(piece, rows=piece.rows.filter(pc.invert(named)), users=left)

    def _without_behind(self, piece: _Piece) -> _Piece:
        """The piece without what is parked behind others."""
        named = pc.is_in(piece.rows.column(VERSION), value_set=pa.array(self.behind, pa.int64()))
        gone = piece.rows.filter(named)
        if not gone.num_rows:
            return piece
        left = dict(piece.users)
        users = gone.column(USER).to_pylist() if self.table.by_user else [NOBODY] * gone.num_rows
        for user in users:
            left[user] -= 1
        return replace(piece, rows=piece.rows.filter(pc.invert(named)), users=left)

    def _halves(self, piece: _Piece) -> list[_Piece]:
        users = list(piece.users.items())
        middle = len(users) // 2
        return [
            _Piece(dict(part), piece.rows.filter(_are_of(piece.rows, [user for user, _ in part])))
            for part in (users[:middle], users[middle:])
        ]

    def _hold(self, user: str, failure: Failure) -> Held:
        held = self._decide(failure, self._attempts(user))
        self._tally(user).held = held
        return held

    def _decide(self, failure: Failure, attempts: int) -> Held:
        clock, chance = self._around.clockwork.clock, self._around.clockwork.random
        decision = next_attempt(failure, attempts, clock(), self._around.retry, chance)
        return Held(failure, decision.attempts, decision.next_at)

    # -- what is known of users

    def _tally(self, user: str) -> _Tally:
        found = self._tallies.get(user)
        if found is None:
            found = self._tallies[user] = _Tally()
        return found

    def _state(self, user: str) -> PartitionState | None:
        if self._before is None:
            states = self._around.hot.states(failing=True, limit=1_000_000)
            self._before = {state.partition: state for state in states}
        return self._before.get(self.table.partition(user))

    def _attempts(self, user: str) -> int:
        state = self._state(user)
        return 0 if state is None else state.attempts

    def _is_lasting(self, user: str, failure: Failure) -> bool:
        """Whether the user has failed in the same way before, and others are written."""
        state = self._state(user)
        before = None if state is None else state.failure
        alike = before is not None and before.error_type == failure.error_type
        return self._written and alike and self._attempts(user) >= _UNFORESEEN_ATTEMPTS

    def _outcome(
        self, user: str, tally: _Tally, parked: dict[tuple[str, int], ParkedEntry]
    ) -> PartitionOutcome:
        partition, held = self.table.partition(user), tally.held
        entries = [parked[at] for v in tally.parked if (at := (partition, v)) in parked]
        return PartitionOutcome(
            STREAM,
            partition,
            entries=tally.entries,
            rows=tally.entries,
            bytes=tally.bytes,
            parked=len(tally.parked),
            parked_entries=tuple(entries),
            failure=held.failure if held is not None else None,
            attempts=held.attempts if held is not None else 0,
            next_attempt_at=held.next_attempt_at if held is not None else None,
            recovered=tally.recovered and held is None,
        )


def _counted(table: Table, rows: pa.Table) -> dict[str, int]:
    """How many of the rows are each user's."""
    if not table.by_user:
        return {NOBODY: rows.num_rows} if rows.num_rows else {}
    counts = pc.value_counts(rows.column(USER)).flatten()
    return dict(zip(counts[0].to_pylist(), counts[1].to_pylist(), strict=True))


def _are_of(rows: pa.Table, users: Sequence[str]) -> Any:
    return pc.is_in(rows.column(USER).cast(pa.string()), value_set=pa.array(users, pa.string()))


def _halves_of_rows(piece: _Piece, user: str) -> list[_Piece]:
    rows = piece.rows.sort_by(VERSION)
    middle = rows.num_rows // 2
    first, second = rows.slice(0, middle), rows.slice(middle)
    return [
        _Piece({user: first.num_rows}, first, first.column(VERSION)[middle - 1].as_py()),
        _Piece({user: second.num_rows}, second, piece.until),
    ]
