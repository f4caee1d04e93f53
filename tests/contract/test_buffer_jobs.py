"""What `JobLog` promises."""

from __future__ import annotations

from support.buffers import BufferHouse, job
from surgetank.buffer.protocol import Buffer
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus


def test_jobs_are_kept_and_listed_newest_first_by_stream_and_status(house: BufferHouse) -> None:
    buffer = house.open()
    buffer.save_job(job("1", 10.0))
    buffer.save_job(job("2", 20.0, JobStatus.FAILED))
    buffer.save_job(job("3", 30.0, JobStatus.RUNNING, stream="t"))
    other = house.open()
    assert [j.id for j in other.jobs()] == ["3", "2", "1"]
    assert [j.id for j in other.jobs(limit=2)] == ["3", "2"]
    assert [j.id for j in other.jobs(stream="s")] == ["2", "1"]
    assert [j.id for j in other.jobs(status="failed")] == ["2"]
    assert other.jobs(stream="t", status="failed") == []
    assert other.job("1") == job("1", 10.0)
    assert other.job("none") is None


def test_a_job_saved_again_has_its_new_state(buffer: Buffer) -> None:
    running = FlushJob(
        "1", "s", "manual", JobStatus.RUNNING, 10.0, "node", started_at=10.0, partition="p"
    )
    buffer.save_job(running)
    done = running.finished(
        JobStatus.FAILED, 12.0, JobResult.of({"message": "down", "errors": [{"sqlstate": None}]})
    )
    buffer.save_job(done)
    assert buffer.job("1") == done
    assert buffer.jobs() == [done]


def test_old_jobs_are_forgotten_and_running_ones_are_not(house: BufferHouse) -> None:
    buffer = house.open(jobs_kept=5)
    buffer.save_job(job("running", 1.0, JobStatus.RUNNING))
    for i in range(20):
        buffer.save_job(job(f"j{i:02}", 10.0 + i))
    buffer.maintain()
    kept = [j.id for j in buffer.jobs()]
    assert kept[0] == "j19"
    assert kept[-1] == "running"
    assert len(kept) == 5
