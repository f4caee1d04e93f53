"""What the log says of flushes."""

from __future__ import annotations

from surgetank.flush.events import FlushEvent, JobFinished, PartitionFailed
from surgetank.model import JobStatus
from surgetank.telemetry import log


class FlushLog:
    """Writes to the log how jobs ended. What went wrong is told by the notifier."""

    def __init__(self) -> None:
        self._failing: dict[str, object] = {}  # by stream, why its last job failed

    def on_flush(self, event: FlushEvent) -> None:
        match event:
            case PartitionFailed(job=job, outcome=outcome, failure=failure):
                log.debug(
                    "partition_postponed", stream=outcome.stream, partition=outcome.partition,
                    kind=failure.kind.value, error=failure.message, attempt=outcome.attempts,
                    retry_at=outcome.next_attempt_at, job=job.id,
                )  # fmt: skip
            case JobFinished(job=job) if job.status is JobStatus.FAILED:
                # Each attempt of an outage fails; the notifier tells of it once, and louder.
                reason = job.result.message
                write = log.debug if self._failing.get(job.stream, self) == reason else log.info
                self._failing[job.stream] = reason
                write("flush_job_failed", job=job.id, stream=job.stream, error=reason)
            case JobFinished(job=job):
                self._failing.pop(job.stream, None)
                rows = job.result.rows_flushed
                log.debug("flush_job_completed", job=job.id, stream=job.stream, rows=rows)
            case _:
                pass  # the notifier's
