"""The metrics of runs, approvals and webhooks: what a scrape says, and how seldom it asks the database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.buffers import FakeClock
from support.postgres import PostgresServer
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.app.run_figures import RunFigures
from surgetank.database.pool import Database
from surgetank.exceptions import DatabaseUnavailable
from surgetank.observability.metrics import render
from surgetank.workflows.meters import RunMeters
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status


def scrape(tank: Surgetank) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render(tank).decode())
        for sample in family.samples
    }


def accept(tank: Surgetank, thread: str, **more: Any) -> Run:
    return tank.runs.accept(NewRun(thread_id=thread, assistant_id="a", **more), actor="ada")


def test_runs_webhooks_and_their_age_are_told(tank: Surgetank, database_url: str) -> None:
    queue = RunQueue(tank.database)
    for thread in ("t", "u", "v"):
        accept(tank, thread, kwargs={"webhook": "https://hooks.test/"})
    accept(tank, "later", after_s=1000.0)
    run, _ = queue.claim("w", 2)
    queue.end(run, Status.COMPLETED, actor="w")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.runs SET due_at = now() - interval '100 seconds'"
            " WHERE due_at <= now() AND status = 'pending'"
        )
    told = scrape(tank)
    assert (told["surgetank_runs", "pending"], told["surgetank_runs", "running"]) == (2, 1)
    assert 100 <= told["surgetank_runs_oldest_age_seconds",] < 200
    assert told["surgetank_webhooks_waiting",] == 1
    assert 0 <= told["surgetank_webhooks_oldest_age_seconds",] < 100
    assert told["surgetank_approvals_open",] == 0
    assert told["surgetank_run_takeovers_total",] == 0
    assert told["surgetank_webhook_attempts_total", "failed"] == 0
    assert told["surgetank_runs_ended_total", "failed"] == 0


def test_runs_that_are_not_due_have_no_age(tank: Surgetank) -> None:
    accept(tank, "later", after_s=1000.0)
    assert scrape(tank)["surgetank_runs_oldest_age_seconds",] == 0


def claimed(waited_s: float, **more: Any) -> Run:
    now = datetime.now(UTC)
    made = now - timedelta(seconds=waited_s)
    values = {
        "run_id": uuid.uuid4(),
        "attempts": 1,
        "created_at": made,
        "due_at": made,
        "updated_at": now,
    }
    return cast("Run", SimpleNamespace(**{**values, **more}))


def test_what_a_worker_did_is_counted(tank: Surgetank) -> None:
    clock = FakeClock()
    meters = tank.run_meters = RunMeters(clock)
    first, again = claimed(0.2), claimed(500.0, attempts=2)
    for run in (first, again):
        meters.started(run)
    clock.advance(3)
    meters.ended(first, Status.COMPLETED)
    meters.ended(again, Status.FAILED)
    meters.ended(again, Status.FAILED)  # of a run whose beginning is not known: counted, not timed
    meters.taken_over(2)
    told = scrape(tank)
    assert told["surgetank_run_wait_seconds_count",] == 1
    assert told["surgetank_run_wait_seconds_bucket", "0.25"] == 1
    assert told["surgetank_run_wait_seconds_bucket", "0.1"] == 0
    assert told["surgetank_run_seconds_sum", "completed"] == 3
    assert told["surgetank_run_seconds_bucket", "5.0", "completed"] == 1
    assert told["surgetank_run_seconds_count", "failed"] == 1
    assert told["surgetank_runs_ended_total", "failed"] == 2
    assert told["surgetank_run_takeovers_total",] == 2


def test_a_worker_counts_its_runs(tank: Surgetank) -> None:
    import asyncio

    from langgraph.graph import END, START, StateGraph

    builder: Any = StateGraph(dict)
    builder.add_node("n", lambda _: {"x": 1})
    builder.add_edge(START, "n")
    builder.add_edge("n", END)
    graph = builder.compile(checkpointer=tank.checkpointer())

    async def work() -> None:
        worker, stop = tank.runs.worker({"a": graph}), asyncio.Event()
        task = asyncio.create_task(worker.work(stop))
        run = accept(tank, "t", kwargs={"input": {}})
        async with asyncio.timeout(20):
            while tank.runs.get(run.run_id).status is not Status.COMPLETED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        stop.set()
        await task

    asyncio.run(work())
    told = scrape(tank)
    assert told["surgetank_runs_ended_total", "completed"] == 1
    assert told["surgetank_run_wait_seconds_count",] == 1
    assert told["surgetank_run_seconds_count", "completed"] == 1


def test_the_database_is_asked_once_in_ten_seconds_also_when_it_is_away(
    make_tank: MakeTank, private_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tank = make_tank(database_url=private_postgres.url_of(private_postgres.create_database()))
    accept(tank, "t")
    clock = FakeClock()
    tank._run_figures = RunFigures(clock)
    asked = []
    reading = Database.reading

    def counted(self: Database) -> Any:
        asked.append(1)
        return reading(self)

    monkeypatch.setattr(Database, "reading", counted)
    for _ in range(5):
        assert tank.run_figures().runs == {"pending": 1}
    first = len(asked)
    private_postgres.kill()
    clock.advance(11)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailable):
            tank.run_figures()
    assert len(asked) == first + 1
    told = scrape(tank)
    assert told["surgetank_scrape_problem", "runs"] == 1
    assert told["surgetank_scrape_problem", "run_meters"] == 0
    assert ("surgetank_runs", "pending") not in told
    private_postgres.start()
    clock.advance(11)
    assert tank.run_figures().runs == {"pending": 1}


def test_approvals_are_told_by_outcome_with_the_time_they_took(
    tank: Surgetank, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        there = connection.execute("SELECT to_regclass('surgetank.user_checkpoints')").fetchone()
        if there is not None and there[0] is not None:
            connection.execute("DROP TABLE surgetank.user_checkpoints CASCADE")
        connection.execute(
            "CREATE TABLE surgetank.user_checkpoints (status text, created_at timestamptz, resolved_at timestamptz)"
        )
        connection.execute(
            "INSERT INTO surgetank.user_checkpoints VALUES"
            " ('pending', now() - interval '3 days', NULL), ('pending', now(), NULL),"
            " ('approved', now() - interval '10 seconds', now()), ('rejected', now() - interval '30 seconds', now()),"
            " ('expired', now() - interval '500 seconds', now()),"
            " ('approved', now() - interval '9 days', now() - interval '8 days')"
        )
    told = scrape(tank)
    assert told["surgetank_approvals_open",] == 2
    assert told["surgetank_approvals_last_day", "approved"] == 1
    assert told["surgetank_approvals_last_day", "expired"] == 1
    assert told["surgetank_approvals_last_day", "superseded"] == 0
    assert told["surgetank_approval_decision_seconds", "0.5"] == pytest.approx(20)
    assert told["surgetank_approval_decision_seconds", "0.95"] == pytest.approx(29)
