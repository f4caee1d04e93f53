"""Two buffers on one thread: handing it over is nothing special, writing without knowing of the
other is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.graphs import agent, nested
from support.postgres import PostgresServer
from support.savers import config, ids, listed, put
from support.tanks import MakeTank
from surgetank import ColdStateUnavailable, Surgetank
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
from surgetank.notify.notifier import FORK_SHOWN_S


@pytest.fixture
def other(make_tank: MakeTank, tmp_path: Path) -> Surgetank:
    return make_tank(home=tmp_path / "another home")


def forks(tank: Surgetank) -> list[str]:
    return [notice.message for notice in tank.status().notices if "Two buffers" in notice.message]


def turn(tank: Surgetank, n: int, parent: Any = None, thread: str = "t") -> Any:
    """Read the thread's newest checkpoint (or the given one), put on it, flush."""
    saver = tank.checkpointer()
    found = saver.get_tuple(parent or config(thread))
    made = put(saver, thread, {"n": n}, parent=found.config if found else None)
    assert tank.flush().ok
    return made


def test_a_fork_that_nobody_meant_is_told_with_both_buffers_and_loses_nothing(tank, other, caplog):
    first = turn(tank, 1)
    theirs = turn(other, 2)
    ours = put(tank.checkpointer(), "t", {"n": 3}, parent=first)  # does not know of theirs
    assert tank.flush().ok
    (message,) = forks(tank)
    for name in (
        "'t'",
        tank.parts.buffer.id,
        other.parts.buffer.id,
        ids([theirs])[0],
        ids([ours])[0],
    ):
        assert name in message
    assert "Two buffers" in caplog.text
    (error,) = tank.errors.find().errors
    assert (error.error_type, error.severity) == ("thread_forked", "critical")
    assert "sticky" in error.error_message
    assert {found.checkpoint["id"] for found in listed(tank.checkpointer(), "t")} == set(
        ids([first, theirs, ours])
    )
    assert forks(other) == []


def test_a_thread_that_is_handed_over_is_no_fork(tank, other):
    for n in range(3):
        turn(tank, n)
        turn(other, n)
    saver = other.checkpointer()
    older = saver.get_tuple(listed(saver, "t")[-1].config).config
    turn(tank, 7)
    saver.get_tuple(config("t"))
    put(saver, "t", {"n": 8}, parent=older)  # time travel, knowing of the newest one
    assert other.flush().ok
    assert forks(tank) == forks(other) == []


def test_time_travel_and_forks_of_one_buffer_are_no_fork_of_two(tank):
    first = turn(tank, 1)
    turn(tank, 2)
    for n in (3, 4):
        put(tank.checkpointer(), "t", {"n": n}, parent=first)
        assert tank.flush().ok
    tank.checkpointer().delete_thread("t")
    put(tank.checkpointer(), "t", {"n": 5})
    assert tank.flush().ok
    assert forks(tank) == []


def test_pruning_and_late_writes_of_another_buffer_are_no_fork(tank, other):
    turn(tank, 1)
    last = turn(tank, 2)
    other.checkpointer().prune(["t"])
    other.checkpointer().put_writes(last, [("n", 1)], "task")
    assert other.flush().ok
    put(tank.checkpointer(), "t", {"n": 3}, parent=last)
    put(tank.checkpointer(), "t", {"n": 4}, parent=last)
    assert tank.flush().ok
    assert forks(tank) == []


def test_a_running_graph_is_told_when_another_process_ran_the_thread_meanwhile(tank, other):
    at = {"configurable": {"thread_id": "t"}}
    graphs = [agent(x.checkpointer()) for x in (tank, other)]
    graphs[0].invoke({"messages": [("user", "hello")]}, at)
    assert tank.flush().ok
    graphs[1].update_state(at, {"steps": 7})
    graphs[0].update_state(at, {"steps": 8})  # neither has seen the other's
    assert other.flush().ok
    assert tank.flush().ok
    assert len(forks(tank)) == 1
    assert graphs[0].get_state(at).values["steps"] == 8
    graphs[1].update_state(at, {"steps": 9})  # has read it now
    assert other.flush().ok
    assert forks(other) == []


def test_a_fork_is_shown_for_a_day(make_tank, tmp_path):
    clock = [1_800_000_000.0]
    tank = make_tank(clock=lambda: clock[0])
    other = make_tank(home=tmp_path / "another home")
    first = turn(tank, 1)
    turn(other, 2)
    put(tank.checkpointer(), "t", {"n": 3}, parent=first)
    assert tank.flush().ok
    tank.parts.reporting.sweep(tank.parts.flushers)
    assert len(forks(tank)) == 1
    clock[0] += FORK_SHOWN_S + 1
    tank.parts.reporting.sweep(tank.parts.flushers)
    assert forks(tank) == []


@pytest.fixture
def server(private_postgres: PostgresServer) -> PostgresServer:
    database = Database(private_postgres.url)
    migrate(database)
    database.close()
    return private_postgres


def test_what_grew_from_a_copy_in_an_outage_is_compared_when_the_database_is_back(
    make_tank, server, tmp_path
):
    tank = make_tank(database_url=server.url)
    other = make_tank(database_url=server.url, home=tmp_path / "another home")
    for thread in ("forked", "alone"):
        turn(tank, 1, thread=thread)
    server.kill()
    for thread in ("forked", "alone"):
        saver = tank.checkpointer()
        put(saver, thread, {"n": 2}, parent=saver.get_tuple(config(thread)).config)
    server.start()
    turn(other, 3, thread="forked")
    assert tank.flush().ok
    (message,) = forks(tank)
    assert "'forked'" in message


def test_an_unknown_thread_is_taken_for_new_or_refused_as_configured(make_tank, server, tmp_path):
    accepting = make_tank(database_url=server.url)
    refusing = make_tank(
        database_url=server.url,
        home=tmp_path / "another home",
        unknown_threads="refuse",
        recent_max_bytes=0,
    )
    at = {"configurable": {"thread_id": "known"}}
    graph = nested(refusing.checkpointer())
    graph.invoke({"count": 0}, at, interrupt_before=["sub"])
    server.kill()
    assert accepting.checkpointer().get_tuple(config("t")) is None
    saver = refusing.checkpointer()
    with pytest.raises(ColdStateUnavailable, match="never seen"):
        saver.get_tuple(config("t"))
    with pytest.raises(ColdStateUnavailable, match="never seen"):
        listed(saver, "t")
    assert graph.invoke(None, at) == {"count": 3}  # new namespaces of a thread that it knows
