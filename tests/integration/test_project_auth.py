"""Handlers of a project (`auth.path`): who is let in, what they may do, and what is kept from
others. Driven by LangGraph's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from langgraph_sdk.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.projects import MakeProject
from support.sdk import client_for
from support.tanks import MakeTank
from surgetank.exceptions import ConfigurationError
from surgetank.server.access.authorizing import ASKS, AskedRoute
from surgetank.server.access.handlers import ProjectAuth
from surgetank.server.routes import ROUTERS
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

GRAPH = """
from typing import Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

class State(TypedDict, total=False):
    seen: Any
    ask: bool

def see(state, config):
    own = config["configurable"]
    user = own.get("langgraph_auth_user")
    server = get_runtime().server_info
    return {"seen": {
        "identity": None if user is None else user.identity,
        "key": None if user is None else user.get("key"),
        "id": own.get("langgraph_auth_user_id"), "permissions": own.get("langgraph_auth_permissions"),
        "server": None if server is None or server.user is None else server.user.identity,
    }}

def ask(state):
    return {"seen": interrupt("well?")} if state.get("ask") else {}

agent = StateGraph(State)
agent.add_node("see", see)
agent.add_node("ask", ask)
agent.add_edge(START, "see")
agent.add_edge("see", "ask")
"""
AUTH = """
import asyncio
from langgraph_sdk import Auth

auth = Auth()
USERS = {
    "ada": {"identity": "ada", "permissions": [], "org": "a", "key": "k-ada"},
    "bob": {"identity": "bob", "permissions": [], "org": "b", "key": "k-bob"},
    "op": {"identity": "op", "permissions": ["surgetank:operator"], "org": "a"},
}

@auth.authenticate
async def authenticate(authorization: str | None, path: str, headers: dict[bytes, bytes]):
    name = (authorization or "").removeprefix("Bearer ")
    if name == "slow":
        await asyncio.sleep(60)
    if name == "bug":
        raise RuntimeError("secret-of-the-bug")
    if name == "assert":
        assert False, "asserted"
    if name not in USERS:
        raise Auth.exceptions.HTTPException(status_code=401, detail="Who are you?")
    return USERS[name]

@auth.on.threads
async def own_org(ctx, value):
    if "org" not in ctx.user:  # a token of ours
        return None
    if ctx.action in ("create", "create_run"):
        value["metadata"]["org"] = ctx.user.org
    return {"org": ctx.user["org"]}

@auth.on.threads.delete
async def nobody(ctx, value):
    return False

@auth.on.assistants
async def assistants(ctx, value):
    if ctx.action == "create":
        value["metadata"]["org"] = ctx.user.org
        return None
    return {"org": ctx.user.org} if ctx.action in ("update", "delete") else None

@auth.on.crons.create
async def no_crons(ctx, value):
    raise Auth.exceptions.HTTPException(status_code=409, detail="no crons in " + value["schedule"])

@auth.on.store
async def own_namespace(ctx, value):
    value["namespace"] = (ctx.user.identity, *value["namespace"])
