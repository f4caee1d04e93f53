"""Assistants that clients make, with LangGraph's own client on a server of ours."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.sdk import client_for
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.workflows.assistants import AssistantFilter
from surgetank.workflows.crons import CronFilter, NewCron
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

PROJECT = """
from typing import Any, TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

class State(TypedDict, total=False):
    seen: Any

class Context(TypedDict, total=False):
    tone: str
    length: int

def see(state, config: RunnableConfig, runtime: Runtime[Context]):
    return {"seen": {"model": config["configurable"].get("model"), "context": dict(runtime.context or {}),
                     "assistant": config["configurable"].get("assistant_id")}}

graph = StateGraph(State, context_schema=Context).add_node("see", see).add_edge(START, "see")
"""


@pytest.fixture
def tank(make_tank: MakeTank) -> Surgetank:
    return make_tank(admin_token=ADMIN_TOKEN)


@pytest.fixture
def server(tank: Surgetank, project: MakeProject) -> Any:
    config = load(project({"p.py": PROJECT}, {"agent": "./p.py:graph"}))
    graphs = GraphSet(config, checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    worker.start()
    with running(tank, graphs=graphs) as started:
        yield started
        assert worker.stop(20.0)


@asynccontextmanager
async def client_of(server: Server, token: str = ADMIN_TOKEN) -> AsyncIterator[Any]:
    client = client_for(server, token)
    try:
        yield client
    finally:
        await client.aclose()


async def test_an_assistant_is_made_changed_and_set_back(server: Server, tank: Surgetank) -> None:
    async with client_of(server) as client:
        made = await client.assistants.create(
            "agent", {"configurable": {"model": "small"}}, context={"tone": "dry"},
            metadata={"team": "a"}, name="Clerk", description="files",
        )  # fmt: skip
        id_ = made["assistant_id"]
        assert (made["version"], made["name"], made["graph_id"]) == (1, "Clerk", "agent")
        assert await client.assistants.get(id_) == made
        changed = await client.assistants.update(
            id_, config={"configurable": {"model": "large"}}, metadata={"more": 1}
        )
        assert (changed["version"], changed["context"]) == (2, {"tone": "dry"})
        assert changed["metadata"] == {"team": "a", "more": 1}
        versions = await client.assistants.get_versions(id_)
        assert [each["version"] for each in versions] == [2, 1]
        back = await client.assistants.set_latest(id_, 1)
        assert (back["version"], back["config"]) == (1, made["config"])
        assert (await client.assistants.update(id_, name="Scribe"))["version"] == 3
        assert await client.assistants.count(metadata={"team": "a"}) == 1
        found = await client.assistants.search(graph_id="agent", sort_by="name")
        assert [each["name"] for each in found] == ["Scribe", "agent"]
        page = await client.assistants.search(limit=1, response_format="object")
        assert (len(page["assistants"]), page["next"]) == (1, "1")
        with pytest.raises(NotFoundError):
            await client.assistants.set_latest(id_, 9)
        await client.assistants.delete(id_)
        with pytest.raises(NotFoundError):
            await client.assistants.get(id_)
    actions = [row["action"] for row in tank.audit.list(limit=100)]
    for action in (
        "assistant_created",
        "assistant_changed",
        "assistant_version_used",
        "assistant_deleted",
    ):
        assert action in actions


async def test_runs_are_given_what_their_assistant_has_under_what_they_bring(
    server: Server,
) -> None:
    async with client_of(server) as client:
        made = await client.assistants.create(
            "agent", {"configurable": {"model": "small"}}, context={"tone": "dry", "length": 1}
        )
        id_ = made["assistant_id"]
        seen = (await client.runs.wait(None, id_, input={}))["seen"]
        assert seen == {"model": "small", "context": {"tone": "dry", "length": 1}, "assistant": id_}
        thread = await client.threads.create()
        values = await client.runs.wait(
            thread["thread_id"], id_, input={}, context={"length": 2},
            config={"configurable": {"model": "huge"}},
        )  # fmt: skip
        assert values["seen"]["model"] == "huge"
        assert values["seen"]["context"] == {"tone": "dry", "length": 2}
        assert (await client.threads.get(thread["thread_id"]))["metadata"]["assistant_id"] == id_
        await client.assistants.delete(id_, delete_threads=True)
        with pytest.raises(NotFoundError):
            await client.threads.get(thread["thread_id"])
        with pytest.raises(UnprocessableEntityError):
            await client.runs.create(None, id_, input={})


async def test_what_is_taken_or_comes_with_a_graph_is_refused(server: Server) -> None:
    async with client_of(server) as client:
        id_ = str(uuid.uuid4())
        made = await client.assistants.create("agent", assistant_id=id_)
        with pytest.raises(ConflictError):
            await client.assistants.create("agent", assistant_id=id_)
        again = await client.assistants.create("agent", assistant_id=id_, if_exists="do_nothing")
        assert again == made
        (default,) = await client.assistants.search(metadata={"created_by": "system"})
        for refused in (
            client.assistants.update(default["assistant_id"], name="mine"),
            client.assistants.delete("agent"),
            client.assistants.create("agent", assistant_id=default["assistant_id"]),
        ):
            with pytest.raises(ConflictError):
                await refused
        assert len(await client.assistants.get_versions("agent")) == 1
        with pytest.raises(NotFoundError):
            await client.assistants.create("no such graph")


async def test_a_stranger_s_assistant_and_cron_are_not_there(
    server: Server, tank: Surgetank
) -> None:
    async with (
        client_of(server, server.token("reviewer", "ada")) as ada,
        client_of(server, server.token("reviewer", "bob")) as bob,
    ):
        id_ = (await ada.assistants.create("agent"))["assistant_id"]
        cron = (await ada.crons.create(id_, schedule="0 8 * * *"))["cron_id"]
        for refused in (
            bob.assistants.get(id_), bob.assistants.update(id_, name="x"), bob.assistants.delete(id_),
            bob.assistants.get_versions(id_), bob.assistants.set_latest(id_, 1),
            bob.crons.delete(cron), bob.crons.update(cron, enabled=False),
        ):  # fmt: skip
            with pytest.raises(NotFoundError):
                await refused
        with pytest.raises(UnprocessableEntityError):
            await bob.runs.create(None, id_)
        assert [a["graph_id"] for a in await bob.assistants.search()] == ["agent"]
        assert (await bob.crons.search(), await bob.crons.count()) == ([], 0)
        with pytest.raises(ConflictError):
            await bob.assistants.create("agent", assistant_id=id_, if_exists="do_nothing")
        assert len(await ada.assistants.search()) == 2


async def test_a_cron_runs_its_assistant_at_its_time(
    server: Server, tank: Surgetank, database_url: str
) -> None:
    async with client_of(server) as client:
        thread = (await client.threads.create())["thread_id"]
        cron = await client.crons.create_for_thread(
            thread, "agent", schedule="0 8 * * *", input={}, timezone="Europe/Berlin",
            metadata={"k": "v"}, end_time=datetime.now(UTC) + timedelta(days=400),
        )  # fmt: skip
        assert (cron["thread_id"], cron["enabled"], cron["timezone"]) == (
            thread,
            True,
            "Europe/Berlin",
        )
        assert cron["payload"] == {"input": {}}
        (found,) = await client.crons.search(thread_id=thread)
        assert found == cron
        assert await client.crons.count(metadata={"k": "v"}) == 1
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE surgetank.crons SET next_run_date = now()")
        async with asyncio.timeout(30):
            while not (await client.threads.get(thread))["values"]:  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(0.1)
        off = await client.crons.update(cron["cron_id"], enabled=False, end_time=None)
        assert (off["enabled"], off["next_run_date"], off["end_time"]) == (False, None, None)
        with pytest.raises(UnprocessableEntityError):
            await client.crons.create("agent", schedule="every day")
        await client.crons.delete(cron["cron_id"])
        with pytest.raises(NotFoundError):
            await client.crons.delete(cron["cron_id"])


def test_an_erased_user_s_assistants_and_crons_go(tank: Surgetank) -> None:
    made = tank.assistants.create("agent", owner="ada", actor="ada", name="Ada's clerk")
    tank.assistants.change(made.assistant_id, actor="ada", context={"who": "ada"})
    kept = tank.assistants.create("agent", owner="bob", actor="bob")
    new = NewCron(
        assistant_id="agent",
        graph_id="agent",
        schedule="0 8 * * *",
        owner="ada",
        metadata={},
        payload={},
    )
    tank.crons.create(new, actor="ada")
    tank.erase_user("ada")
    assert tank.assistants.search(AssistantFilter()) == [kept]
    assert tank.crons.count(CronFilter()) == 0
