"""The engine: background flush, shared homes, crashes of what it started, bounded memory, honest
jobs."""

from __future__ import annotations

import gc
import os
import signal
import threading
import tracemalloc
from typing import Any

import pytest

from support.savers import config, listed, put, put_chain
from support.waiting import wait_until
from surgetank import EngineClosed, JobNotFound, JobNotRetryable, Surgetank
from surgetank.flush.events import JobFinished
from surgetank.flush.tidying import reap
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus


def test_the_background_flush_drains_by_age_and_records_its_jobs(make_tank):
    tank = make_tank(flush_in_process=True, flush_age=0.05, flush_tick=0.01)
    put_chain(tank.checkpointer(), "t", 5)
    wait_until(lambda: tank.status().buffer.entries == 0, "the buffer to drain")
    wait_until(lambda: all(j.finished_at for j in tank.jobs()), "the jobs to end")
    assert sum(j.result["entries_flushed"] for j in tank.jobs()) == 5
    assert {j.trigger for j in tank.jobs()} == {"schedule"}


def server_pid(tank: Surgetank) -> int | None:
    assert tank.parts.embedded is not None
    return tank.parts.embedded.pid


def test_a_partition_is_due_by_entries_before_it_is_by_age(make_tank):
    tank = make_tank(flush_in_process=True, flush_age=3600.0, flush_entries=4, flush_tick=0.01)
    put_chain(tank.checkpointer(), "small", 3)
    put_chain(tank.checkpointer(), "large", 4)
    wait_until(lambda: tank.status().buffer.entries == 3, "the larger thread to be flushed")


def test_the_end_of_a_run_flushes_its_thread_at_once_and_no_other(make_tank):
    tank = make_tank(flush_in_process=True, flush_age=3600.0, flush_tick=60.0)
    put_chain(tank.checkpointer(), "ended", 2)
    put_chain(tank.checkpointer(), "running", 2)
    tank.run_ended("ended")
    wait_until(lambda: tank.status().buffer.entries == 2, "the ended run's thread to be flushed")
    wait_until(lambda: all(j.finished_at for j in tank.jobs()), "the job to end")
    assert [(j.trigger, j.partition, j.ok) for j in tank.jobs()] == [("run_end", "ended", True)]
    assert tank.parts.buffer.state("checkpoints", "running") is not None
    tank.run_ended("never heard of")


def test_flushing_nothing_is_completed_and_says_so(tank):
    job = tank.flush()
    assert job.ok
    assert job.result["partitions_processed"] == job.result["rows_flushed"] == 0


def test_closing_drains_the_buffer(make_tank):
    tank = make_tank(flush_in_process=True, flush_on_close=True, flush_age=3600.0)
    put_chain(tank.checkpointer(), "t", 3)
    tank.close()
    again = make_tank()
    assert again.status().buffer.entries == 0
    assert len(listed(again.checkpointer(), "t")) == 3


def test_jobs_are_found_by_the_beginning_of_their_id(tank):
    job = tank.flush()
    assert tank.jobs.get(job.id[:8]) == job
    with pytest.raises(JobNotFound):
        tank.jobs.get("nonsense")


def test_a_closed_engine_raises_and_starts_no_thread_until_it_is_opened_again(make_tank):
    tank = make_tank(flush_in_process=True)
    tank.flush()
    tank.close()
    before = set(threading.enumerate())
    for use in (
        lambda: tank.jobs.list(limit=1),
        lambda: tank.parked.list()[:1],
        tank.status,
        tank.checkpointer,
        lambda: tank.emit_log("m", thread_id="t"),
    ):
        with pytest.raises(EngineClosed, match="open"):
            use()
    assert set(threading.enumerate()) == before
    with tank:
        assert tank.jobs()


def test_an_engine_that_was_never_opened_opens_itself(tmp_path, database_url):
    tank = Surgetank(tmp_path / "fresh", database_url=database_url, flush_in_process=False)
    try:
        assert tank.jobs() == []
    finally:
        tank.close()


def test_a_retention_job_says_that_it_can_not_be_retried(tank):
    put_chain(tank.checkpointer(), "t", 3)
    tank.flush()
    tank.retain(keep=1)
    job = tank.jobs(stream="retention")[0]
    with pytest.raises(JobNotRetryable, match="surgetank prune"):
        tank.jobs.retry(job.id)


def test_a_job_whose_worker_was_killed_is_marked_as_failed(tank):
    buffer = tank.parts.buffer
    lost = FlushJob(
        "lost",
        "checkpoints",
        "schedule",
        JobStatus.RUNNING,
        1.0,
        "dead",
        result=JobResult(heartbeat_at=1.0),
    )
    alive = FlushJob(
        "alive",
        "checkpoints",
        "schedule",
        JobStatus.RUNNING,
        990.0,
        "me",
        result=JobResult(heartbeat_at=990.0),
    )
    for job in (lost, alive):
        buffer.save_job(job)
    assert [j.id for j in reap(buffer, 1000.0)] == ["lost"]
    assert tank.jobs.get("lost").status is JobStatus.FAILED
    assert "stopped without finishing" in tank.jobs.get("lost").result["message"]
    assert tank.jobs.get("alive").status is JobStatus.RUNNING


