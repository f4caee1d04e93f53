"""Who would go round the handlers of a project (`auth.path`): with a body that they don't see, by a
way beside the one that is watched; and handlers that would take the server with them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet
from surgetank.workflows.runs import NewRun

GRAPH = """
from typing import Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    ask: bool
    seen: Any

def ask(state):
    return {"seen": interrupt("well?")} if state.get("ask") else {"seen": 1}

agent = StateGraph(State)
agent.add_node("ask", ask)
agent.add_edge(START, "ask")
"""
# ada and bob are of one org each; `frozen` threads are for reading; secrets may not be written
AUTH = """
import asyncio, sys, time
from langgraph_sdk import Auth

auth = Auth()
ORG = {"ada": "a", "bob": "b", "op": "a"}

@auth.authenticate
def authenticate(authorization: str | None):
    name = (authorization or "").removeprefix("Bearer ")
    if name == "exit":
        sys.exit(3)
    if name == "stuck":
        time.sleep(4)
    if name not in ORG:
        raise Auth.exceptions.HTTPException(status_code=401, detail="Who are you?")
    permissions = ["surgetank:operator"] if name == "op" else []
    return {"identity": name, "org": ORG[name], "key": "k-" + name, "permissions": permissions}

@auth.on.threads
async def own_org(ctx, value):
    assert "secret" not in value.get("metadata", {})
    return {"org": ctx.user.get("org", "none")}

@auth.on.threads.create
async def create(ctx, value):
    assert "secret" not in value["metadata"]
    value["metadata"]["org"] = ctx.user.org
    value.pop("ttl", None)

@auth.on.threads.create_run
async def create_run(ctx, value):
    value["kwargs"].pop("webhook", None)
    value["metadata"]["org"] = ctx.user.org
    if value["kwargs"].get("input") == {"raise": 1}:
        raise asyncio.CancelledError
    if value["kwargs"].get("input") == {"raise": 2}:
        raise KeyboardInterrupt
    if value["kwargs"].get("input") == {"raise": 3}:
        raise SystemExit
    return {"org": ctx.user.org}

@auth.on.threads.delete
async def kept(ctx, value):
    return {"org": ctx.user.org, "deletable": True}

@auth.on.store
async def own_namespace(ctx, value):
    assert value["namespace"] and value["namespace"][0] == ctx.user.identity
