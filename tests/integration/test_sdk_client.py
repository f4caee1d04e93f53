"""LangGraph's own client on a server of ours with a worker: every stream mode, answers, strategies,
reconnecting."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.sdk import client_for
from support.tanks import MakeTank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

PROJECT = """
import asyncio, operator
from typing import Annotated, Any, TypedDict
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    seconds: float
    ask: Any

async def inner_node(state):
    get_stream_writer()({"inner": True})
    return {"said": ["inner"]}

inner = StateGraph(State).add_node("i", inner_node).add_edge(START, "i").compile()
model = FakeListChatModel(responses=["hello there"])

async def first(state):
    await asyncio.sleep(state.get("seconds", 0))
    return {"said": ["first"]}

async def talk(state):
    return {"messages": [HumanMessage("hi", id="h"), await model.ainvoke("hi")]}

def ask(state):
    if state.get("ask") is None:
        return {"said": ["unasked"]}
    return {"said": [interrupt(state["ask"])]}

def fail(state):
    raise ValueError("the plan is broken")

builder = StateGraph(State)
for name, node in {"first": first, "inner": inner, "talk": talk, "ask": ask}.items():
    builder.add_node(name, node)
for before, after in ((START, "first"), ("first", "inner"), ("inner", "talk"), ("talk", "ask"), ("ask", END)):
    builder.add_edge(before, after)