"""


@pytest.fixture
def serve(make_tank: MakeTank, project: MakeProject) -> Any:
    stack: list[Any] = []

    def start(auth: str = AUTH, **options: Any) -> Server:
        tank = make_tank(admin_token=ADMIN_TOKEN, store_scope="shared")
        files = {"p.py": GRAPH, "own.py": auth}
        config = load(project(files, {"agent": "./p.py:agent"}, auth={"path": "./own.py:auth"}))
        graphs = GraphSet(config, checkpointer=tank.checkpointer())
        started = running(tank, graphs=graphs, **options)
        server = started.__enter__()
        worker = tank.runs.service(graphs)
        worker.start()
        stack.append((worker, started))
        return server

    yield start
    for worker, started in reversed(stack):
        started.__exit__(None, None, None)
        assert worker.stop(20.0)


@pytest.fixture
def server(serve: Any) -> Server:
    found: Server = serve()
    return found


class Clients:
    """A client for each user."""

    def __init__(self, server: Server, stack: AsyncExitStack) -> None:
        self._server, self._stack = server, stack

    def __call__(self, user: str) -> Any:
        client = client_for(self._server, None, headers={"Authorization": f"Bearer {user}"})
        self._stack.push_async_callback(client.aclose)
        return client


@pytest.fixture
async def clients(server: Server) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(server, stack)


def ask(
    server: Server, user: str | None, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    if user is not None:
        headers["Authorization"] = f"Bearer {user}"
    answer = httpx.request(method, server.url + path, headers=headers, json=body, timeout=20)
    return answer.status_code, answer.json() if answer.content else None


async def test_a_user_of_the_project_sees_what_the_handlers_let_through(clients: Clients) -> None:
    ada, bob, op = clients("ada"), clients("bob"), clients("op")
    thread = await ada.threads.create(metadata={"topic": "x"})
    assert thread["metadata"] == {"topic": "x", "org": "a"}
    assert (await ada.threads.get(thread["thread_id"]))["metadata"]["org"] == "a"
    assert [t["thread_id"] for t in await ada.threads.search()] == [thread["thread_id"]]
    assert await ada.threads.search(metadata={"org": "b"}) == []
    assert await ada.threads.count() == 1
    for stranger in (bob, op):
        with pytest.raises(NotFoundError):
            await stranger.threads.get(thread["thread_id"])
        assert await stranger.threads.search() == []
    with pytest.raises(PermissionDeniedError) as refused:
        await ada.threads.delete(thread["thread_id"])
    body: Any = refused.value.body
    assert body["code"] == "refused"


async def test_a_thread_that_the_filter_leaves_out_is_gone_for_its_owner(
    clients: Clients, server: Server
) -> None:
    ada = clients("ada")
    thread = (await ada.threads.create())["thread_id"]
    run = await ada.runs.wait(thread, "agent", input={"ask": True})
    assert run["__interrupt__"]
    (question,) = server.tank.approvals()
    server.tank.threads.rows.patch(thread, {"org": "b"})
    for path in (
        f"/threads/{thread}", f"/threads/{thread}/state", f"/threads/{thread}/history",
        f"/threads/{thread}/runs", f"/threads/{thread}/logs", f"/sse/threads/{thread}",
        f"/threads/{thread}/stream", f"/user-checkpoints/{question.checkpoint_id}",
        f"/workflows/{question.workflow_id}",
    ):  # fmt: skip
        status, body = ask(server, "ada", "GET", path)
        assert (status, body["code"]) == (404, "not-found"), path
    resolve = f"/user-checkpoints/{question.checkpoint_id}/resolve"
    assert ask(server, "ada", "POST", resolve, {"action": "approve"})[0] == 404
    start = {"assistant_id": "agent", "input": {}}
    assert ask(server, "ada", "POST", f"/threads/{thread}/runs", start)[0] == 404
    command = {"id": 1, "method": "run.start", "params": start}
    assert ask(server, "ada", "POST", f"/threads/{thread}/commands", command)[0] == 404
    assert ask(server, "ada", "GET", "/threads")[1]["threads"] == []
    assert ask(server, "ada", "GET", "/user-checkpoints")[1]["user_checkpoints"] == []
    assert ask(server, "ada", "GET", "/workflows")[1]["workflows"] == []
    url = server.url.replace("http", "ws", 1) + f"/threads/{thread}/stream/events"
    with (
        pytest.raises(InvalidStatus) as denied,
        connect(url, additional_headers={"Authorization": "Bearer ada"}),
    ):
        pass
    assert denied.value.response.status_code == 404
    # an administrator is not asked for
    assert server.admin.get(f"/threads/{thread}").json()["metadata"]["org"] == "b"
    assert server.admin.delete(f"/threads/{thread}").status_code == 204


async def test_a_graph_knows_the_user_and_a_client_can_not_pretend_to_be_another(
    clients: Clients, server: Server
) -> None:
    ada = clients("ada")
    thread = (await ada.threads.create())["thread_id"]
    lie = {"langgraph_auth_user": {"identity": "bob"}, "langgraph_auth_user_id": "bob"}
    seen = {"identity": "ada", "key": "k-ada", "id": "ada", "permissions": [], "server": "ada"}
    values = await ada.runs.wait(thread, "agent", input={}, config={"configurable": lie})
    assert values["seen"] == seen
    values = await ada.runs.wait(None, "agent", input={}, config={"configurable": lie})
    assert values["seen"] == seen
    assert "k-ada" not in json.dumps(await ada.runs.list(thread))
    # a thread that is made for a run has what the handler adds to the run
    made = "11111111-1111-4111-8111-111111111111"
    await ada.runs.wait(made, "agent", input={}, if_not_exists="create")
    assert (await ada.threads.get(made))["metadata"]["org"] == "a"
    # with our own tokens, no handler says anything of the user
    answer = server.as_role("user", "ada").post(
        "/runs/wait", json={"assistant_id": "agent", "config": {"configurable": lie}, "input": {}}
    )
    seen = answer.json()["seen"]
    assert (seen["identity"], seen["id"], seen["server"]) == (None, None, None)


async def test_metadata_of_a_run_do_not_move_a_thread_that_is_there(server: Server) -> None:
    ada = server.as_role("user", "ada")
    thread = ada.post("/threads", json={"metadata": {"org": "a"}}).json()["thread_id"]
    run = {"assistant_id": "agent", "input": {}, "metadata": {"org": "b"}}
    assert ada.post(f"/threads/{thread}/runs/wait", json=run).status_code == 200
    assert ada.get(f"/threads/{thread}").json()["metadata"]["org"] == "a"


async def test_who_answers_goes_on_with_the_run_of_who_asked(clients: Clients) -> None:
    ada = clients("ada")
    thread = (await ada.threads.create())["thread_id"]
    await ada.runs.wait(thread, "agent", input={"ask": True})
    values = await ada.runs.wait(thread, "agent", command={"resume": "yes"})
    assert values["seen"] == "yes"


async def test_assistants_crons_and_the_store_are_asked_for(clients: Clients) -> None:
    ada, bob = clients("ada"), clients("bob")
    made = await ada.assistants.create("agent", name="mine")
    assert made["metadata"] == {"org": "a"}
    changed = await ada.assistants.update(made["assistant_id"], metadata={"x": 1})
    assert changed["metadata"]["x"] == 1
    await ada.assistants.update(made["assistant_id"], metadata={"org": "b"})
    with pytest.raises(NotFoundError):
        await ada.assistants.update(made["assistant_id"], name="yours")
    with pytest.raises(NotFoundError):
        await ada.assistants.delete(made["assistant_id"])
    assert (await ada.assistants.get(made["assistant_id"]))["name"] == "mine"
    with pytest.raises(ConflictError, match="no crons in 5 5 5 5 5"):
        await ada.crons.create("agent", schedule="5 5 5 5 5", input={})
    await ada.store.put_item(["notes"], key="k", value={"a": 1})
    assert (await ada.store.get_item(["notes"], key="k"))["namespace"] == ["ada", "notes"]
    assert await bob.store.get_item(["notes"], key="k") is None
    assert (await bob.store.search_items(["notes"]))["items"] == []
    (found,) = (await ada.store.search_items(["notes"]))["items"]
    assert found["value"] == {"a": 1}
    assert (await ada.store.list_namespaces())["namespaces"] == [["ada", "notes"]]
    assert (await bob.store.list_namespaces())["namespaces"] == []
    await bob.store.delete_item(["notes"], key="k")
    assert await ada.store.get_item(["notes"], key="k") is not None


async def test_who_is_not_let_in_is_told_why(clients: Clients, server: Server) -> None:
    with pytest.raises(AuthenticationError, match="Who are you"):
        await clients("eve").threads.search()
    status, body = ask(server, "assert", "GET", "/threads")
    assert (status, body["code"], body["detail"]) == (401, "not-authenticated", "asserted")
    status, body = ask(server, "bug", "GET", "/threads")
    assert (status, body["code"]) == (500, "internal-error")
    assert "secret-of-the-bug" not in json.dumps(body)
    key = {"Idempotency-Key": "k"}
    assert ask(server, "bug", "POST", "/threads", {}, **key)[0] == 500
    assert server.admin.get("/health/ready").status_code == 200
    # our own tokens stay good, with their role
    assert server.as_role("operator", "o").get("/jobs").status_code == 200
    assert server.as_role("user", "o").get("/jobs").status_code == 403
    assert ask(server, "op", "GET", "/jobs")[0] == 200
    assert ask(server, "ada", "GET", "/jobs")[0] == 403


async def test_a_handler_that_does_not_answer_lets_nobody_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.services.project_auth is not None
    monkeypatch.setattr(server.services.project_auth, "_timeout_s", 0.05)
    status, body = ask(server, "slow", "GET", "/threads")
    assert (status, body["code"]) == (503, "login-unavailable")


async def test_a_page_of_a_user_of_the_project_follows_by_ticket(server: Server) -> None:
    ticket = ask(server, "ada", "POST", "/ws/ticket")[1]["ticket"]
    with connect(server.url.replace("http", "ws", 1) + f"/ws/events?ticket={ticket}") as socket:
        assert json.loads(socket.recv(timeout=20))["type"] == "subscribed"


@pytest.mark.parametrize(
    "said",
    ["7", "{'org': {'$gt': 1}}", "{'org': object()}", "{1: 'x'}", "{'org': {'$eq': 1, '$or': 1}}"],
)
async def test_an_answer_that_is_no_filter_lets_nobody_through(serve: Any, said: str) -> None:
    auth = f"""
