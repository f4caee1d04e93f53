"""Flush jobs, parked entries and the overview without a browser: what is shown of them, and what is
tried again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.console import Person
from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.app.parked import Parked
from surgetank.console.app import Console
from surgetank.job_result import JobResult
from surgetank.model import Failure, FailureKind, FlushJob, JobStatus, ParkedEntry, Record

HOSTILE = "</title><script>document.title='owned'</script>{{7*7}}\" ' &amp;"
LOGS = "thread_logs"


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN), mounts=[Console]) as started:
        yield started


@pytest.fixture
def operator(server: Server) -> Person:
    return Person.of(server, server.token("operator", "op"))


def recorded(server: Server, *names: str, failed: tuple[str, ...] = ()) -> FlushJob:
    """A job of logs as an outage leaves it: of these partitions some failed."""
    now = server.tank.now()
    error = {"kind": "transient", "message": "the database went away", "stack_trace": "Trace: here"}
    parts = [
        {"partition": n, "entries": 2, "rows": 2, "bytes": 80, "parked": 0, "failed": n in failed}
        for n in sorted(names, key=lambda n: n not in failed)
    ]
    result = JobResult.of(
        {
            "entries_flushed": 2, "rows_flushed": 2, "partitions_processed": len(names),
            "partitions_failed": len(failed), "partitions": parts,
            "errors": [{**error, "partition": name} for name in failed], "warnings": list(failed),
        }
    )  # fmt: skip
    job = FlushJob(
        "0123456789ab", LOGS, "schedule", JobStatus.COMPLETED, now, "n", now, now, result=result
    )
    server.tank.parts.buffer.save_job(job)
    return job


def waiting(server: Server, stream: str = LOGS) -> set[str]:
    return {state.partition for state in server.tank.parts.backlog.states(stream)}


def test_a_job_shows_what_became_of_each_part_and_only_what_failed_is_tried_again(
    server: Server, operator: Person
) -> None:
    for thread in ("a", "b", HOSTILE):
        server.tank.emit_log("hello", thread_id=thread)
    job = recorded(server, "a", "b", HOSTILE, failed=("a", HOSTILE))
    page = operator.get(f"/jobs/{job.id}")
    parts = page.text.partition("What became of each part")[2]
    assert re.search(r"Failed a 2 2 .*Failed .*\{\{7\*7\}\}.*Saved b 2 2", parts), parts
    assert "'owned'</script>" not in page.html
    assert "2 further parts" not in page.text
    page = operator.post(f"/jobs/{job.id}/retry", 200, only="failed")
    assert "again after 0123456789ab" in page.text
    assert "2 tried, 0 failed" in page.text
    assert waiting(server) == {"b"}
    page = operator.post(f"/jobs/{job.id}/retry", 200)
    assert waiting(server) == set()
    clean = server.tank.jobs()[0]
    page = operator.post(f"/jobs/{clean.id}/retry", 409, only="failed")
    assert f"Nothing of job {clean.id} failed." in page.text


def test_a_part_of_what_waits_is_saved_by_a_filter(server: Server, operator: Person) -> None:
    tank = server.tank
    for thread in ("order-1", "order-2", "other"):
        tank.emit_log("hello", thread_id=thread)
    put(tank.checkpointer(), "order-1", {"x": 1}, user_id="ada")
    page = operator.post("/flush", 200, stream=LOGS, text="ORDER")
    assert "2 tried, 0 failed" in page.text
    assert waiting(server) == {"other"}
    assert waiting(server, "checkpoints") == {"order-1"}
    assert "Nothing of the kind waits" in operator.post("/flush", 200, failing="yes").text
    assert "Nothing of the kind waits" in operator.post("/flush", 200, text="50 %").text
    page = operator.post("/flush", 200, text="o")  # a job for each stream
    assert page.text.startswith("Flush jobs")
    assert waiting(server) | waiting(server, "checkpoints") == set()


def test_the_health_of_flushes_is_shown_by_stream_and_table(
    server: Server, operator: Person
) -> None:
    tank = server.tank
    assert "Nothing was flushed in this time." in operator.get("/jobs/health").text
    tank.sql("CREATE NAMESPACE app")
    tank.sql("CREATE TABLE app.notes (id BIGINT)")
    tank.sql("INSERT INTO app.notes VALUES (1)", user="ada")
    put(tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    tank.flush()
    recorded(server, "a", failed=("a",))
    page = operator.get("/jobs/health", hours="1")  # what was seen before is of another time
    assert re.search(r"By stream .*checkpoints 1 100 % 0 0", page.text)
    assert re.search(r"thread_logs 1 none|thread_logs 1 0 % 1 0", page.text)
    assert re.search(r"By table .*app\.notes 1 100 % 0 0", page.text)
    series = operator.client.get("/jobs/health/series?hours=1").json()
    assert len(series["at"]) == 48
    good, warned, failed = series["charts"]["stream-thread_logs"]
    assert [sum(line["values"]) for line in (good, warned, failed)] == [0, 1, 0]
    assert [sum(line["values"]) for line in series["charts"]["table-app.notes"]] == [1, 0, 0]

    (rate,) = operator.client.get("/overview/series").json()["charts"]["rate"]
    assert len(rate["at"]) == len(rate["values"])
    shown = [value for value in rate["values"] if value is not None]
    assert 0 <= min(shown) < 100  # one had warnings
    assert max(rate["values"], key=lambda value: value or 0) <= rate["most"]


def test_the_health_of_yesterday_is_known_to_a_server_that_was_started_again(
    server: Server, make_tank: Any
) -> None:
    yesterday = server.tank.now() - 20 * 3600
    job = replace(
        recorded(server, "a"), id="of-yesterday", created_at=yesterday, started_at=yesterday,
        finished_at=yesterday,
    )  # fmt: skip
    server.tank.parts.buffer.save_job(job)
    again = make_tank(admin_token=ADMIN_TOKEN)
    with running(again, mounts=[Console]) as started:
        operator = Person.of(started, ADMIN_TOKEN)
        assert re.search(r"By stream .*thread_logs 2 ", operator.get("/jobs/health").text)
        drawn = operator.client.get("/jobs/health/series?hours=24").json()["charts"]
        counts = [sum(line["values"][n] for line in drawn["stream-thread_logs"]) for n in range(48)]
        assert sum(counts[:12]) == 1  # twenty hours ago
        assert counts[-1] == 1
        (rate,) = operator.client.get("/overview/series").json()["charts"]["rate"]
        assert [value for value in rate["values"] if value is not None] == [100.0]


def test_what_fails_now_is_listed_with_the_next_attempt(
    make_tank: Any, private_postgres: Any
) -> None:
    tank = make_tank(
        database_url=private_postgres.url, admin_token=ADMIN_TOKEN, connect_timeout=1.0,
        breaker_max=60.0,
    )  # fmt: skip
    put(tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    assert tank.flush().ok
    with running(tank, mounts=[Console]) as server:
        operator = Person.of(server, ADMIN_TOKEN)
        tank.status()
        private_postgres.kill()
        put(tank.checkpointer(), HOSTILE, {"x": 2}, user_id="ada")
        assert not tank.flush().ok
        page = operator.get("/jobs")
        assert "What fails now" in page.text
        assert "{{7*7}}" in page.text.partition("What fails now")[2].partition(" Jobs ")[0]
        assert "'owned'</script>" not in page.html
        page = operator.get("/overview")
        assert re.search("Saving is delayed by .* can't be reached", page.text)
        assert "Workers unknown only the database knows" in page.text
        operator.get("/jobs/health")
        assert "database" in operator.get("/inbox", 503).text


def test_parked_entries_are_found_shown_to_who_may_read_them_and_tried_again(
    server: Server, operator: Person
) -> None:
    tank = server.tank
    for name in ("first", HOSTILE):
        tank.parts.buffer.append(LOGS, name, (Record(b"l", b"<b>secret</b> of a user"),))
    tank.flush(LOGS)
    assert len(tank.parked()) == 2
    assert "Entry 1" in operator.get("/parked", text="FIRST").text
    assert "Nothing that was set aside matches." in operator.get("/parked", text="none").text
    assert "Nothing that was set aside matches." in operator.get("/parked", stream="tables").text
    assert "How it begins" not in operator.get("/parked/1").text
    admin = Person.of(server, ADMIN_TOKEN)
    page = admin.get("/parked/1")
    assert "<b>secret</b> of a user" in page.text
    assert "<b>secret" not in page.html
    page = operator.post("/parked/retry", 200, id="2")
    assert "retry" in page.text
    assert all(entry.retries or entry.id == 1 for entry in tank.parked())
    page = admin.post("/parked/discard", 200, id="1")
    assert "Nothing was discarded" in page.text
    page = admin.post("/parked/discard", 200, id="1", sure="yes")
    assert "1 entry was discarded." in page.text
    assert 1 not in {entry.id for entry in tank.parked()}
    assert operator.post("/parked/discard", id="1", sure="yes").status == 403


def test_rows_of_tables_that_were_set_aside_are_listed_and_chosen_too(
    server: Server, operator: Person, monkeypatch: Any
) -> None:
    """Their numbers are below zero."""
    failure, tried = Failure(FailureKind.REJECTED, "no such value", "X"), list[Any]()
    row = ParkedEntry(-7, "tables", "app.notes/ada", 7, 10, 1.0, 2.0, failure)
    monkeypatch.setattr(Parked, "__call__", lambda _: [row])
    monkeypatch.setattr(Parked, "retry", lambda _, ids, by: tried.append((ids, by)))
    assert "Entry -7" in operator.get("/parked").text
    operator.post("/parked/retry", 200, id="-7")
    assert tried == [([-7], "op")]


def test_the_overview_names_who_works_and_asks_for_the_state_once_for_all_who_watch(
    server: Server, operator: Person, monkeypatch: Any
) -> None:
    wait_until(server.tank.workers, "the server to say that it is there")
    page = operator.get("/overview")
    assert "All saved." in page.text
    assert "Workers 1 all at work" in page.text
    asked, status = list[int](), Surgetank.status

    def counted(tank: Surgetank, **given: Any) -> Any:
        asked.append(given["jobs"])
        return status(tank, **given)

    monkeypatch.setattr(Surgetank, "status", counted)
    monkeypatch.setattr("surgetank.console.overview._STATUS_S", 3600.0)
    for _ in range(3):
        operator.get("/overview/now")
    assert asked.count(200) <= 1  # others are samples for the charts
    series = operator.client.get("/overview/series").json()
    assert set(series["charts"]) == {"waiting", "lag", "rate"}
