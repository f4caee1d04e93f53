"""`tank.workers` and `surgetank workers`: which processes work with a database, on all hosts."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.app.workers import WorkerProcess
from surgetank.cli.app import app
from surgetank.server.app import create_app
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun


def listed(tank: Surgetank, node: str) -> WorkerProcess:
    (found,) = [each for each in tank.workers() if each.node == node]
    return found


def fell_silent(url: str, node: str) -> None:
    """As if its process had been killed a while ago."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.workers SET beat_at = beat_at - interval '20 s' WHERE node = %s",
            (node,),
        )


def nodes(tank: Surgetank) -> list[str]:
    return [each.node for each in tank.workers()]


def test_processes_on_two_hosts_are_listed_until_they_end(
    make_tank: MakeTank, tmp_path: Any
) -> None:
    one = make_tank(flush_in_process=True, node="one")
    two = make_tank(home=tmp_path / "other", flush_in_process=True, node="two")
    wait_until(lambda: nodes(one) == ["one", "two"], "both")
    found = listed(two, "one")
    assert (found.roles, found.state, found.runs) == (("flush",), "working", 0)
    assert found.buffer_id == one.parts.buffer.id
    one.close()
    assert nodes(two) == ["two"]


def test_a_process_that_only_looks_is_not_listed(tank: Surgetank) -> None:
    assert tank.workers() == []


def test_a_killed_one_is_silent_holds_the_runs_that_nobody_took_yet_and_is_back_when_it_speaks(
    tank: Surgetank, make_tank: MakeTank, database_url: str
) -> None:
    worker = make_tank(node="killed")
    worker.workers.role("runs", lambda: {"partitions": 3}, claims_as="killed/1").start()
    wait_until(lambda: nodes(tank) == ["killed"], "its first words")
    queue = RunQueue(tank.database, lease_s=300.0)
    for number in range(2):
        queue.accept(NewRun(thread_id=str(number), assistant_id="agent"), actor="ada")
    assert len(queue.claim("killed/1", 10)) == 2
    assert listed(tank, "killed").partitions == 3
    fell_silent(database_url, "killed")
    found = listed(tank, "killed")
    assert (found.state, found.runs, found.partitions) == ("silent", 2, 0)
    assert found.silent_s > 15
    worker.parts.presence.beat()
    assert listed(tank, "killed").state == "working"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE surgetank.workers SET beat_at = now() - interval '2 days'")
    other = make_tank(node="other")
    other.parts.presence.beat()
    assert nodes(tank) == ["other"]


def test_its_speed_is_told(make_tank: MakeTank) -> None:
    now = [100.0]
    tank = make_tank(node="quick")
    presence = tank.parts.presence
    presence._clock = lambda: now[0]
    presence.role("flush", dict).start()
    presence.beat()
    for number in range(40):
        tank.emit_log("line", thread_id=str(number))
    tank.flush()
    now[0] += 10.0
    presence.beat()
    assert listed(tank, "quick").entries_per_s == pytest.approx(4.0)


def test_a_server_is_listed_while_it_serves(tank: Surgetank) -> None:
    with TestClient(create_app(tank, no_auth=True)):
        wait_until(lambda: any(each.roles == ("serve",) for each in tank.workers()), "the server")
    wait_until(lambda: tank.workers()[0].state == "stopping", "its end")


def test_a_worker_that_finishes_what_it_writes_is_stopping(
    make_tank: MakeTank, tank: Surgetank
) -> None:
    worker = make_tank(flush_in_process=True, flush_on_close=True, node="draining")
    wait_until(lambda: nodes(tank) == ["draining"], "its first words")
    going_on, flusher = threading.Event(), worker.parts.flushers["thread_logs"]
    held_up = flusher.run

    def run(*arguments: Any, **named: Any) -> Any:
        assert going_on.wait(60)
        return held_up(*arguments, **named)

    flusher.run = run  # type: ignore[method-assign]
    worker.emit_log("left", thread_id="t")
    closing = threading.Thread(target=worker.close)
    closing.start()
    try:
        wait_until(lambda: listed(tank, "draining").state == "stopping", "that it stops")
    finally:
        going_on.set()
        closing.join()
    assert tank.workers() == []


def test_the_command_lists_them(
    tank: Surgetank, make_tank: MakeTank, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)
    said = CliRunner().invoke(app, ["workers"])
    assert (said.exit_code, said.stdout) == (0, "No process flushes, runs graphs or serves.\n")
    worker = make_tank(node="one")
    worker.workers.role("flush", lambda: {"partitions": 7}).start()
    worker.parts.presence.beat()
    (row,) = json.loads(CliRunner().invoke(app, ["workers", "--json"]).stdout)
    assert (row["node"], row["state"], row["roles"], row["partitions"]) == (
        "one",
        "working",
        ["flush"],
        7,
    )
    fell_silent(database_url, "one")
    assert re.search(r"silent for \d\d s", CliRunner().invoke(app, ["workers"]).stdout)
