"""The event streaming protocol (v2), driven by LangGraph's own client against a real server with a
worker."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from langgraph_sdk import get_client
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

GRAPH = """
from typing import Annotated, TypedDict
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

class State(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    said: str

def speak(state):
    model = GenericFakeChatModel(messages=iter([AIMessage("ah well then", id="m1")]))
    get_stream_writer()({"name": "progress", "done": 1})
    return {"messages": [model.invoke("x")]}

def ask(state):
    return {"said": interrupt({"sure": True})}

def fail(state):
    raise ValueError("no luck")

def of(node):
    builder = StateGraph(State)
    builder.add_node("n", node)
    builder.add_edge(START, "n")
    builder.add_edge("n", END)
    return builder

chat, asks, fails = of(speak), of(ask), of(fail)
parent = StateGraph(State)
parent.add_node("child", of(ask).compile())
parent.add_edge(START, "child")
parent.add_edge("child", END)
"""
NAMES = {name: f"./a.py:{name}" for name in ("chat", "asks", "fails", "parent")}


@pytest.fixture
def agents(make_tank, project: MakeProject) -> Iterator[Server]:
    """A server with graphs, and a worker for them."""
    tank = make_tank(admin_token=ADMIN_TOKEN)
    graphs = GraphSet(load(project({"a.py": GRAPH}, NAMES)), checkpointer=tank.checkpointer())
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    worker = tank.runs.worker(graphs)
    thread = threading.Thread(target=loop.run_until_complete, args=(worker.work(stop),))
    thread.start()
    try:
        with running(tank, graphs=graphs) as started:
            yield started
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@asynccontextmanager
async def talking(
    server: Server, assistant: str, thread_id: str | None = None, **more: Any
) -> AsyncIterator[Any]:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with (
        asyncio.timeout(20),
        get_client(url=server.url, headers=headers) as client,
        client.threads.stream(thread_id, assistant_id=assistant, headers=headers, **more) as thread,
    ):
        yield thread


TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])


@TRANSPORTS
async def test_a_run_is_started_followed_and_its_values_are_had(agents, transport):
    async with talking(agents, "chat", transport=transport) as thread:
        started = await thread.run.start(input={"messages": []})
        messages = [message async for message in thread.messages]
        texts = [await message.text for message in messages]
        values = await thread.output
        run = agents.tank.runs.get(UUID(started["run_id"]))
    assert texts == ["ah well then"]
    assert values["messages"][-1]["content"] == "ah well then"
    assert run.thread_id == thread.thread_id


@TRANSPORTS
async def test_a_question_is_answered_and_the_graph_ends(agents, transport):
    async with talking(agents, "asks", transport=transport) as thread:
        await thread.run.start(input={"messages": []})
        async for _ in thread.values:
            pass  # ends when it asks
        assert [each["value"] for each in thread.interrupts] == [{"sure": True}]
        await thread.run.respond("yes")
        assert (await thread.output)["said"] == "yes"
    (row,) = agents.tank.approvals(thread_id=thread.thread_id)
    assert row.status == "responded"


async def test_a_question_of_a_graph_in_a_graph_is_answered(agents):
    async with talking(agents, "parent") as thread:
        await thread.run.start(input={"messages": []})
        async for _ in thread.values:
            pass
        await thread.run.respond("deep")
        assert (await thread.output)["said"] == "deep"


async def test_who_comes_back_to_a_thread_that_asks_is_asked(agents):
    async with talking(agents, "asks") as first:
        await first.run.start(input={"messages": []})
        async for _ in first.values:
            pass
    async with talking(agents, "asks", first.thread_id) as thread:
        while not thread.interrupts:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.01)
        await thread.run.respond("again")
        assert (await thread.output)["said"] == "again"


async def test_a_second_turn_is_not_ended_by_the_end_of_the_first(agents):
    async with talking(agents, "chat") as first:
        await first.run.start(input={"messages": []})
        await first.output
    async with talking(agents, "asks", first.thread_id) as second:
        await second.run.start(input={"messages": []})
        async for _ in second.values:
            pass
        await second.run.respond("two")
        assert (await second.output)["said"] == "two"


async def test_a_run_that_fails_says_why(agents):
    async with talking(agents, "fails") as thread:
        await thread.run.start(input={"messages": []})
        with pytest.raises(RuntimeError, match="no luck"):
            await thread.output


def post(server: Server, thread: str, method: str, **params: Any) -> dict[str, Any]:
    answer = server.admin.post(
        f"/threads/{thread}/commands", json={"id": 7, "method": method, "params": params}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(server: Server, thread: str, last: str, **body: Any) -> list[dict[str, Any]]:
    """Events up to one of this lifecycle."""
    found = []
    channels: dict[str, Any] = {"channels": [
        "values", "updates", "messages", "lifecycle", "input", "checkpoints", "tasks", "custom",
    ]}  # fmt: skip
    url = f"/threads/{thread}/stream/events"
    with server.admin.stream("POST", url, json=channels | body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                params = found[-1]["params"]
                is_root = found[-1]["method"] == "lifecycle" and not params["namespace"]
                if is_root and params["data"]["event"] == last:
                    return found
    raise AssertionError("it ended")


def test_a_break_anywhere_loses_and_repeats_nothing(agents):
    post(agents, "t", "run.start", assistant_id="chat", input={"messages": []})
    whole = events(agents, "t", "completed")
    assert {"values", "updates", "messages", "checkpoints", "tasks", "custom"} <= {
        e["method"] for e in whole
    }
    assert len({e["event_id"] for e in whole}) == len(whole)
    for at in range(len(whole) - 1):
        assert events(agents, "t", "completed", since=whole[at]["seq"]) == whole[at + 1 :]


def test_who_comes_back_to_another_log_is_told_and_goes_on(agents):
    post(agents, "t", "run.start", assistant_id="chat", input={"messages": []})
    events(agents, "t", "completed")
    later: dict[str, Any] = {"assistant_id": "chat", "input": {}, "after_seconds": 1}
    post(agents, "t", "run.start", **later)
    gap, *found = events(agents, "t", "completed", since=2**52)
    assert gap["method"] == "gap"
    assert found[0]["params"]["data"]["event"] == "running"


def test_only_named_channels_and_namespaces_are_sent(agents):
    post(agents, "t", "run.start", assistant_id="parent", input={"messages": []})
    found = events(agents, "t", "interrupted", channels=["lifecycle", "custom:progress"])
    assert {e["method"] for e in found} == {"lifecycle"}
    deep = events(agents, "t", "interrupted")
    (child,) = {tuple(e["params"]["namespace"]) for e in deep} - {()}
    assert child[0].startswith("child:")
    flat = events(agents, "t", "interrupted", namespaces=[[]], depth=0)
    assert flat == [e for e in deep if not e["params"]["namespace"]]


def test_commands_that_can_t_be_done_are_errors_of_the_protocol(agents):
    post(agents, "t", "run.start", assistant_id="asks", input={"messages": []})
    asked = next(e for e in events(agents, "t", "interrupted") if e["method"] == "input.requested")
    id_ = asked["params"]["data"]["interrupt_id"]
    assert post(agents, "t", "state.get")["error"] == "unknown_command"
    assert post(agents, "t", "run.start")["error"] == "invalid_argument"
    assert post(agents, "t", "run.start", assistant_id="nope")["error"] == "invalid_argument"
    unknown = post(agents, "t", "input.respond", interrupt_id="0" * 32, response=1, namespace=[])
    assert unknown["error"] == "no_such_interrupt"
    assert post(agents, "t", "input.respond", responses=[])["error"] == "invalid_argument"
    assert post(agents, "t", "agent.getTree")["result"]["tree"]["status"] == "interrupted"
    given: dict[str, Any] = {"responses": [{"interrupt_id": id_, "response": "y", "namespace": []}]}
    assert post(agents, "t", "input.respond", **given)["type"] == "success"
    events(agents, "t", "completed")
    assert post(agents, "t", "input.respond", **given)["error"] == "no_such_interrupt"


def test_strangers_start_and_see_nothing_on_a_thread(agents):
    post(agents, "t", "run.start", assistant_id="chat", input={"messages": []})
    events(agents, "t", "completed")
    mallory = agents.as_role("user", "mallory")
    for method in ("run.start", "input.respond", "agent.getTree", "nonsense"):
        body = {"id": 1, "method": method, "params": {"assistant_id": "chat"}}
        assert mallory.post("/threads/t/commands", json=body).status_code == 404
    wanted = {"channels": ["values"]}
    assert mallory.post("/threads/t/stream/events", json=wanted).status_code == 404
    assert len(agents.tank.runs.of_thread("t")) == 1


def test_a_run_that_ends_without_a_word_ends_for_who_follows(agents):
    """It is cancelled before any worker had it."""
    later: dict[str, Any] = {"assistant_id": "chat", "input": {}, "after_seconds": 3600}
    run_id = post(agents, "t", "run.start", **later)["result"]["run_id"]
    assert agents.admin.post(f"/threads/t/runs/{run_id}/cancel").status_code == 200
    (end,) = events(agents, "t", "failed", since=999)  # what `run.start` had said
    assert end["params"]["data"]["error"] == "The run was cancelled."


def test_a_socket_takes_commands_and_refuses_nonsense(agents):
    post(agents, "t", "run.start", assistant_id="chat", input={"messages": []})
    events(agents, "t", "completed")
    url = agents.url.replace("http", "ws", 1) + "/threads/t/stream/events"
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with connect(url, additional_headers=headers) as socket:

        def say(text: str | bytes) -> dict[str, Any]:
            socket.send(text)
            return json.loads(socket.recv(timeout=30))

        for nonsense in ("", "{", "[]", '{"id": -1, "method": "x"}', b"\xff", "1" * 5000):
            assert say(nonsense)["error"] == "invalid_argument"
        wrong = {"id": 1, "method": "subscription.subscribe", "params": {"channels": ["nope"]}}
        assert say(json.dumps(wrong))["error"] == "invalid_argument"
        gone = {"id": 2, "method": "subscription.unsubscribe", "params": {"subscription_id": "x"}}
        assert say(json.dumps(gone))["error"] == "no_such_subscription"
        tree = say(json.dumps({"id": 3, "method": "agent.getTree"}))
        assert tree["result"]["tree"]["status"] == "completed"


async def test_all_runs_of_a_thread_are_followed_in_one_stream(agents):
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with asyncio.timeout(20), get_client(url=agents.url, headers=headers) as client:
        thread = (await client.threads.create())["thread_id"]
        for _ in range(2):
            await client.runs.wait(thread, "chat", input={"messages": []})
        ends = 0
        async for part in await client.threads.join_stream(thread, last_event_id="0"):
            ends += part.event == "end"
            if ends == 2:
                return
