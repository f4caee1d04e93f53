"""A span for each flush job that ended."""

from __future__ import annotations

from surgetank import tracing
from surgetank.flush.events import FlushEvent, JobFinished


def trace_job(event: FlushEvent) -> None:
    """A listener: of a finished job a span is made, from its record."""
    if not isinstance(event, JobFinished):
        return
    job = event.job
    if job.started_at is None or job.finished_at is None:
        return
    tracing.finished(
        f"flush {job.stream}",
        job.started_at,
        job.finished_at,
        failed=not job.ok,
        job_id=job.id,
        stream=job.stream,
        trigger=job.trigger,
        thread_id=job.partition,
        partitions=job.result.partitions_processed,
        entries=job.result.entries_flushed,
        rows=job.result.rows_flushed,
    )