from langgraph_sdk import Auth
auth = Auth()

@auth.on
async def every(ctx, value):
    return {said}
"""
    server = serve(auth)
    ada = server.as_role("user", "ada")
    assert ada.post("/threads/search", json={}).status_code == 500
    assert ada.get("/me").status_code == 200
    assert server.admin.post("/threads/search", json={}).status_code == 200


async def test_the_projects_handler_decides_also_where_no_token_is_needed(serve: Any) -> None:
    server = serve(no_auth=True)
    assert ask(server, None, "GET", "/threads")[0] == 401
    assert ask(server, "ada", "GET", "/threads")[0] == 200
    assert server.admin.get("/threads").status_code == 200


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ("auth = 5", "which is a int"),
        ("other = 5", "has no 'auth'"),
        ("raise ValueError('broken')", "broken"),
        (
            """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def who(cookie): ...
""",
            "asks for 'cookie'",
        ),
    ],
)
def test_what_can_not_be_used_refuses_the_start(serve: Any, auth: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        serve(auth)


@pytest.mark.parametrize(
    "said",
    [
        "None", "''", "5", "{'identity': 5}", "{'identity': 'x', 'permissions': 'all'}",
        "{'identity': 'x' * 3000}", "{'identity': 'x', 'big': 'y' * 100_000}",
        "{'identity': 'x', 'is_authenticated': False}",
    ],
)  # fmt: skip
async def test_what_is_no_user_is_let_in_nowhere(serve: Any, said: str) -> None:
    auth = f"""
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
def who():
    return {said}
