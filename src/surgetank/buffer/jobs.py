"""The job log: what became of each flush. Kept with the buffer, so that it is there while the
database is away.
"""

from __future__ import annotations

from typing import Protocol

from surgetank.model import FlushJob


class JobLog(Protocol):
    """Flush jobs by id. The oldest that ended are forgotten over a limit."""

    def save_job(self, job: FlushJob) -> None:
        """Record a flush job, or its new state."""
        ...

    def job(self, job_id: str) -> FlushJob | None:
        """One job."""
        ...

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        """Jobs, newest first."""
        ...
