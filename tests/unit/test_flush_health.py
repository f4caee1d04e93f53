"""How well flushes went, counted by stream, table and time."""

from __future__ import annotations

from typing import Any

from surgetank.app.flush_health import health_of
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus

DONE, FAILED = JobStatus.COMPLETED, JobStatus.FAILED


def job(
    n: int, ended: float | None, status: JobStatus = DONE, stream: str = "logs", **result: Any
) -> FlushJob:
    return FlushJob(
        str(n), stream, "schedule", status, float(n), "node", started_at=(ended or 0.0) - 2.0, finished_at=ended,
        result=JobResult(**result),
    )  # fmt: skip


def part(name: str, *, failed: bool = False, parked: int = 0) -> dict[str, Any]:
    return {
        "partition": name,
        "entries": 1,
        "rows": 1,
        "bytes": 1,
        "parked": parked,
        "failed": failed,
    }


def test_jobs_are_counted_by_stream_outcome_and_step_of_time() -> None:
    found = health_of(
        [
            job(1, 5.0, rows_flushed=3), job(2, 15.0, rows_flushed=4), job(3, 15.0, warnings=("one was parked",)),
            job(4, 99.9, FAILED, message="down"), job(5, None, JobStatus.RUNNING), job(6, 100.0), job(7, -1.0),
            job(8, 50.0, stream="retention"),
        ],
        streams=("logs", "checkpoints"), since=0.0, until=100.0, steps=10,
    )  # fmt: skip
    assert found.at == tuple(float(n) for n in range(0, 100, 10))
    (logs,) = found.streams  # what had no flush is not shown
    assert logs.good == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert logs.warned == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert logs.failed == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert logs.rows == [3, 4, 0, 0, 0, 0, 0, 0, 0, 0]
    assert (logs.jobs, logs.seconds, logs.last and logs.last.id) == (4, 8.0, "4")
    assert found.since == 5.0


def test_of_the_stream_of_tables_each_table_is_counted() -> None:
    mixed = (
        part("app.notes/ada", failed=True),
        part("app.notes/ben"),
        part("app.rates", parked=2),
        part("app.other"),
    )
    found = health_of(
        [
            job(1, 5.0, stream="tables", partitions=mixed),
            job(2, 6.0, stream="tables", partitions=(part("app.notes/x"),)),
        ],
        streams=("tables",), since=0.0, until=10.0, steps=1,
    )  # fmt: skip
    assert [(t.name, t.good, t.warned, t.failed) for t in found.tables] == [
        ("app.notes", [1], [0], [1]), ("app.other", [1], [0], [0]), ("app.rates", [0], [1], [0]),
    ]  # fmt: skip