"""
    assert ask(serve(auth), None, "GET", "/threads")[0] in (401, 500)


async def test_a_user_may_be_an_object(serve: Any) -> None:
    auth = """
from dataclasses import dataclass
from langgraph_sdk import Auth
auth = Auth()

@dataclass
class User:
    identity: str
    permissions: list[str]

@auth.authenticate
def who(request, method, query_params, body):
    assert request.headers["x-name"] and method == "GET" and body is None
    return User(query_params["name"], ["surgetank:admin"])
"""
    _, me = ask(serve(auth), None, "GET", "/me?name=root", **{"x-name": "y"})
    assert (me["user"], me["role"]) == ("root", "admin")


def test_handlers_are_asked_for_every_route_of_their_resources() -> None:
    ours = {
        (method, context.path)
        for router in ROUTERS
        for context in iter_route_contexts(router.routes)
        for method in (getattr(context, "methods", None) or {"WS"})
    }
    assert set(ASKS) <= ours
    resources = (
        "/threads", "/runs", "/assistants", "/store", "/user-checkpoints", "/workflows", "/sse", "/ws",
        "/webhooks",
    )  # fmt: skip
    # administrators' own, what asks for itself, and what is about the caller
    apart = {
        ("POST", "/threads/{thread_id:name}/repair"), ("POST", "/threads/{thread_id:name}/commands"),
        ("POST", "/ws/ticket"), ("WS", "/ws/sql"),
    }  # fmt: skip
    assert {each for each in ours if str(each[1]).startswith(resources)} - apart == set(ASKS)
    for router in ROUTERS:
        for route in router.routes:
            for method in getattr(route, "methods", None) or ():
                if (method, getattr(route, "path", "")) in ASKS:
                    assert isinstance(route, AskedRoute), route


def test_an_object_of_another_kind_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'./x.py:a', which is a dict"):
        ProjectAuth({}, named="./x.py:a")
