"""Retention at work: by hand over all threads, or in the background, a bounded bit at a time.

What is decided travels as operations through the buffer, like every deletion: hot and cold agree at
once, and the flush carries it out. The background part has a thread and a transaction of its own,
so flushing never waits for it; the lock on its progress row lets one process work per buffer, also
behind PgBouncer, and is gone when that dies.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from psycopg.rows import dict_row

from surgetank.buffer.jobs import JobLog
from surgetank.buffer.log import Log
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import InvalidRequest, StateCorrupt
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.maintenance import (
    append_deletion,
    append_thread_deletion,
    no_events,
)
from surgetank.streams.checkpoints.retention.inventory import Inventory, Rows
from surgetank.streams.checkpoints.retention.plan import Limits, ThreadPlan, plan
from surgetank.telemetry import log

SQL = queries("streams/checkpoints/retention/retention.sql")
JOB_STREAM = "retention"
_SLICE = 200
_PAUSE_S = 0.75
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Most that one tick does: it ends after so many threads, deleted checkpoints or seconds,
    whichever comes first (the thread at hand is finished)."""

    threads: int = _SLICE
    checkpoints: int = 5000
    seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a call did, or would do (`dry_run`). `deleted_threads` are those that go as a whole."""

    dry_run: bool
    threads_seen: int
    plans: tuple[ThreadPlan, ...] = ()
    deleted_threads: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> int:
        """How many checkpoints go, without those of threads that go as a whole."""
        return sum(p.count for p in self.plans)

    def without(self, threads: Sequence[str]) -> RetentionReport:
        """This report without threads that go as a whole anyway."""
        gone = set(threads)
        return replace(self, plans=tuple(p for p in self.plans if p.thread_id not in gone))

    @property
    def freed_bytes(self) -> int | None:
        """About how many bytes that frees; None when nobody looked."""
        known = [p.freed_bytes for p in self.plans if p.freed_bytes is not None]
        return sum(known) if len(known) == len(self.plans) else None


class SweptBuffer(Log, JobLog, Protocol):
    """A log that deletions travel through, and a record of each sweep."""


class Retention:
    """Plans and carries out retention on one buffer and its database."""

    def __init__(
        self,
        buffer: SweptBuffer,
        database: Database,
        *,
        clock: Callable[[], float],
        node: str,
        forget_events: Callable[[str], None] = no_events,
    ) -> None:
        self._buffer = buffer
        self._forget_events = forget_events
        self._database = database
        self._clock = clock
        self._node = node

    # -- by hand

    def apply(
        self, limits: Limits, threads: Sequence[str] | None = None, *, dry_run: bool = False
    ) -> RetentionReport:
        """Look through the threads (all by default) and delete what the limits say. With `dry_run`
        nothing happens.

        Raises `DatabaseUnavailable`, `BufferFull`, `InvalidRequest` for limits that make no
        sense.
        """
        check(limits)
        plans: list[ThreadPlan] = []
        skipped: list[str] = []
        seen = 0
        for thread_id, candidate in self._judged(limits, threads):
            seen += 1
            found = self._plan_alone(thread_id, limits, skipped) if candidate else None
            if found is not None and found.count:
                plans.append(found)
                if not dry_run:
                    self._carry_out(found, wait=True)
        report = RetentionReport(dry_run, seen, tuple(plans), skipped=tuple(skipped))
        if not dry_run:
            self._record("manual", report, limits)
        return report

    def delete_idle_threads(
        self, older_than_s: float, threads: Sequence[str] | None = None, *, dry_run: bool = False
    ) -> RetentionReport:
        """Delete whole threads whose newest checkpoint is older than that and of which nothing
        waits in the buffer."""
        if older_than_s <= 0:
            raise InvalidRequest(
                "An age of 0 would delete every thread.", remedy="give a longer age."
            )
        idle: list[str] = []
        seen = 0
        for row in self._rows("idle_threads"):
            if threads is not None and row["thread_id"] not in threads:
                continue
            seen += 1
            if (
                row["age_s"] is not None
                and row["age_s"] > older_than_s
                and not self._is_hot(row["thread_id"])
            ):
                idle.append(row["thread_id"])
                if not dry_run:
                    append_thread_deletion(
                        self._buffer, row["thread_id"], forget_events=self._forget_events
                    )
        report = RetentionReport(dry_run, seen, deleted_threads=tuple(idle))
        if not dry_run:
            self._record("manual", report, Limits(age_s=older_than_s))
        return report

    def _is_hot(self, thread_id: str) -> bool:
        with self._buffer.snapshot() as snapshot:
            return snapshot.last(STREAM, thread_id, b"") is not None

    def _judged(self, limits: Limits, threads: Sequence[str] | None) -> Iterator[tuple[str, bool]]:
        """Threads, and whether they may have something to delete. Of those that are hot SQL doesn't
        know enough."""
        if threads is not None:
            yield from ((thread_id, True) for thread_id in threads)
            return
        with self._buffer.snapshot() as snapshot:
            hot = set(snapshot.partitions(STREAM))
        for row in self._rows("slice", **self._slice_arguments(limits, since=None, by_hand=True)):
            yield row["thread_id"], row["candidate"] or row["thread_id"] in hot

    def _slice_arguments(self, limits: Limits, *, since: Any, by_hand: bool) -> dict[str, Any]:
        return {
            "buffer_id": self._buffer.id, "since": since, "by_hand": by_hand,
            "age_s": limits.age_s, "keep": limits.keep, "max_bytes": limits.max_bytes,
        }  # fmt: skip

    def _rows(self, query: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Rows of a query over threads, a slice and a short transaction at a time."""
        after = ""
        while True:
            with self._database.asking(patient=True) as connection, connection.cursor(
                binary=True, row_factory=dict_row
            ) as cursor:  # fmt: skip
                rows = cursor.execute(
                    SQL[query], {"after": after, "limit": _SLICE, **arguments}
                ).fetchall()
            if not rows:
                return
            yield from rows
            after = rows[-1]["thread_id"]

    def _plan_alone(self, thread_id: str, limits: Limits, skipped: list[str]) -> ThreadPlan | None:
        with self._database.asking(patient=True) as connection, connection.cursor(
            binary=True, row_factory=dict_row
        ) as cursor:  # fmt: skip
            return self._plan(cursor, thread_id, limits, skipped, values=True)

    def _plan(
        self, cursor: Rows, thread_id: str, limits: Limits, skipped: list[str], *, values: bool
    ) -> ThreadPlan | None:
        try:
            contents = Inventory(self._buffer, cursor).load(thread_id, values=values)
        except StateCorrupt as error:
            skipped.append(thread_id)
            log.error("retention_skipped", thread_id=thread_id, error=error.what)
            return None
        return plan(contents, limits) if contents is not None else None

    def _carry_out(self, found: ThreadPlan, *, wait: bool) -> None:
        for ns, ids in found.doomed.items():
            append_deletion(self._buffer, found.thread_id, ns, ids, wait=wait)
        log.info(
            "retention_pruned",
            thread_id=found.thread_id,
            checkpoints=found.count,
            of=found.checkpoints,
            freed_bytes_estimate=found.freed_bytes,
            **{f"by_{k}": n for k, n in found.reasons.items()},
        )

    def _record(self, trigger: str, report: RetentionReport, limits: Limits) -> None:
        """A job that people find in `surgetank jobs`; none when there was nothing to do."""
        if not (report.plans or report.deleted_threads or report.skipped):
            return
        now = self._clock()
        result = JobResult.of(
            {
                "message": f"Retention ({limits}) deleted {report.checkpoints} checkpoints of "
                f"{len(report.plans)} threads"
                f" and {len(report.deleted_threads)} whole threads.",
                "threads_pruned": len(report.plans),
                "checkpoints_deleted": report.checkpoints,
                "threads_deleted": len(report.deleted_threads),
                "freed_bytes_estimate": report.freed_bytes,
                "warnings": [
                    f"The thread {t!r} can't be read and was left alone." for t in report.skipped
                ],
            }
        )
        job = FlushJob(
            id=uuid.uuid4().hex,
            stream=JOB_STREAM,
            trigger=trigger,
            status=JobStatus.COMPLETED,
            created_at=now,
            node=self._node,
            started_at=now,
            finished_at=now,
            result=result,
        )
        self._buffer.save_job(job)
        log.info(
            "retention_done", job=job.id, **{k: v for k, v in result.items() if type(v) is int}
        )

    # -- in the background

    def tick(self, limits: Limits, *, interval_s: float, budget: Budget = Budget()) -> float:
        """Look through the next threads; returns how long to wait before the next tick, in
        seconds."""
        with self._database.asking(patient=True) as connection, connection.cursor(
            binary=True, row_factory=dict_row
        ) as cursor:  # fmt: skip
            whose = {"buffer_id": self._buffer.id}
            cursor.execute(SQL["enter"], whose)
            progress = cursor.execute(SQL["take"], whose).fetchone()
            if progress is None:  # another process is at it
                return LONGEST_PAUSE_S
            changed = progress["limits"] != str(limits)
            if changed or progress["last_thread_id"] is None:
                if not changed and progress["wait_s"] > 0:
                    return min(float(progress["wait_s"]), LONGEST_PAUSE_S)
                cursor.execute(SQL["begin"], {**whose, "limits": str(limits)})
                progress = {
                    **progress,
                    "last_thread_id": "",
                    "threads_pruned": 0,
                    "checkpoints_deleted": 0,
                }
            since = None if changed else progress["checked_since"]
            slice_ = _Slice(progress["last_thread_id"], since)
            done = self._sweep(cursor, limits, slice_, budget)
            cursor.execute(
                SQL["advance"],
                {
                    **whose,
                    "last_thread_id": done.last_thread_id,
                    "seen": done.report.threads_seen,
                    "pruned": len(done.report.plans),
                    "deleted": done.report.checkpoints,
                },
            )
            if done.complete:
                cursor.execute(SQL["finish"], {**whose, "interval_s": interval_s})
        self._record("schedule", done.report, limits)
        return min(interval_s, LONGEST_PAUSE_S) if done.complete else _PAUSE_S

    def _sweep(self, cursor: Rows, limits: Limits, at: _Slice, budget: Budget) -> _Swept:
        arguments = self._slice_arguments(limits, since=at.since, by_hand=False)
        rows = cursor.execute(
            SQL["slice"], {**arguments, "after": at.after, "limit": budget.threads}
        ).fetchall()
        plans: list[ThreadPlan] = []
        skipped: list[str] = []
        last, seen, left = at.after, 0, budget.checkpoints
        until = time.monotonic() + budget.seconds
        for row in rows:
            if left <= 0 or time.monotonic() > until:
                break
            found = (
                self._plan(
                    cursor, row["thread_id"], limits, skipped, values=limits.max_bytes is not None
                )
                if row["candidate"]
                else None
            )
            if found is not None and found.count:
                part = _oldest(found, left)
                self._carry_out(part, wait=False)
                plans.append(part)
                left -= part.count
                if part.count < found.count:  # the rest of it comes with the next tick
                    break
            last, seen = row["thread_id"], seen + 1
        complete = seen == len(rows) < budget.threads
        report = RetentionReport(
            dry_run=False, threads_seen=seen, plans=tuple(plans), skipped=tuple(skipped)
        )
        return _Swept(report, last, complete)


