"""Threads that live for a time: asked for by clients or by `checkpointer.ttl`, counted from what is
done last, over only when nothing is under way or waits for people."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.savers import put_chain
from support.sdk import client_for
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import BufferFull, ThreadNotFound
from surgetank.workflows.expiry import ThreadExpiry
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet
from surgetank.workflows.lifetime import Lifetimes, ThreadTtl
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun
from surgetank.workflows.threads import ThreadRows

PROJECT = """
import asyncio, operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]
    ask: Any
    hold: bool

async def one(state):
    while state.get("hold"):
        await asyncio.sleep(0.05)
    return {"said": ["one"]}

def two(state):
    return {"said": [interrupt(state["ask"]) if state.get("ask") else "two"]}

builder = StateGraph(State).add_node("one", one).add_node("two", two)
builder.add_edge(START, "one")
builder.add_edge("one", "two")
"""


@pytest.fixture
def server(make_tank: MakeTank, project: MakeProject) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    ttl = {"default_ttl": 90, "strategy": "delete", "sweep_interval_minutes": 600}
    config = load(
        project({"p.py": PROJECT}, {"agent": "./p.py:builder"}, checkpointer={"ttl": ttl})
    )
    tank.lifetimes = config.lifetimes
    graphs = GraphSet(config, checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    worker.start()
    with running(tank, graphs=graphs) as started:
        yield started
        assert worker.stop(20.0)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Any]:
    made = client_for(server, server.token("user", "ada"))
    yield made
    await made.aclose()


def later(tank: Surgetank, minutes: float = 200) -> None:
    """So many minutes pass without anything being done."""
    with tank.database.connection() as connection:
        for table in ("thread_status", "threads"):
            connection.execute(
                f"UPDATE surgetank.{table} SET updated_at = updated_at - %s * interval '1 minute'",
                (minutes,),
            )


def sweep(server: Server) -> int:
    return server.tank.runs.expiry().sweep()


def audited(tank: Surgetank, action: str) -> list[Any]:
    with tank.database.connection() as connection:
        return connection.execute(
            "SELECT thread_id, actor, detail FROM surgetank.audit_log WHERE action = %s", (action,)
        ).fetchall()


async def spoken(client: Any, **more: Any) -> str:
    """A thread with a run that has ended."""
    thread = await client.threads.create(**more)
    await client.runs.wait(thread["thread_id"], "agent", input={"said": []})
    return str(thread["thread_id"])


class TestWhatClientsAskFor:
    async def test_a_time_is_given_shown_and_changed(self, client: Any) -> None:
        made = await client.threads.create(ttl=5)
        assert made["ttl"]["strategy"] == "delete"
        assert made["ttl"]["ttl_minutes"] == 5
        until = datetime.fromisoformat(made["ttl"]["expires_at"])
        assert until - datetime.fromisoformat(made["updated_at"]) == timedelta(minutes=5)
        thread = made["thread_id"]
        shown = await client.threads.get(thread, include=["ttl"])
        assert shown["ttl"] == made["ttl"]
        ttl = {"ttl": 0.5, "strategy": "keep_latest"}
        changed = await client.threads.update(thread, metadata={"a": 1}, ttl=ttl)
        assert changed["ttl"]["strategy"] == "keep_latest"
        assert changed["ttl"]["ttl_minutes"] == 0.5
        kept = await client.threads.update(thread, metadata={"b": 2})
        assert kept["ttl"]["ttl_minutes"] == 0.5
        minimal = await client.threads.update(thread, metadata={"c": 3}, return_minimal=True)
        assert minimal is None
        (found,) = await client.threads.search(metadata={"c": 3})
        assert found["ttl"]["ttl_minutes"] == 0.5

    async def test_the_usual_time_is_that_of_the_project(self, client: Any, server: Server) -> None:
        assert (await client.threads.create())["ttl"]["ttl_minutes"] == 90
        same = await client.threads.create(thread_id="mine", ttl=7)
        again = await client.threads.create(thread_id="mine", ttl=9, if_exists="do_nothing")
        assert same["ttl"]["ttl_minutes"] == again["ttl"]["ttl_minutes"] == 7
        server.tank.lifetimes = Lifetimes()
        forever = await client.threads.create()
        assert "ttl" not in forever
        assert "ttl" not in await client.threads.get(forever["thread_id"], include=["ttl"])

    async def test_a_run_gives_a_thread_the_usual_time_and_moves_its_end(
        self, client: Any, server: Server
    ) -> None:
        usual, server.tank.lifetimes = server.tank.lifetimes, Lifetimes()
        old = (await client.threads.create())["thread_id"]
        server.tank.lifetimes = usual
        assert "ttl" not in await client.threads.get(old)
        await client.runs.wait(old, "agent", input={"said": []})
        first = await client.threads.get(old)
        assert first["ttl"]["ttl_minutes"] == 90
        later(server.tank, 60)
        waiting = await client.threads.get(old)
        assert waiting["ttl"]["expires_at"] < first["ttl"]["expires_at"]
        await client.runs.wait(old, "agent", input={"said": []})
        assert (await client.threads.get(old))["ttl"]["expires_at"] > first["ttl"]["expires_at"]
        later(server.tank, 60)
        await client.threads.update_state(old, {"said": ["by hand"]})
        assert sweep(server) == 0

    @pytest.mark.parametrize(
        "ttl",
        [0, -1, {"ttl": 0}, {"strategy": "delete"}, {"ttl": 1e300}, {"ttl": 5, "strategy": "x"}],
    )
    async def test_a_time_that_is_none_is_refused(self, client: Any, ttl: Any) -> None:
        with pytest.raises(UnprocessableEntityError):
            await client.threads.create(ttl=ttl)


class TestWhenItIsOver:
    async def test_a_thread_goes_with_all_that_it_had(self, client: Any, server: Server) -> None:
        tank = server.tank
        gone, stays = await spoken(client), await spoken(client, ttl=10_000)
        assert tank.runs.streams.read(gone).events
        later(tank)
        assert sweep(server) == 1
        assert tank.flush().ok
        assert not tank.runs.streams.read(gone).events
        for call in (client.threads.get, client.threads.get_state, client.runs.list):
            with pytest.raises(NotFoundError):
                await call(gone)
        assert tank.threads.is_known(gone) is False
        assert (await client.threads.get(stays))["values"]["said"] == ["one", "two"]
        assert audited(tank, "thread_deleted") == [(gone, "ttl", {"ttl_minutes": 90.0})]
        assert sweep(server) == 0
        # the id is free, and nothing of the old one is found under it
        bob = client_for(server, server.token("user", "bob"))
        try:
            await bob.threads.create(thread_id=gone)
            assert await bob.threads.get_history(gone) == []
            assert await bob.runs.list(gone) == []
        finally:
            await bob.aclose()

    async def test_with_keep_latest_only_the_newest_state_stays(
        self, client: Any, server: Server
    ) -> None:
        tank = server.tank
        thread = await spoken(client, ttl={"ttl": 5, "strategy": "keep_latest"})
        assert len(await client.threads.get_history(thread)) > 1
        later(tank)
        assert sweep(server) == 1
        assert len(await client.threads.get_history(thread)) == 1
        shown = await client.threads.get(thread)
        assert shown["values"]["said"] == ["one", "two"]
        assert shown["ttl"]["expires_at"] is None
        later(tank)
        assert sweep(server) == 1, "it was touched"
        assert sweep(server) == 0
        assert [row[0] for row in audited(tank, "thread_pruned")] == [thread, thread]
        await client.runs.wait(thread, "agent", input={"said": []})
        assert (await client.threads.get(thread))["ttl"]["expires_at"] is not None
        assert len(await client.runs.list(thread)) == 2

    async def test_what_is_under_way_or_waits_for_people_stays(
        self, client: Any, server: Server
    ) -> None:
        tank = server.tank
        asks = await client.threads.create(ttl=5)
        await client.runs.wait(asks["thread_id"], "agent", input={"said": [], "ask": "really?"})
        runs = await client.threads.create(ttl=5)
        run = await client.runs.create(runs["thread_id"], "agent", input={"hold": True})
        comes = await client.threads.create(ttl=5)
        await client.runs.create(comes["thread_id"], "agent", input={}, after_seconds=3600)
        cron = await client.threads.create(ttl=5)
        await client.crons.create_for_thread(
            cron["thread_id"], "agent", schedule="0 0 1 1 *", input={}
        )
        later(tank)
        assert sweep(server) == 0
        for thread in (asks, runs, comes, cron):
            await client.threads.get(thread["thread_id"])
        await client.runs.cancel(runs["thread_id"], run["run_id"], wait=True)
        later(tank)
        assert sweep(server) == 1, "it was cancelled long ago"
        await client.runs.wait(asks["thread_id"], "agent", command={"resume": "yes"})
        later(tank)
        assert sweep(server) == 1, "it was answered long ago"

    async def test_a_program_that_writes_without_runs_keeps_its_thread_alive(
        self, client: Any, server: Server
    ) -> None:
        tank = server.tank
        await client.threads.create(thread_id="direct", ttl=5)
        later(tank)
        put_chain(tank.checkpointer(), "direct", 2)
        assert tank.flush().ok
        assert sweep(server) == 0
        later(tank)
        assert sweep(server) == 1


# -- who deals with it


@pytest.fixture
def database(database_url: str) -> Iterator[MigratedDatabase]:
    made = MigratedDatabase(database_url)
    yield made
    made.close()


class Deleted:
    """A checkpointer that keeps count. `before` is called first."""

    def __init__(self, before: Any = lambda _: None) -> None:
        self.threads: list[str] = []
        self._before = before

    def delete_thread(self, thread_id: str) -> None:
        self._before(thread_id)
        self.threads.append(thread_id)

    def prune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        raise AssertionError(strategy)


def expiry(database: Any, saver: Deleted, **more: Any) -> ThreadExpiry:
    return ThreadExpiry(database, lambda: saver, Lifetimes, node="n", **more)


def overdue(database: Any, *names: str) -> None:
    rows = ThreadRows(database)
    for name in names:
        rows.create(name, owner=None, ttl=ThreadTtl(1.0))
    with database.connection() as connection:
        connection.execute(
            "UPDATE surgetank.thread_status SET updated_at = updated_at - interval '1 hour'"
        )


def left(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {
            row[0] for row in connection.execute("SELECT thread_id FROM surgetank.thread_status")
        }


def test_of_many_who_look_at_once_one_has_each(database: Any, database_url: str) -> None:
    names = [f"t{n}" for n in range(40)]
    overdue(database, *names)
    saver = Deleted()
    gate = threading.Barrier(4)

    def look(_: int) -> int:
        gate.wait(30)
        return expiry(database, saver).sweep()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(look, range(4))) == 40
    assert sorted(saver.threads) == sorted(names)
    assert left(database_url) == set()


def test_killed_before_the_row_went_it_is_done_again(database: Any, database_url: str) -> None:
    overdue(database, "t")

    class Killed(BaseException):
        pass

    class Dies(Deleted):
        def delete_thread(self, thread_id: str) -> None:
            super().delete_thread(thread_id)
            raise Killed

    with pytest.raises(Killed):
        expiry(database, Dies()).sweep()
    assert left(database_url) == {"t"}
    saver = Deleted()
    assert expiry(database, saver).sweep() == 1
    assert (saver.threads, left(database_url)) == (["t"], set())


def test_one_that_can_not_be_deleted_does_not_hold_up_the_others(
    database: Any, database_url: str
) -> None:
    overdue(database, "a", "b", "c")

    def refuse(thread_id: str) -> None:
        if thread_id == "a":
            raise BufferFull("The buffer is full.", remedy="wait")

    assert expiry(database, Deleted(refuse)).sweep() == 2
    assert left(database_url) == {"a"}


def test_a_run_that_comes_meanwhile_finds_no_thread_or_has_it_whole(
    database: Any, database_url: str
) -> None:
    overdue(database, "t", "u")
    queue = RunQueue(database)
    outcomes: list[Any] = []

    def accept() -> None:
        try:
            outcomes.append(queue.accept(NewRun(thread_id="t", assistant_id="a"), actor="ada"))
        except ThreadNotFound as error:
            outcomes.append(error)

    asking = threading.Thread(target=accept)

    def waits() -> bool:
        with psycopg.connect(database_url) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            ).fetchone()
        return bool(found and found[0])

    def run_comes(thread_id: str) -> None:
        if thread_id == "t":
            asking.start()
            wait_until(waits, "the run to wait for the thread")

    saver = Deleted(run_comes)
    assert expiry(database, saver).sweep() == 2
    asking.join(30)
    assert isinstance(outcomes[0], ThreadNotFound)
    # and the other way round: accepted first, the thread is alive again
    overdue(database, "t")
    found = RunQueue(database, thread_ttl=ThreadTtl(1.0)).accept(
        NewRun(thread_id="t", assistant_id="a"), actor="ada"
    )
    assert expiry(database, saver).sweep() == 0
    queue.cancel(found.run_id, CancelAction.INTERRUPT, actor="ada")
    assert expiry(database, saver).sweep() == 0, "a minute must pass"


CRON_COMES = """
INSERT INTO surgetank.crons (cron_id, assistant_id, graph_id, thread_id, schedule, enabled,
    on_run_completed, metadata, payload)