failing = StateGraph(State).add_node("fail", fail).add_edge(START, "fail")
"""
GRAPHS = {"agent": "./p.py:builder", "failing": "./p.py:failing"}


@pytest.fixture
def server(make_tank: MakeTank, project: MakeProject) -> Any:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    graphs = GraphSet(load(project({"p.py": PROJECT}, GRAPHS)), checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    worker.start()
    with running(tank, graphs=graphs) as started:
        yield started
        assert worker.stop(20.0)


@asynccontextmanager
async def client_of(server: Server, user: str) -> AsyncIterator[Any]:
    client = client_for(server, server.token("user", user))
    yield client
    await client.aclose()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Any]:
    async with client_of(server, "ada") as made:
        yield made


def names(events: list[Any]) -> list[str]:
    return [event.event for event in events]


async def streamed(client: Any, thread: str | None, **more: Any) -> list[Any]:
    given = {"input": {"said": []}, **more}
    return [event async for event in client.runs.stream(thread, "agent", **given)]


async def test_threads_are_made_found_changed_copied_and_deleted(
    client: Any, server: Server
) -> None:
    made = await client.threads.create(metadata={"topic": "x"}, graph_id="agent")
    thread = made["thread_id"]
    assert (made["status"], made["metadata"]["graph_id"]) == ("idle", "agent")
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread)
    again = await client.threads.create(thread_id=thread, if_exists="do_nothing")
    assert again["thread_id"] == thread
    changed = await client.threads.update(thread, metadata={"more": 1})
    assert changed["metadata"] == {"topic": "x", "graph_id": "agent", "more": 1}
    await client.runs.wait(thread, "agent", input={"said": ["one"]})
    found = await client.threads.search(metadata={"topic": "x"}, status="idle")
    assert [t["thread_id"] for t in found] == [thread]
    assert found[0]["values"]["said"][0] == "one"
    assert await client.threads.count(metadata={"topic": "x"}) == 1
    assert await client.threads.count(metadata={"topic": "y"}) == 0
    server.tank.flush()
    assert len(await client.threads.search(values={"said": ["one"]})) == 1
    assert await client.threads.search(values={"said": ["nobody"]}) == []
    await client.threads.copy(thread)
    assert await client.threads.count(metadata={"topic": "x"}) == 2
    selected = await client.threads.search(
        ids=[thread], select=["status"], extract={"n": "values.said[0]"}
    )
    assert selected == [{"thread_id": thread, "status": "idle", "extracted": {"n": "one"}}]
    await client.threads.delete(thread)
    with pytest.raises(NotFoundError):
        await client.threads.get(thread)
    async with client_of(server, "bob") as stranger:
        assert await stranger.threads.search() == []


async def test_assistants_are_found_and_drawn(client: Any) -> None:
    found = await client.assistants.search()
    assert [a["graph_id"] for a in found] == ["agent", "failing"]
    assert await client.assistants.count(graph_id="agent") == 1
    assert await client.assistants.search(metadata={"created_by": "nobody"}) == []
    one = await client.assistants.get("agent")
    assert one == found[0] == await client.assistants.get(one["assistant_id"])
    drawn = await client.assistants.get_graph("agent", xray=True)
    assert {"first", "talk", "ask"} <= {node["id"] for node in drawn["nodes"]}
    schemas = await client.assistants.get_schemas("agent")
    assert "said" in schemas["input_schema"]["properties"]
    assert list(await client.assistants.get_subgraphs("agent", recurse=True)) == ["inner"]
    with pytest.raises(NotFoundError):
        await client.assistants.get(str(uuid.uuid4()))


async def test_states_are_read_written_and_forked(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "agent", input={"said": ["one"]})
    state = await client.threads.get_state(thread)
    assert (state["values"]["said"][0], state["next"]) == ("one", [])
    history = await client.threads.get_history(thread, limit=50)
    assert len(history) > 4
    assert history[0]["checkpoint"] == state["checkpoint"]
    assert history[0]["parent_checkpoint"] == history[1]["checkpoint"]
    before = next(s for s in history if s["next"] == ["talk"])
    at = await client.threads.get_state(thread, checkpoint_id=before["checkpoint"]["checkpoint_id"])
    assert at["values"] == before["values"]
    written = await client.threads.update_state(thread, {"said": ["by hand"]}, as_node="inner")
    assert written["checkpoint"]["checkpoint_id"]
    assert (await client.threads.get_state(thread))["next"] == ["talk"]
    replayed = await client.runs.wait(
        thread, "agent", checkpoint_id=before["checkpoint"]["checkpoint_id"], input=None
    )
    assert isinstance(replayed, dict)
    assert "by hand" not in replayed["said"]
    with pytest.raises(UnprocessableEntityError):
        await client.threads.update_state(thread, {"said": ["x"]}, as_node="nobody")


async def test_every_mode_is_streamed(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    modes: Any = [
        "values", "updates", "custom", "debug", "tasks", "checkpoints", "messages", "messages-tuple",
    ]  # fmt: skip
    found = await streamed(client, thread, stream_mode=modes, stream_subgraphs=True)
    seen = set(names(found))
    assert {
        "metadata", "values", "updates", "debug", "tasks", "checkpoints", "messages", "end",
        "messages/metadata", "messages/partial", "messages/complete",
    } <= seen  # fmt: skip
    assert any(name.startswith("custom|inner:") for name in seen)
    assert any(name.startswith("updates|inner:") for name in seen)
    assert names(found)[0] == "metadata"
    assert names(found)[-1] == "end"
    assert [int(e.id) for e in found] == sorted({int(e.id) for e in found})
    partial = [e.data[0]["content"] for e in found if e.event == "messages/partial"]
    assert partial[-1] == "hello there"
    assert partial == sorted(partial, key=len)
    events = await streamed(client, thread, stream_mode=["events"])
    kinds = {e.data["event"] for e in events if e.event == "events"}
    assert {"on_chain_start", "on_chat_model_stream", "on_chain_end"} <= kinds
    with pytest.raises(UnprocessableEntityError):
        await streamed(client, thread, stream_mode="nothing")


async def test_a_reader_goes_on_where_it_was_and_finds_all_of_an_ended_run(
    client: Any, server: Server
) -> None:
    thread = (await client.threads.create())["thread_id"]
    whole = await streamed(client, thread, stream_mode=["values", "updates"])
    run = whole[0].data["run_id"]

    async def joined(last: str | None, **more: Any) -> list[Any]:
        return [e async for e in client.runs.join_stream(thread, run, last_event_id=last, **more)]

    assert await joined("0") == whole
    assert await joined("-1") == whole
    assert await joined(whole[2].id) == whole[3:]
    assert names(await joined(None)) == ["end"]
    assert set(names(await joined("0", stream_mode="values"))) == {"metadata", "values", "end"}
    server.tank.runs.streams.forget_run(run)
    gone = await joined("0")
    assert names(gone) == ["gap", "end"]


async def test_what_people_are_asked_is_shown_and_answered(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    question = {"question": "really?"}
    found = await streamed(
        client, thread, input={"ask": question}, stream_mode=["values", "updates"]
    )
    asked = [e for e in found if isinstance(e.data, dict) and "__interrupt__" in e.data]
    assert {e.event for e in asked} == {"values", "updates"}
    assert asked[0].data["__interrupt__"][0]["value"] == question
    row = await client.threads.get(thread)
    ((_, interrupts),) = row["interrupts"].items()
    assert (row["status"], interrupts[0]["value"]) == ("interrupted", question)
    (run,) = await client.runs.list(thread)
    assert run["status"] == "success"
    waited = await client.runs.wait(thread, "agent", command={"resume": "yes"})
    assert isinstance(waited, dict)
    assert waited["said"][-1] == "yes"
    assert (await client.threads.get(thread))["status"] == "idle"
    with pytest.raises(ConflictError):
        await client.runs.create(thread, "agent", command={"resume": "again"})
    waiting = await client.runs.wait(thread, "agent", input={"ask": "more?"})
    assert isinstance(waiting, dict)
    assert waiting["__interrupt__"][0]["value"] == "more?"
    # as agent-inbox ignores a question
    await client.threads.update_state(thread, None, as_node="__end__")
    assert (await client.threads.get(thread))["status"] == "idle"


async def test_runs_are_listed_joined_and_deleted_and_their_failures_said(
    client: Any,
) -> None:
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "agent", input={"said": []}, metadata={"k": "v"})
    assert (run["status"], run["metadata"]) == ("pending", {"k": "v"})
    joined = await client.runs.join(thread, run["run_id"])
    assert "inner" in dict(joined)["said"]
    assert (await client.runs.get(thread, run["run_id"]))["status"] == "success"
    failed = await client.runs.wait(thread, "failing", input={}, raise_error=False)
    assert failed == {"__error__": {"error": "ValueError", "message": "the plan is broken"}}
    listed = await client.runs.list(thread)
    assert [r["status"] for r in listed] == ["error", "success"]
    assert [r["status"] for r in await client.runs.list(thread, status="error")] == ["error"]
    assert (await client.threads.get(thread))["status"] == "error"
    await client.runs.delete(thread, run["run_id"])
    with pytest.raises(NotFoundError):
        await client.runs.get(thread, run["run_id"])
    with pytest.raises(UnprocessableEntityError):
        await client.runs.create(thread, "nobody", input={})
    with pytest.raises(NotFoundError):
        await client.runs.create(str(uuid.uuid4()), "agent", input={})
    made = await client.runs.create(str(uuid.uuid4()), "agent", input={}, if_not_exists="create")
    assert made["thread_id"]


@asynccontextmanager
async def under_way(client: Any, **more: Any) -> AsyncIterator[tuple[str, str]]:
    """A thread with a run that would take a minute."""
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "agent", input={"seconds": 60}, **more)
    async with asyncio.timeout(20):
        while (await client.runs.get(thread, run["run_id"]))["status"] != "running":  # noqa: ASYNC110 - it is on the server
            await asyncio.sleep(0.02)
    yield thread, run["run_id"]


async def test_a_run_is_cancelled_and_what_waits_for_it_is_told(client: Any) -> None:
    async with under_way(client) as (thread, run):
        waiting = asyncio.create_task(client.runs.join(thread, run))
        await client.runs.cancel(thread, run, wait=True)
        await waiting
        assert (await client.runs.get(thread, run))["status"] == "interrupted"
        with pytest.raises(NotFoundError):
            await client.runs.cancel(thread, run)
    async with under_way(client) as (thread, run):
        await client.runs.cancel(thread, run, wait=True, action="rollback")
        with pytest.raises(NotFoundError):
            await client.runs.get(thread, run)
        assert (await client.threads.get_state(thread))["values"] in (
            {},
            {"said": [], "messages": []},
        )
        assert (await client.threads.get(thread))["status"] == "idle"


@pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
async def test_a_second_run_of_a_thread(client: Any, strategy: Any) -> None:
    async with under_way(client) as (thread, run):
        second = {"input": {"said": ["second"], "seconds": 0}, "multitask_strategy": strategy}
        if strategy == "reject":
            with pytest.raises(ConflictError):
                await client.runs.create(thread, "agent", **second)
        elif strategy == "enqueue":
            other = await client.runs.create(thread, "agent", **second)
            assert other["status"] == "pending"
            assert (await client.runs.get(thread, run))["status"] == "running"
        else:
            values = await client.runs.wait(thread, "agent", **second)
            assert isinstance(values, dict)
            assert values["said"][0] == "second"
            kept = [r["run_id"] for r in await client.runs.list(thread)]
            assert (run in kept) is (strategy == "interrupt")
        for left in await client.runs.list(thread):
            if left["status"] in ("pending", "running"):
                await client.runs.cancel(thread, left["run_id"], wait=left["status"] == "running")


async def test_runs_without_a_thread_leave_no_state(client: Any, server: Server) -> None:
    values = await client.runs.wait(None, "agent", input={"said": ["alone"]})
    assert isinstance(values, dict)
    assert values["said"][0] == "alone"
    events = await streamed(client, None)
    assert names(events)[-1] == "end"
    batch = await client.runs.create_batch([{"assistant_id": "agent", "input": {}}] * 3)
    for run in batch:
        await client.runs.join(run["thread_id"], run["run_id"])
        with server.tank.parts.database.reading() as connection:
            (left,) = connection.execute(
                "SELECT count(*) FROM surgetank.checkpoints c JOIN surgetank.checkpoint_namespaces n"
                " USING (ns_pk) WHERE n.thread_id = %s", (run["thread_id"],),
            ).fetchone() or (None,)  # fmt: skip
        assert left == 0
    assert await client.threads.search() == []


async def test_a_client_that_goes_away_cancels_its_run_if_it_says_so(
    client: Any, server: Server
) -> None:
    thread = (await client.threads.create())["thread_id"]
    body = {"assistant_id": "agent", "input": {"seconds": 60}, "on_disconnect": "cancel"}
    headers = {"x-api-key": server.token("user", "ada")}
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers) as http,
        http.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer,
    ):
        run = answer.headers["content-location"].rsplit("/", 1)[1]
        async for line in answer.aiter_lines():
            if line.startswith("data"):
                break
    async with asyncio.timeout(20):
        while (await client.runs.get(thread, run))["status"] != "interrupted":  # noqa: ASYNC110 - it is on the server
            await asyncio.sleep(0.02)


async def test_a_streamed_run_is_started_once_for_its_key_and_comes_as_it_happens(
    client: Any, server: Server
) -> None:
    thread = (await client.threads.create())["thread_id"]
    body = {"assistant_id": "agent", "input": {"seconds": 60}}
    headers = {"x-api-key": server.token("user", "ada"), "Idempotency-Key": "k"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        path = f"/threads/{thread}/runs/stream"
        async with http.stream("POST", path, json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data"):  # while the run is under way
                    break
        run = answer.headers["content-location"]
        again = await http.post(path, json=body)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json()["run"] == run
        assert f"{run}/stream" in again.json()["remedy"]
        assert len(await client.runs.list(thread)) == 1
        await client.runs.cancel(thread, run.rsplit("/", 1)[1], wait=True)
        # who goes away while a run is waited for finds it again
        waits = {"Idempotency-Key": "k3"}
        path = f"/threads/{thread}/runs/wait"
        with pytest.raises(httpx.ReadTimeout):
            await http.post(path, json=body, headers=waits, timeout=httpx.Timeout(20, read=1))
        again = await http.post(path, json=body, headers=waits)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        assert f"{again.json()['run']}/join" in again.json()["remedy"]
        assert len(await client.runs.list(thread)) == 2
        await client.runs.cancel(thread, again.json()["run"].rsplit("/", 1)[1], wait=True)
        # a stream that starts nothing is no answer to keep
        other = {"Idempotency-Key": "k2"}
        for _ in range(2):
            events = {"channels": ["lifecycle"]}
            path = f"/threads/{thread}/stream/events"
            async with http.stream("POST", path, json=events, headers=other) as answer:
                assert (answer.status_code, answer.headers["content-type"]) == (
                    200, "text/event-stream; charset=utf-8",
                )  # fmt: skip


async def test_a_remote_graph_works_as_a_local_one(client: Any) -> None:
    graph = RemoteGraph("agent", client=client)
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
    await client.threads.create(thread_id=config["configurable"]["thread_id"])
    values = await graph.ainvoke({"said": ["remote"]}, config)
    assert values["said"][0] == "remote"
    state = await graph.aget_state(config)
    assert state.values["said"][0] == "remote"
    assert [s async for s in graph.aget_state_history(config, limit=2)]
