"""`tank.jobs`: the records of what flushes and retention did, and another try of a flush."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Protocol

from surgetank.app.flush_health import FlushHealth, health_of
from surgetank.buffer.coordination import Attempts, Backlog
from surgetank.buffer.jobs import JobLog
from surgetank.encode.limits import check_names
from surgetank.exceptions import JobNotFound, JobNotRetryable
from surgetank.flush.flusher import Flusher
from surgetank.model import FlushJob, PartitionState

_SLACK = 100
_MOST = 10_000  # partitions that are searched
_MOST_AT_ONCE = 1000


class JobsAndBacklog(JobLog, Attempts, Backlog, Protocol):
    """What jobs are started and found by."""


class Jobs:
    """The jobs of a buffer; `flushers` are those that can repeat one, `kept` how many jobs are
    remembered."""

    def __init__(self, buffer: JobsAndBacklog, flushers: Mapping[str, Flusher], kept: int) -> None:
        self._buffer = buffer
        self._flushers = flushers
        self._kept = kept

    def __call__(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> builtins.list[FlushJob]:
        """The same as `list`."""
        return self._buffer.jobs(limit=limit, stream=stream, status=status)

    def list(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> builtins.list[FlushJob]:
        """Jobs, newest first."""
        return self._buffer.jobs(limit=limit, stream=stream, status=status)

    def get(self, job_id: str, *, exact: bool = False) -> FlushJob:
        """One job by its id or, unless `exact`, by a beginning that no other job has. Raises
        `JobNotFound`."""
        check_names("jobs", [("$.job_id", job_id)])
        found = self._buffer.job(job_id)
        if found is None and job_id and not exact:
            alike = [job for job in self.list(limit=self._kept) if job.id.startswith(job_id)]
            found = alike[0] if len(alike) == 1 else None
        if found is None:
            raise JobNotFound(
                f"There is no flush job {job_id!r}.",
                remedy="see `surgetank jobs list` or GET /jobs.",
            )
        return found

    def page(
        self,
        count: int,
        *,
        before: tuple[float, str] | None = None,
        seen: int = 0,
        stream: str | None = None,
        status: str | None = None,
    ) -> builtins.list[FlushJob]:
        """Jobs before one (by its `created_at` and id), newest first; `seen` is how many of them are
        known to be newer. The buffer gives the newest ones only, so that pages further back read a
        little more."""
        wanted = min(self._kept, max(0, seen) + count + _SLACK)
        while True:
            found = self.list(limit=wanted, stream=stream, status=status)
            rest = [job for job in found if before is None or (job.created_at, job.id) < before]
            if len(rest) >= count or len(found) < wanted or wanted >= self._kept:
                return rest[:count]
            wanted = min(self._kept, wanted * 2)

    def failing(self, *, limit: int = 100) -> builtins.list[PartitionState]:
        """The partitions that wait and whose last attempt failed, the oldest first."""
        return self._buffer.states(failing=True, limit=limit)

    def health(self, *, since: float, until: float, steps: int = 48) -> FlushHealth:
        """How well flushes went between two times, by stream and table, out of the jobs that are
        remembered."""
        jobs = self.list(limit=self._kept)
        return health_of(jobs, streams=self._flushers, since=since, until=until, steps=steps)

    def retry(self, job_id: str, *, failed_only: bool = False) -> FlushJob:
        """Flush again what a job was about, now, and wait for it; returns the new job. With
        `failed_only` only the partitions that failed in it; where its record doesn't name all of
        them, those that fail now.

        Raises `JobNotFound`, and `JobNotRetryable` for a job that was no flush, or has no
        failed partition.
        """
        job = self.get(job_id)
        flusher = self._flushers.get(job.stream)
        if flusher is None:
            raise JobNotRetryable(
                f"Job {job.id} was no flush but {job.stream!r}, and can't be repeated as one.",
                remedy="retention runs again by itself, or now with `surgetank prune`.",
            )
        only = self._failed(job) if failed_only else None
        if only == []:
            raise JobNotRetryable(
                f"Nothing of job {job.id} failed.", remedy="flush all of it again, if need be."
            )
        self._buffer.retry_now(job.stream, job.partition)
        last = self._buffer.last_seq(job.stream, job.partition)
        return flusher.run(
            "retry", partition=None if only else job.partition, only=only, up_to_seq=last,
            retry_of=job.id,
        )  # fmt: skip

    def _failed(self, job: FlushJob) -> builtins.list[str]:
        result = job.result
        parts = [str(p.get("partition")) for p in result.partitions or () if p.get("failed")]
        errors = [str(error.get("partition")) for error in result.errors or ()]
        named = builtins.list(dict.fromkeys([*parts, *errors]))
        if len(named) < (result.partitions_failed or 0):
            failing = self._buffer.states(job.stream, failing=True, limit=_MOST)
            named = builtins.list(dict.fromkeys([*named, *(s.partition for s in failing)]))
        return named

    def flush_matching(
        self, *, stream: str | None = None, text: str = "", failing: bool = False
    ) -> builtins.list[FlushJob]:
        """Flush now, and wait for it, what waits of partitions (threads, tables) whose name contains
        `text`; with `failing` only those whose last attempt failed. A job for each stream, at most
        1,000 partitions, those that wait longest; no job where nothing of the kind waits."""
        chosen: dict[str, builtins.list[str]] = {}
        states = self._buffer.states(stream, failing=failing, limit=_MOST)
        matching = [state for state in states if text.lower() in state.partition.lower()]
        for state in matching[:_MOST_AT_ONCE]:
            chosen.setdefault(state.stream, []).append(state.partition)
        return [
            self._flushers[name].run("manual", only=only, up_to_seq=self._buffer.last_seq(name))
            for name, only in chosen.items()
            if name in self._flushers
        ]