"""
RUN = {"assistant_id": "agent", "input": {}}


@pytest.fixture
def server(make_tank: MakeTank, project: MakeProject) -> Any:
    tank = make_tank(admin_token=ADMIN_TOKEN, store_scope="shared")
    files = {"p.py": GRAPH, "own.py": AUTH}
    config = load(project(files, {"agent": "./p.py:agent"}, auth={"path": "./own.py:auth"}))
    graphs = GraphSet(config, checkpointer=tank.checkpointer())
    with running(tank, graphs=graphs) as server:
        worker = tank.runs.service(graphs)
        worker.start()
        try:
            yield server
        finally:
            assert worker.stop(20.0)


def ask(
    server: Server, user: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    headers["Authorization"] = f"Bearer {user}"
    headers.setdefault("Content-Type", "application/json")
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
    answer = httpx.request(method, server.url + path, headers=headers, content=content, timeout=20)
    return answer.status_code, answer.json() if answer.content else None


def made(server: Server, user: str = "ada", **metadata: Any) -> str:
    body = {"metadata": metadata}
    thread: str = ask(server, user, "POST", "/threads", body)[1]["thread_id"]
    return thread


def moved(server: Server, thread: str) -> None:
    """It goes to another org: for its owner it is gone."""
    server.tank.threads.rows.patch(thread, {"org": "z"})


@pytest.mark.parametrize("body", [b"[]", b"[1]", b"null", b"7", b"{", b'"x"'])
def test_a_body_that_nobody_asked_for_hides_no_request_from_the_handlers(
    server: Server, body: bytes
) -> None:
    thread = made(server)
    ask(server, "ada", "POST", f"/threads/{thread}/runs/wait", {**RUN, "input": {"ask": True}})
    (question,) = server.tank.approvals()
    run = server.tank.runs.of_thread(thread)[0].run_id
    moved(server, thread)
    for method, path in (
        ("POST", f"/threads/{thread}/copy"), ("DELETE", f"/threads/{thread}"),
        ("DELETE", f"/threads/{thread}/runs/{run}"), ("POST", f"/threads/{thread}/runs/{run}/cancel"),
        ("POST", f"/workflows/{question.workflow_id}/cancel"),
        ("POST", f"/workflows/{question.workflow_id}/retry"),
    ):  # fmt: skip
        assert ask(server, "ada", method, path, body)[0] in (404, 422), path
    assert server.admin.get(f"/threads/{thread}/runs/{run}").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"metadata": {"secret": 1}, "x": float("nan")}).encode(),
        json.dumps({"metadata": {"secret": 1}}).encode("utf-16"),
        json.dumps({"metadata": {"secret": 1}, "x": "\ud800"}).encode(),
        b'{"metadata": {"secret": 1}, "x": ' + b"[" * 1200 + b"]" * 1200 + b"}",
        b'{"metadata": {}, "metadata": {"secret": 1}}',
    ],
    ids=["nan", "utf-16", "surrogate", "deep", "twice"],
)
def test_what_is_carried_out_is_what_the_handlers_saw(server: Server, body: bytes) -> None:
    thread = made(server)
    assert ask(server, "ada", "PATCH", f"/threads/{thread}", body)[0] in (400, 403, 422)
    assert server.tank.threads.rows.find(thread).metadata == {"org": "a"}  # type: ignore[union-attr]
    assert ask(server, "ada", "POST", "/threads", body)[0] in (400, 403, 422)
    stored = body.replace(b'"metadata"', b'"namespace": ["bob"], "key": "k", "value"')
    assert ask(server, "ada", "PUT", "/store/items", stored)[0] in (400, 403, 422)


@pytest.mark.parametrize("said", ["x", 5, [["org", "a"]], [1], True])
def test_what_is_no_object_is_refused_and_no_bug(server: Server, said: Any) -> None:
    assert ask(server, "ada", "POST", "/threads/search", {"metadata": said})[0] == 422
    item = {"namespace": 5, "key": "k", "value": {}}
    assert ask(server, "ada", "PUT", "/store/items", item)[0] in (403, 422)
    deep = b'{"input": ' + b"[" * 500 + b"]" * 500 + b', "assistant_id": "agent"}'
    assert ask(server, "ada", "POST", "/runs", deep)[0] in (200, 422)
    assert server.admin.get("/admin/system-errors").json()["errors"] == []


def test_what_a_handler_takes_out_is_not_carried_out(server: Server) -> None:
    body = {"ttl": 5, "metadata": {}}
    thread = ask(server, "ada", "POST", "/threads", body)[1]["thread_id"]
    assert server.admin.get(f"/threads/{thread}").json().get("ttl") is None
    run = {**RUN, "webhook": "https://hooks.example.org/x"}
    answer = ask(server, "ada", "POST", f"/threads/{thread}/runs", run)[1]
    assert "webhook" not in answer["kwargs"]


def test_an_assistant_takes_no_thread_with_it_that_may_not_be_deleted(server: Server) -> None:
    assistant = ask(server, "ada", "POST", "/assistants", {"graph_id": "agent"})[1]["assistant_id"]
    kept, gone = made(server), made(server, deletable=True)
    for thread in (kept, gone):
        run = {**RUN, "assistant_id": assistant}
        assert ask(server, "ada", "POST", f"/threads/{thread}/runs/wait", run)[0] == 200
    path = f"/assistants/{assistant}?delete_threads=true"
    assert ask(server, "ada", "DELETE", path)[0] == 204
    rows = server.tank.threads.rows
    assert rows.find(gone) is None
    assert rows.find(kept) is not None


def test_a_thread_that_is_there_is_not_written_to_by_making_it(server: Server) -> None:
    thread = made(server)
    ask(server, "ada", "POST", f"/threads/{thread}/runs/wait", RUN)
    moved(server, thread)
    steps = [{"updates": [{"values": {"seen": 2}, "as_node": "ask"}]}]
    body = {"thread_id": thread, "if_exists": "do_nothing"}
    assert ask(server, "ada", "POST", "/threads", body)[0] == 404
    assert ask(server, "ada", "POST", "/threads", {**body, "supersteps": steps})[0] == 404
    state = server.admin.get(f"/threads/{thread}/state").json()
    assert state["values"]["seen"] == 1


def test_who_shall_answer_is_narrowed_too(server: Server) -> None:
    thread = made(server)
    ask(server, "ada", "POST", f"/threads/{thread}/runs/wait", {**RUN, "input": {"ask": True}})
    (question,) = server.tank.approvals()
    server.tank.approvals.assign(question.checkpoint_id, assignee="bob", role=None, actor="ada")
    path = f"/user-checkpoints/{question.checkpoint_id}"
    assert ask(server, "bob", "GET", path)[0] == 404
    assert ask(server, "bob", "POST", f"{path}/resolve", {"action": "approve"})[0] == 404
    assert ask(server, "bob", "GET", "/user-checkpoints")[1]["user_checkpoints"] == []
    assert ask(server, "ada", "GET", path)[0] == 200
    server.tank.approvals.assign(question.checkpoint_id, assignee="op", role=None, actor="ada")
    assert ask(server, "op", "GET", path)[0] == 200  # of the same org
    assert len(ask(server, "op", "GET", "/user-checkpoints/stats")[1]["steps"]) == 1
    moved(server, thread)
    assert ask(server, "op", "GET", "/user-checkpoints/stats")[1]["steps"] == []


def test_webhooks_of_a_thread_that_the_filter_leaves_out_are_gone(server: Server) -> None:
    thread = made(server)
    run = NewRun(
        thread_id=thread, assistant_id="agent", graph_id="agent", owner="ada",
        kwargs={"input": {}, "webhook": "https://hooks.example.invalid/x"},
    )  # fmt: skip
    server.tank.runs.accept(run, actor="ada")

    def deliveries() -> Any:
        return ask(server, "ada", "GET", "/webhooks/deliveries")[1]["deliveries"]

    wait_until(lambda: bool(deliveries()), "the webhook to be there")
    (there,) = deliveries()
    moved(server, thread)
    assert deliveries() == []
    assert ask(server, "op", "GET", "/webhooks/deliveries")[1]["deliveries"] == []
    retry = f"/webhooks/deliveries/{there['delivery_id']}/retry"
    assert ask(server, "ada", "POST", retry)[0] == 404


def test_what_authenticate_says_is_in_no_cron(server: Server) -> None:
    body = {**RUN, "schedule": "5 5 5 5 5"}
    status, cron = ask(server, "ada", "POST", "/runs/crons", body)
    assert (status, cron["payload"]["input"]) == (200, {})
    changed = ask(server, "ada", "PATCH", f"/runs/crons/{cron['cron_id']}", {"input": {"a": 1}})
    found = ask(server, "ada", "POST", "/runs/crons/search", {})
    assert "k-ada" not in json.dumps([cron, changed, found])
    assert server.tank.crons.get(cron["cron_id"]).payload["__auth_user"]["key"] == "k-ada"


@pytest.mark.parametrize("raised", [1, 2, 3])
def test_a_handler_that_would_end_the_server_lets_nobody_through(
    server: Server, raised: int
) -> None:
    thread = made(server)
    run = {**RUN, "input": {"raise": raised}}
    assert ask(server, "ada", "POST", f"/threads/{thread}/runs", run)[0] == 500
    assert ask(server, "exit", "GET", "/me")[0] == 500
    assert ask(server, "ada", "GET", "/me")[0] == 200


def test_a_handler_that_is_not_async_is_waited_for_so_long_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = server.services.project_auth
    assert project is not None
    monkeypatch.setattr(project, "_timeout_s", 0.2)
    answer = httpx.get(server.url + "/me", headers={"Authorization": "Bearer stuck"}, timeout=20)
    assert answer.status_code == 503
    assert answer.elapsed.total_seconds() < 3
    assert ask(server, "ada", "GET", "/me")[0] == 200