@dataclass(frozen=True, slots=True)
class _Slice:
    after: str
    since: Any  # a moment of the database's clock, given back to it as it came


@dataclass(frozen=True, slots=True)
class _Swept:
    report: RetentionReport
    last_thread_id: str
    complete: bool


def check(limits: Limits) -> None:
    """Refuse limits that would say nothing or too much. Raises `InvalidRequest`."""
    if not limits:
        raise InvalidRequest(
            "No limit is given.",
            remedy="give an age, a number of checkpoints or a size (--retain-age, --keep, "
            "--max-bytes).",
        )
    if (limits.keep is not None and limits.keep < 1) or (limits.age_s is not None and limits.age_s < 0) or (
        limits.max_bytes is not None and limits.max_bytes < 0
    ):  # fmt: skip
        raise InvalidRequest(
            f"The limits {limits} can't be used.",
            remedy="keep at least 1 checkpoint; ages and sizes are not negative. To delete whole "
            "threads, use "
            "`surgetank prune --strategy delete` or `--delete-threads-older-than`.",
        )


def _oldest(found: ThreadPlan, most: int) -> ThreadPlan:
    """The part of a plan that one tick carries out: only the oldest go, so that what remains is a
    thread that was pruned to an earlier moment."""
    if found.count <= most or found.indivisible:
        return found
    ordered = sorted((cid, ns) for ns, ids in found.doomed.items() for cid in ids)[:most]
    doomed: dict[str, list[str]] = {}
    for cid, ns in ordered:
        doomed.setdefault(ns, []).append(cid)
    return replace(found, doomed=doomed, reasons={}, freed_bytes=None)
