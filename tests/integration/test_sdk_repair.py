"""By the official client: a thread that an answer has stuck is repaired by an administrator and takes runs
again; a run that could not say how it ended has an end all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError, NotFoundError, PermissionDeniedError

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.sdk import client_for
from support.tanks import MakeTank
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

PROJECT = """
import operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

def ask(state):
    if (given := interrupt("a number?")) != 1:
        raise ValueError(f"no number: {given}")
    return {"said": [given]}

agent = StateGraph(State).add_node(ask).add_edge(START, "ask")
"""


@pytest.fixture
def server(make_tank: MakeTank, project: MakeProject) -> Iterator[Server]:
    """Nobody works on runs, unless `works` is asked for."""
    tank = make_tank(admin_token=ADMIN_TOKEN)
    config = load(project({"p.py": PROJECT}, {"agent": "./p.py:agent"}))
    graphs = GraphSet(config, checkpointer=tank.checkpointer())
    with running(tank, graphs=graphs) as started:
        yield started


@pytest.fixture
def works(server: Server) -> Iterator[None]:
    assert server.services.graphs is not None
    worker = server.tank.runs.service(server.services.graphs)
    worker.start()
    yield
    assert worker.stop(20.0)


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Any]:
    client = client_for(server)
    yield client
    await client.aclose()


@pytest.mark.usefixtures("works")
async def test_a_thread_that_an_answer_has_stuck_is_repaired(server: Server, admin: Any) -> None:
    ada, eve = (client_for(server, server.token("user", user)) for user in ("ada", "eve"))
    thread = (await ada.threads.create())["thread_id"]
    repair = f"/threads/{thread}/repair"
    asked = await ada.runs.wait(thread, "agent", input={"said": []})
    assert asked["__interrupt__"][0]["value"] == "a number?"
    await ada.runs.wait(thread, "agent", command={"resume": "x"}, raise_error=False)
    assert (await ada.threads.get(thread))["status"] == "error"
    again = await ada.runs.wait(thread, "agent", input=None, raise_error=False)
    assert "no number: x" in again["__error__"]["message"], "each next try fails too"

    for who in (ada, eve):
        with pytest.raises(PermissionDeniedError):
            await who.http.post(repair, json={"dry_run": False})
    with pytest.raises(NotFoundError):
        await admin.http.post("/threads/nobody/repair", json={"dry_run": False})
    seen = await admin.http.post(repair, json={})
    assert ([f["kind"] for f in seen["findings"]], seen["done"]) == (["answer_refused"], False)
    done = await admin.http.post(repair, json={"dry_run": False})
    assert (done["status"], done["done"]) == ("idle", True)
    twice = await admin.http.post(repair, json={"dry_run": False})
    assert (twice["findings"], twice["done"]) == ([], False)

    asked = await ada.runs.wait(thread, "agent", input=None)
    assert asked["__interrupt__"][0]["value"] == "a number?"
    running_now = await ada.runs.create(thread, "agent", command={"resume": 1})
    assert (await ada.runs.join(thread, running_now["run_id"]))["said"] == [1]
    lines = [each for each in server.tank.audit.list(limit=1000) if each["thread_id"] == thread]
    assert [each["action"] for each in lines].count("thread_repaired") == 1
    for client in (ada, eve):
        await client.aclose()


async def test_what_a_thread_asks_is_not_given_up_under_a_run(admin: Any) -> None:
    thread = (await admin.threads.create())["thread_id"]
    await admin.runs.create(thread, "agent", input={"said": []})
    with pytest.raises(ConflictError):
        await admin.http.post(f"/threads/{thread}/repair", json={"dry_run": False, "forget": True})


async def test_the_end_of_a_run_that_did_not_say_it_has_no_number_of_another_event(
    server: Server, admin: Any
) -> None:
    thread = (await admin.threads.create())["thread_id"]
    run = (await admin.runs.create(thread, "agent", input={"said": []}))["run_id"]
    await admin.runs.cancel(thread, run)
    with server.admin as http:
        answer = http.get(f"/threads/{thread}/runs/{run}/stream", headers={"Last-Event-ID": "-1"})
    lines = answer.text.splitlines()
    assert "event: end" in lines
    assert not [line for line in lines if line.startswith("id: ")]