def test_listeners_hear_of_flushes_and_one_that_fails_stops_nobody(tank):
    heard: list[Any] = []

    class Broken:
        def __call__(self, event):
            return event.no_such_name  # an AttributeError is a failure like any other

    tank.add_observer(Broken())
    tank.add_observer(heard.append)
    put_chain(tank.checkpointer(), "t", 1)
    job = tank.flush()
    assert job.ok
    assert heard == [JobFinished(tank.jobs.get(job.id))]
    assert any(
        "Broken: JobFinished: AttributeError" in problem for problem in tank.status().problems
    )


def test_one_class_is_a_context_manager_for_both_worlds(tmp_path, database_url):
    import asyncio

    async def use() -> None:
        async with Surgetank(tmp_path, database_url=database_url) as tank:
            saver = tank.checkpointer()
            put(saver, "t", {"a": 1})
            assert await saver.aget_tuple(config("t")) is not None

    asyncio.run(use())
    asyncio.run(use())  # another event loop
    with Surgetank(tmp_path, database_url=database_url) as tank:
        assert len(listed(tank.checkpointer(), "t")) == 2


def test_everything_is_embedded_without_arguments_and_shared_by_engines(tmp_path):
    with Surgetank(tmp_path / "home") as one, Surgetank(tmp_path / "home", node="second") as two:
        configs = put_chain(one.checkpointer(), "t", 3)
        assert [t.config for t in listed(two.checkpointer(), "t")] == configs[::-1]
        assert two.flush().ok
        assert server_pid(one) == server_pid(two)
    assert not one.settings.home.joinpath("postgres", "postmaster.pid").exists()


def test_an_embedded_database_that_crashed_is_started_again(tmp_path):
    with Surgetank(
        tmp_path / "home", flush_age=0.05, flush_tick=0.01, breaker_max=0.2, retry_max=0.2
    ) as tank:
        saver = tank.checkpointer()
        put_chain(saver, "t", 2)
        wait_until(lambda: tank.status().buffer.entries == 0, "the first flush")
        before = server_pid(tank)
        os.kill(int(before or 0), signal.SIGKILL)
        put(saver, "t", {"after": "the crash"})
        wait_until(lambda: tank.status().buffer.entries == 0, "the database to come back by itself")
        assert server_pid(tank) not in (None, before)
        assert len(listed(saver, "t")) == 3


def test_the_memory_of_a_flush_does_not_depend_on_how_much_waits(make_tank):
    tank = make_tank(flush_batch_bytes=1 << 20, flush_cache_bytes=2 << 20)
    saver = tank.checkpointer()
    text = os.urandom(50_000).hex()

    def peak(threads: int) -> int:
        for number in range(threads):
            put(saver, f"t{threads}-{number}", {"text": text + str(number)})
        gc.collect()
        tracemalloc.start()
        job = tank.flush()
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert job.ok
        assert job.result["entries_flushed"] == threads
        return highest

    few, many = peak(60), peak(600)  # 6 MB and 60 MB wait
    assert many < few * 2, (few, many)
    assert many < 30 << 20


def test_a_small_thread_does_not_wait_for_a_huge_one(make_tank):
    tank = make_tank(flush_batch_entries=10)
    saver = tank.checkpointer()
    put_chain(saver, "huge", 100)
    put(saver, "small", {"a": 1})
    sink = tank.parts.flushers["checkpoints"].sink
    order: list[str] = []
    plain = sink.write

    def noted(slices: Any, **options: Any) -> Any:
        order.extend(part.lease.partition for part in slices)
        return plain(slices, **options)

    sink.write = noted
    assert tank.flush().ok
    assert order.index("small") <= 2
    assert order.count("huge") in (10, 11)


def test_stopping_lets_the_group_finish_and_gives_the_rest_back(make_tank):
    tank = make_tank(flush_batch_entries=5)
    put_chain(tank.checkpointer(), "t", 20)
    flusher, stop = tank.parts.flushers["checkpoints"], threading.Event()
    plain = flusher.sink.write

    def write(slices, **more):
        stop.set()
        return plain(slices, **more)

    flusher.sink.write = write
    job = flusher.run("manual", stop=stop)
    flusher.sink.write = plain
    assert job.result["stopped"] is True
    assert job.result["entries_flushed"] == 5
    (state,) = tank.parts.buffer.states()
    assert (state.entries, state.leased_by) == (15, None)
    assert tank.flush().ok
