"""`tank.jobs`: the records of what flushes and retention did, and another try of a flush."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Protocol

from surgetank.buffer.coordination import Attempts, Backlog
from surgetank.buffer.jobs import JobLog
from surgetank.encode.limits import check_names
from surgetank.exceptions import JobNotFound, JobNotRetryable
from surgetank.flush.flusher import Flusher
from surgetank.model import FlushJob


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

    def retry(self, job_id: str) -> FlushJob:
        """Flush again what a job was about, now, and wait for it; returns the new job.

        Raises `JobNotFound`, and `JobNotRetryable` for a job that was no flush.
        """
        job = self.get(job_id)
        flusher = self._flushers.get(job.stream)
        if flusher is None:
            raise JobNotRetryable(
                f"Job {job.id} was no flush but {job.stream!r}, and can't be repeated as one.",
                remedy="retention runs again by itself, or now with `surgetank prune`.",
            )
        self._buffer.retry_now(job.stream, job.partition)
        last = self._buffer.last_seq(job.stream, job.partition)
        return flusher.run("retry", partition=job.partition, up_to_seq=last, retry_of=job.id)