VALUES (gen_random_uuid(), 'a', 'a', %s, '* * * * *', true, 'keep', '{}', '{}')
"""
WORKFLOW_COMES = """
INSERT INTO surgetank.workflows (workflow_id, thread_id, assistant_id, status)
VALUES (gen_random_uuid(), %s, 'a', 'pending')
"""


@pytest.mark.parametrize("comes", [CRON_COMES, WORKFLOW_COMES], ids=["cron", "workflow"])
def test_what_comes_while_others_are_dealt_with_keeps_its_thread(
    database: Any, database_url: str, comes: Any
) -> None:
    overdue(database, "t", "u")

    def it_comes(thread_id: str) -> None:
        other = {"t": "u", "u": "t"}[thread_id]
        with psycopg.connect(database_url) as connection:
            connection.execute(comes, [other])

    saver = Deleted(it_comes)
    assert expiry(database, saver).sweep() == 1
    assert len(left(database_url) - set(saver.threads)) == 1


def test_threads_are_looked_for_at_their_times_and_not_too_many_at_once(database: Any) -> None:
    overdue(database, *(f"t{n}" for n in range(5)))
    now = [0.0]
    saver = Deleted()
    rule = Lifetimes(every_s=60.0, most=2)
    found = ThreadExpiry(database, lambda: saver, lambda: rule, node="n", clock=lambda: now[0])
    found.step()
    assert len(saver.threads) == 2
    found.step()
    now[0] = 59.0
    found.step()
    assert len(saver.threads) == 2
    now[0] = 60.0
    found.step()
    assert len(saver.threads) == 4


def test_a_stateless_run_gets_no_time_to_live(database: Any, database_url: str) -> None:
    queue = RunQueue(database, thread_ttl=ThreadTtl(5.0))
    for name, temporary in (("stays", False), ("stateless", True)):
        new = NewRun(thread_id=name, assistant_id="a", make_thread=True, temporary=temporary)
        queue.accept(new, actor="ada")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT thread_id, ttl_minutes, expires_at IS NULL FROM surgetank.thread_status ORDER BY 1"
        ).fetchall()
    assert rows == [("stateless", None, True), ("stays", 5.0, False)]
