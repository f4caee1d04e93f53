"""Several servers and workers of runs with one buffer in Redis: it doesn't matter at which server a client is.

No call to Redis is made on an event loop: the fixture `_off_the_loop` refuses that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.following import receive, socket, sse
from support.http import ADMIN_TOKEN, Server, running
from support.projects import HEAD, MakeProject, imports_undone, project
from support.redis_server import shared
from support.savers import put
from surgetank import Surgetank
from surgetank.offloop import on_loop
from surgetank.redis.server import RedisServer
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem
from surgetank.server.services import make_services
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

__all__ = ["imports_undone", "project"]

PROJECT = (
    HEAD
    + """
async def count(state):
    from langgraph.config import get_stream_writer
    for n in range(40):
        get_stream_writer()({"n": n})
    return {"text": "done"}

agent = StateGraph(State).add_node("count", count).add_edge(START, "count").add_edge("count", END)
"""
)


@pytest.fixture(autouse=True)
def _off_the_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    asked, waited = RedisServer._ask, list[str]()

    def ask(self: RedisServer, *arguments: Any, **named: Any) -> Any:
        if on_loop():
            waited.append(self._name)
            raise AssertionError("an event loop waits for Redis")
        return asked(self, *arguments, **named)

    monkeypatch.setattr(RedisServer, "_ask", ask)
    yield
    assert waited == []


@pytest.fixture
def tanks(tmp_path: Path, database_url: str) -> Iterator[tuple[Surgetank, Surgetank]]:
    """Two engines, as on two hosts."""
    url = shared().url(shards=4)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                Surgetank(
                    tmp_path / home, database_url=database_url, buffer_url=url, flush_in_process=False,
                    flush_on_close=False, admin_token=ADMIN_TOKEN, failed_logins_per_minute=4,
                )
            )
            for home in ("one", "two")
        )  # fmt: skip
        yield one, two


@pytest.fixture
def servers(tanks: tuple[Surgetank, Surgetank]) -> Iterator[tuple[Server, Server]]:
    with running(tanks[0]) as one, running(tanks[1]) as two:
        yield one, two


def test_who_goes_to_another_server_goes_on_without_gap_or_double(
    servers: tuple[Server, Server],
) -> None:
    one, two = servers
    put(two.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    token = one.token("viewer", "ada")
    total = 300

    def work() -> None:
        for i in range(total):
            two.tank.broadcast_run_event("n", thread_id="t" if i % 3 else "u", i=i)

    working = threading.Thread(target=work)
    seen, seqs = list[int](), list[int]()
    wanted = [i for i in range(total) if i % 3]
    try:
        with socket(one, "/ws/threads/t", token) as ws:
            (hello,) = receive(ws, 1)
            assert hello["after"] == 0
            working.start()
            for event in receive(ws, 30):
                seen.append(event["i"])
                seqs.append(event["seq"])
        for server, count in ((two, 40), (one, 40), (two, total)):
            with server.client(token).stream(
                "GET", "/sse/threads/t", headers={"Last-Event-ID": str(seqs[-1])}
            ) as answer:
                lines = answer.iter_lines()
                sse(lines, 1)
                for number, event in sse(lines, min(count, len(wanted) - len(seen))):
                    seen.append(event["i"])
                    seqs.append(number)
    finally:
        working.join()
    assert seqs == list(range(1, len(seqs) + 1))
    assert seen == wanted[: len(seen)]
    assert len(seen) == total * 2 // 3


def test_all_threads_are_followed_at_any_server_and_what_is_gone_is_told(
    servers: tuple[Server, Server],
) -> None:
    one, two = servers
    with socket(one, "/ws/events", ADMIN_TOKEN) as ws:
        receive(ws, 1)
        for i in range(40):
            (one, two)[i % 2].tank.broadcast_run_event("n", thread_id=f"t{i % 7}", i=i)
        events = receive(ws, 40)
    assert [e["i"] for e in events] == list(range(40))
    with socket(two, f"/ws/events?after={events[20]['id']}", ADMIN_TOKEN) as ws:
        assert [e["i"] for e in receive(ws, 20)[1:]] == list(range(21, 40))
    two.tank.events._max_events = 10  # type: ignore[attr-defined]
    two.tank.events.maintain()
    with socket(one, f"/ws/events?after={events[5]['id']}", ADMIN_TOKEN) as ws:
        _, gap, *rest = receive(ws, 12)
    assert (gap["type"], gap["after"], gap["missed_to"]) == (
        "gap",
        events[5]["id"],
        events[29]["id"],
    )
    assert [e["i"] for e in rest] == list(range(30, 40))


def test_a_run_is_followed_at_a_server_that_does_not_work_on_it(
    tanks: tuple[Surgetank, Surgetank], project: MakeProject
) -> None:
    one, two = tanks
    config = load(project({"p.py": PROJECT}, {"agent": "./p.py:agent"}))
    graphs = [GraphSet(config, checkpointer=tank.checkpointer()) for tank in tanks]
    worker = two.runs.service(graphs[1])
    with running(one, graphs=graphs[0]) as near, running(two, graphs=graphs[1]) as far:
        thread = near.admin.post("/threads", json={}).json()["thread_id"]
        body = {"assistant_id": "agent", "input": {"text": "x"}, "stream_mode": ["custom"]}
        run = near.admin.post(f"/threads/{thread}/runs", json=body).json()
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        worker.start()
        try:
            numbers, found = list[int](), list[Any]()
            for server, count in ((near, 10), (far, 10), (near, 21)):
                begin = str(numbers[-1]) if numbers else "0"
                with server.admin.stream("GET", path, headers={"Last-Event-ID": begin}) as answer:
                    for number, event in sse(answer.iter_lines(), count):
                        numbers.append(number)
                        found += [event["n"]] if "n" in event else []
            assert found == list(range(40))
            assert numbers == sorted(set(numbers))
            state = near.admin.get(f"/threads/{thread}/state").json()
            assert state["values"]["text"] == "done"
        finally:
            assert worker.stop(20.0)


def test_a_token_ends_by_the_clock_of_the_buffer_whatever_that_of_the_host_says(
    tanks: tuple[Surgetank, Surgetank],
) -> None:
    clock: Any = tanks[0].parts.clock
    clock._offset += 3600  # the host is an hour behind
    services = make_services(tanks[0])
    for more, good in ((1800, True), (-1800, False)):
        until = tanks[0].now() + more
        _, secret = services.tokens.create("ada", Role.VIEWER, by="test", expires_at=until)
        if good:
            assert services.login.authenticate(secret, "here").user == "ada"
        else:
            with pytest.raises(Problem):
                services.login.authenticate(secret, "here")


def redeems(server: Server, ticket: str) -> int:
    with server.client().stream("GET", "/sse/events", params={"ticket": ticket}) as answer:
        return answer.status_code


def test_a_ticket_of_one_server_is_good_once_at_any(servers: tuple[Server, Server]) -> None:
    one, two = servers
    token = one.token("viewer", "ada")
    ticket = one.client(token).post("/ws/ticket").json()["ticket"]
    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(redeems, servers[n % 2], ticket) for n in range(6)]
        assert sorted(each.result() for each in found) == [200, 401, 401, 401, 401, 401]
    caller = Caller(
        "bob", Role.USER, given={"identity": "bob", "n": [1]}, filters={"threads": {"a": 1}}
    )
    given, _ = one.services.tickets.issue(caller)
    back = two.services.tickets.redeem(given)
    assert (back, back and back.given) == (caller, caller.given)
    left, _ = one.services.tickets.issue(caller)
    two.services.tickets.forget_user("bob")
    assert one.services.tickets.redeem(left) is None


def test_tickets_are_bounded_and_end(tanks: tuple[Surgetank, Surgetank]) -> None:
    door = tanks[0].door
    assert door is not None
    door._most = 2
    for name in (b"a", b"b", b"c"):
        door.keep_ticket(name, name * 2, ttl_s=60)
    assert door.tickets() == {b"b": b"bb", b"c": b"cc"}
    door.keep_ticket(b"over", b"x", ttl_s=-1)
    assert door.take_ticket(b"over") is None
    assert [door.take_ticket(b"c"), door.take_ticket(b"c")] == [b"cc", None]


def test_failed_logins_are_counted_over_all_servers(servers: tuple[Server, Server]) -> None:
    one, two = servers
    bad = "stk_" + "x" * 43
    answers = [servers[n % 2].client(bad).get("/me").status_code for n in range(6)]
    assert answers == [401] * 4 + [429] * 2
    assert two.services.login.failures.wait_s("127.0.0.1") > 0
    assert two.client(two.token("viewer", "ada")).get("/me").status_code == 429
    # those under way count as well, wherever they are
    ended = threading.Event()
    with ExitStack() as stack:
        begun = [
            stack.enter_context(server.services.login.failures.attempt("192.0.2.1"))
            for server in servers * 2
        ]

        def fifth() -> str:
            try:
                with one.services.login.failures.attempt("192.0.2.1"):
                    return "goes on" if ended.is_set() else "too early"
            except Problem as problem:
                return str(problem.status)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(fifth)
            for failing in begun[:3]:
                failing()
            ended.set()
            stack.close()
            assert waiting.result() == "goes on"


async def test_the_saver_reads_and_lists_off_the_loop(tanks: tuple[Surgetank, Surgetank]) -> None:
    one, two = tanks[0].checkpointer(), tanks[1].checkpointer()

    await asyncio.to_thread(put, one, "t", {"x": 1})
    found = await two.aget_tuple({"configurable": {"thread_id": "t"}})
    assert found is not None
    assert found.checkpoint["channel_values"]["x"] == 1
    assert [each.config async for each in two.alist({"configurable": {"thread_id": "t"}})] == [
        found.config
    ]
    await two.aput_writes(found.config, [("x", 2)], "task")
    await two.acopy_thread("t", "copy")
    assert await one.aget_tuple({"configurable": {"thread_id": "copy"}}) is not None
    await two.adelete_thread("t")
    assert await one.aget_tuple({"configurable": {"thread_id": "t"}}) is None
