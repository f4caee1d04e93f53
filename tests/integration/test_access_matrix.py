"""Every route against every role and owner."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from support.access import ROLES, ask, furnish
from support.http import ADMIN_TOKEN, Server, running
from support.projects import HEAD, MakeProject
from support.savers import put
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

EVERYBODY = dict.fromkeys(ROLES, 200)
SIGNED_IN = EVERYBODY | {"nobody": 401}
BELOW_OPERATORS = ("viewer", "user", "reviewer")
OPERATORS = SIGNED_IN | dict.fromkeys(BELOW_OPERATORS, 403)
ADMINS = OPERATORS | {"operator": 403}
NO_CONTENT = {role: 204 if status == 200 else status for role, status in SIGNED_IN.items()}
# The content of threads of ada, of bob and of nobody, for callers who are all ada.
OWN = SIGNED_IN
FOREIGN = SIGNED_IN | dict.fromkeys(BELOW_OPERATORS, 404) | {"operator": 403}
OWNERLESS = SIGNED_IN | dict.fromkeys(BELOW_OPERATORS, 404)
MISSING = SIGNED_IN | dict.fromkeys(ROLES[1:], 404)

THREADS = {"own": OWN, "foreign": FOREIGN, "ownerless": OWNERLESS, "missing": MISSING}


REPAIRED = dict.fromkeys((*BELOW_OPERATORS, "operator"), 403) | {"nobody": 401}
LOGLESS = MISSING | {"admin": 200}


def _of_threads(
    method: str, path: str, *, missing: dict[str, int] = MISSING
) -> dict[tuple[str, str, str], dict[str, int]]:
    of_all = THREADS | {"missing": missing}
    return {(method, path, name): expected for name, expected in of_all.items()}


def _opens(
    places: dict[tuple[str, str, str], dict[str, int]],
) -> dict[tuple[str, str, str], dict[str, int]]:
    """Of WebSockets, which answer 101 where others answer 200."""
    return {
        p: {r: 101 if s == 200 else s for r, s in expected.items()}
        for p, expected in places.items()
    }


def _without(expected: dict[str, int], instead: int) -> dict[str, int]:
    """The same where what would be answered with 200 is not there, or has no content."""
    return {role: instead if status == 200 else status for role, status in expected.items()}


def _of_runs(method: str, path: str) -> dict[tuple[str, str, str], dict[str, int]]:
    """Of a run that is not there, on each kind of thread."""
    return {(method, path, name): _without(found, 404) for name, found in THREADS.items()}


RUNS = "/threads/{thread_id:name}/runs"
# Whoever may deletes; after that it is not there.
DELETIONS = {
    ("DELETE", "/threads/{thread_id:name}", name): {"nobody": 401, **dict(zip(ROLES[1:], found, strict=True))}
    for name, found in {
        "own": (403, 204, 404, 404, 404), "foreign": (403, 404, 404, 403, 204),
        "ownerless": (403, 404, 404, 204, 404), "missing": (403, 404, 404, 404, 404),
    }.items()
}  # fmt: skip


# Of a question on an own and on a foreign thread, and of a workflow: operators see neither content.
HIDDEN = {"nobody": 401, **dict.fromkeys((*BELOW_OPERATORS, "operator"), 404)}
ASKED = {"own": SIGNED_IN, "foreign": {**HIDDEN, "admin": 200}, "missing": {**HIDDEN, "admin": 404}}


def _of_asked(method: str, path: str, *, own: dict[str, int] = SIGNED_IN, admin: int = 200) -> Any:
    found = ASKED | {"own": own, "foreign": {**HIDDEN, "admin": admin}}
    return {(method, path, name): expected for name, expected in found.items()}


# By kind of table and ACCESS_LEVEL; own rows of USER tables are everybody's.
READ_TABLES = {
    "notes": SIGNED_IN, "open": SIGNED_IN, "rates": SIGNED_IN,
    "secret": OWNERLESS, "missing": MISSING,
}  # fmt: skip
FILLED_TABLES = {
    **READ_TABLES, "rates": OPERATORS, "notes as bob": ADMINS, "secret as bob": _without(ADMINS, 404),
}  # fmt: skip
TABLES = """
    CREATE NAMESPACE app;
    CREATE TABLE app.notes (id BIGINT);
    CREATE SHARED TABLE app.open (id BIGINT) WITH (ACCESS_LEVEL='write');
    CREATE SHARED TABLE app.rates (id BIGINT) WITH (ACCESS_LEVEL='read');
    CREATE SHARED TABLE app.secret (id BIGINT)
"""
ROWS = "/tables/{namespace}/{name}/rows"

ONCE = {"nobody": 401, "viewer": 403, "user": 200, "reviewer": 409, "operator": 409, "admin": 409}
QUESTION, FLOW = "/user-checkpoints/{checkpoint_id}", "/workflows/{workflow_id}"


# (method, path, variant): the status for each role. A route that is not here fails the test.
MATRIX: dict[tuple[str, str, str], dict[str, int]] = {
    ("GET", "/openapi.json", ""): EVERYBODY,
    ("GET", "/health/live", ""): EVERYBODY,
    ("GET", "/health/ready", ""): EVERYBODY,
    ("GET", "/me", ""): SIGNED_IN,
    ("POST", "/ws/ticket", ""): {
        role: 201 if status == 200 else status for role, status in SIGNED_IN.items()
    },
    ("GET", "/threads", ""): SIGNED_IN,
    **_of_threads("GET", "/threads/{thread_id:name}/state"),
    **_of_threads("GET", "/threads/{thread_id:name}/history"),
    ("GET", "/ok", ""): EVERYBODY,
    ("GET", "/info", ""): EVERYBODY,
    ("POST", "/threads", ""): SIGNED_IN,
    ("POST", "/threads/search", ""): SIGNED_IN,
    ("POST", "/threads/count", ""): SIGNED_IN,
    ("POST", "/threads/prune", ""): SIGNED_IN,
    **_of_threads("GET", "/threads/{thread_id:name}"),
    **{
        ("POST", "/threads/{thread_id:name}/repair", name): REPAIRED
        | {"admin": 404 if name == "missing" else 200}
        for name in THREADS
    },
    **_of_threads("PATCH", "/threads/{thread_id:name}"),
    **_of_threads("POST", "/threads/{thread_id:name}/copy"),
    **_of_threads("POST", "/threads/{thread_id:name}/state"),
    **_of_threads("GET", "/threads/{thread_id:name}/state/{checkpoint_id}"),
    **_of_threads("POST", "/threads/{thread_id:name}/state/checkpoint"),
    **_of_threads("POST", "/threads/{thread_id:name}/history"),
    **_of_threads("POST", "/threads/{thread_id:name}/commands"),
    **_of_threads("POST", "/threads/{thread_id:name}/stream/events"),
    **_opens(_of_threads("WEBSOCKET", "/threads/{thread_id:name}/stream/events")),
    **_of_threads("GET", "/threads/{thread_id:name}/stream"),
    **_of_threads("GET", RUNS),
    **_of_threads("POST", RUNS),
    **_of_threads("POST", f"{RUNS}/wait"),
    **_of_threads("POST", f"{RUNS}/stream"),
    **_of_runs("GET", f"{RUNS}/{{run_id}}"),
    **_of_runs("DELETE", f"{RUNS}/{{run_id}}"),
    **_of_runs("POST", f"{RUNS}/{{run_id}}/cancel"),
    **_of_runs("GET", f"{RUNS}/{{run_id}}/join"),
    **_of_runs("GET", f"{RUNS}/{{run_id}}/stream"),
    ("POST", "/assistants/search", ""): SIGNED_IN,
    ("POST", "/assistants/count", ""): SIGNED_IN,
    ("GET", "/assistants/{assistant}", ""): SIGNED_IN,
    ("POST", "/assistants", ""): SIGNED_IN,
    # the one that comes with a graph; those that clients make: test_assistants.py
    ("PATCH", "/assistants/{assistant}", ""): _without(SIGNED_IN, 409),
    ("DELETE", "/assistants/{assistant}", ""): _without(SIGNED_IN, 409),
    ("POST", "/assistants/{assistant}/versions", ""): SIGNED_IN,
    ("POST", "/assistants/{assistant}/latest", ""): _without(SIGNED_IN, 409),
    ("POST", "/runs/crons", ""): SIGNED_IN,
    ("POST", "/runs/crons/search", ""): SIGNED_IN,
    ("POST", "/runs/crons/count", ""): SIGNED_IN,
    ("PATCH", "/runs/crons/{cron_id}", ""): MISSING,
    ("DELETE", "/runs/crons/{cron_id}", ""): MISSING,
    **_of_threads("POST", f"{RUNS}/crons"),
    ("GET", "/assistants/{assistant}/schemas", ""): SIGNED_IN,
    ("GET", "/assistants/{assistant}/graph", ""): SIGNED_IN,
    ("GET", "/assistants/{assistant}/subgraphs", ""): SIGNED_IN,
    ("GET", "/assistants/{assistant}/subgraphs/{namespace}", ""): SIGNED_IN,
    ("POST", "/runs", ""): SIGNED_IN,
    ("POST", "/runs/wait", ""): SIGNED_IN,
    ("POST", "/runs/stream", ""): SIGNED_IN,
    ("POST", "/runs/batch", ""): SIGNED_IN,
    ("POST", "/runs/cancel", ""): _without(SIGNED_IN, 204),
    # A thread without a checkpoint may have a log already: administrators are shown what there is,
    # nothing included.
    **_of_threads("GET", "/threads/{thread_id:name}/logs", missing=LOGLESS),
    **_of_threads("GET", "/threads/{thread_id:name}/events", missing=LOGLESS),
    **_of_threads("GET", "/sse/threads/{thread_id:name}", missing=LOGLESS),
    **_opens(_of_threads("WEBSOCKET", "/ws/threads/{thread_id:name}", missing=LOGLESS)),
    ("GET", "/sse/events", ""): SIGNED_IN,
    **_opens({("WEBSOCKET", "/ws/events", ""): SIGNED_IN}),
    ("GET", "/webhooks/deliveries", ""): SIGNED_IN,
    ("POST", "/webhooks/deliveries/{delivery_id}/retry", ""): SIGNED_IN,
    ("GET", "/metrics", ""): OPERATORS,
    ("GET", "/admin/originals", ""): ADMINS,
    ("GET", "/audit", ""): OPERATORS,
    ("GET", "/audit/export", ""): ADMINS,
    ("GET", "/admin/system-errors", ""): ADMINS,
    ("GET", "/admin/system-errors/stats", ""): ADMINS,
    ("GET", "/admin/system-errors/trends", ""): ADMINS,
    ("GET", "/admin/system-errors/threads", ""): ADMINS,
    ("GET", "/admin/system-errors/{error_id}", ""): ADMINS,
    ("POST", "/admin/system-errors/{error_id}/resolve", ""): ADMINS,
    ("POST", "/admin/system-errors/{error_id}/reopen", ""): ADMINS,
    ("POST", "/admin/system-errors/{error_id}/snooze", ""): ADMINS,
    ("DELETE", "/admin/system-errors/{error_id}", ""): {
        r: 409 if s == 200 else s for r, s in ADMINS.items()
    },
    ("PUT", "/store/items", ""): NO_CONTENT,
    ("GET", "/store/items", ""): SIGNED_IN,
    ("DELETE", "/store/items", ""): NO_CONTENT,
    ("POST", "/sql", ""): SIGNED_IN,
    ("GET", "/sql/live", ""): _without(SIGNED_IN, 422),  # no query is given
    ("WEBSOCKET", "/ws/sql", ""): _without(SIGNED_IN, 422),
    ("GET", "/tables", ""): SIGNED_IN,
    **{("GET", "/tables/{namespace}/{name}", name): found for name, found in READ_TABLES.items()},
    **{("POST", ROWS, name): found for name, found in FILLED_TABLES.items()},
    ("POST", "/store/items/search", ""): SIGNED_IN,
    ("POST", "/store/namespaces", ""): SIGNED_IN,
    ("GET", "/jobs", ""): OPERATORS,
    ("GET", "/jobs/{job_id}", ""): OPERATORS,
    ("POST", "/jobs/{job_id}/retry", ""): OPERATORS,
    ("GET", "/parked", ""): OPERATORS,
    ("GET", "/parked/{parked_id}", ""): {r: 404 if s == 200 else s for r, s in OPERATORS.items()},
    ("POST", "/parked/{parked_id}/retry", ""): {
        r: 404 if s == 200 else s for r, s in OPERATORS.items()
    },
    ("POST", "/parked/retry", ""): OPERATORS,
    ("POST", "/parked/discard", ""): ADMINS,
    ("POST", "/flush/matching", ""): OPERATORS,
    ("DELETE", "/admin/system-errors", ""): ADMINS,
    ("GET", "/buffer", ""): OPERATORS,
    ("POST", "/flush", ""): OPERATORS,
    ("GET", "/admin/tokens", ""): ADMINS,
    ("POST", "/admin/tokens", ""): {r: 201 if s == 200 else s for r, s in ADMINS.items()},
    ("DELETE", "/admin/tokens/{token_id}", ""): ADMINS,
    ("DELETE", "/admin/users/{user:name}", ""): ADMINS,
    ("GET", "/user-checkpoints", ""): SIGNED_IN,
    ("GET", "/user-checkpoints/stats", ""): SIGNED_IN,
    **_of_asked("GET", QUESTION),
    **_of_asked("POST", f"{QUESTION}/assign"),
    **_of_asked("POST", f"{QUESTION}/resolve", own=ONCE),
    ("GET", "/workflows", ""): SIGNED_IN,
    **_of_asked("GET", FLOW),
    **_of_asked("POST", f"{FLOW}/cancel", own=ONCE),
    **_of_asked("POST", f"{FLOW}/retry", own=_without(SIGNED_IN, 409), admin=409),
    **DELETIONS,
}
# What a viewer may POST: it changes nothing.
ASKED_ONLY = {
    "/ws/ticket", "/threads/search", "/threads/count", "/threads/{thread_id:name}/history", "/sql",
    "/threads/{thread_id:name}/state/checkpoint", "/threads/{thread_id:name}/stream/events",
    "/threads/{thread_id:name}/commands", "/assistants/search", "/assistants/count",
    "/assistants/{assistant}/versions", "/runs/crons/search", "/runs/crons/count", "/store/items/search",
    "/store/namespaces",
}  # fmt: skip
MATRIX |= {
    each: expected | {"viewer": 403}
    for each, expected in MATRIX.items()
    if each[0] in ("POST", "PUT", "PATCH", "DELETE") and each[1] not in ASKED_ONLY
}
RUN = {"assistant_id": "agent", "input": {"text": "x"}}
CRON = {"assistant_id": "agent", "schedule": "0 8 * * *"}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/threads/{thread_id:name}/repair"): {},
    ("POST", "/admin/tokens"): {"user": "new", "role": "viewer"},
    ("POST", "/threads"): {},
    ("POST", "/parked/retry"): {"ids": [1]},
    ("POST", "/parked/discard"): {"ids": [1]},
    ("POST", "/flush/matching"): {"text": "no such thread"},
    ("POST", "/assistants/search"): {},
    ("POST", "/assistants/count"): {},
    ("POST", "/assistants"): {"graph_id": "agent"},
    ("PATCH", "/assistants/{assistant}"): {"name": "mine"},
    ("POST", "/assistants/{assistant}/versions"): {},
    ("POST", "/assistants/{assistant}/latest"): {"version": 1},
    **{("POST", f"{at}/crons"): CRON for at in ("/runs", RUNS)},
    ("POST", "/runs/crons/search"): {},
    ("POST", "/runs/crons/count"): {},
    ("PATCH", "/runs/crons/{cron_id}"): {"enabled": False},
    ("POST", "/threads/search"): {},
    ("POST", "/threads/count"): {},
    ("POST", "/threads/prune"): {"thread_ids": ["nobody's"]},
    ("PATCH", "/threads/{thread_id:name}"): {"metadata": {"a": 1}},
    ("POST", "/threads/{thread_id:name}/state"): {"values": {"text": "y"}, "as_node": "a"},
    ("POST", "/threads/{thread_id:name}/state/checkpoint"): {},
    ("POST", "/threads/{thread_id:name}/history"): {},
    ("POST", "/threads/{thread_id:name}/commands"): {"id": 1, "method": "agent.getTree"},
    ("POST", "/threads/{thread_id:name}/stream/events"): {"channels": ["lifecycle"]},
    **{("POST", f"{RUNS}{tail}"): RUN for tail in ("", "/wait", "/stream")},
    **{("POST", f"/runs{tail}"): RUN for tail in ("", "/wait", "/stream")},
    ("POST", "/runs/batch"): [RUN],
    ("POST", "/runs/cancel"): {},
    ("POST", f"{QUESTION}/assign"): {},
    ("POST", f"{QUESTION}/resolve"): {"action": "approve"},
    ("PUT", "/store/items"): {"namespace": ["a"], "key": "k", "value": {}},
    ("DELETE", "/store/items"): {"namespace": ["a"], "key": "k"},
    ("POST", "/sql"): {"sql": "SELECT 1"},
    ("POST", ROWS): [{"id": 1}],
    ("POST", "/store/items/search"): {},
    ("POST", "/store/namespaces"): {},
}
QUERIES = {("GET", "/store/items"): "?namespace=a&key=k"}


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


@pytest.fixture
def agents(make_tank, project: MakeProject) -> Iterator[Server]:
    """A server with a graph."""
    tank = make_tank(admin_token=ADMIN_TOKEN)
    found = load(project({"a.py": HEAD + 'g = builder_of("a")'}, {"agent": "./a.py:g"}))
    graphs = GraphSet(found, checkpointer=tank.checkpointer())
    with running(tank, graphs=graphs) as started:
        yield started


def routes(app: Any) -> set[tuple[str, str]]:
    """Every route of the application, WebSockets as the method WEBSOCKET."""
    found: set[tuple[str, str]] = set()
    for context in iter_route_contexts(app.routes):
        methods = getattr(context, "methods", None) or {"WEBSOCKET"}
        path = context.path
        assert path is not None
        found |= {(method, path) for method in methods if method != "HEAD"}
    return found


def test_the_matrix_names_every_route_and_no_other(server):
    assert {(method, path) for method, path, _ in MATRIX} == routes(server.app)


def test_every_route_answers_every_role_as_the_matrix_says(agents):
    parameters = furnish(agents)
    agents.tank.sql(TABLES)
    clients = {
        role: agents.client() if role == "nobody" else agents.as_role(role, "ada") for role in ROLES
    }
    wrong = []
    for (method, path, variant), expected in MATRIX.items():
        for role, status in expected.items():
            state = parameters.get(f"state of {variant}", "none")
            if "/user-checkpoints/" in path or "/workflows/" in path:
                state = parameters.get(f"asked {variant}", str(uuid.uuid4()))
            workflow = parameters.get(f"workflow {variant}", str(uuid.uuid4()))
            table, _, user = variant.partition(" as ")
            if "/tables/" in path:
                parameters |= {"namespace": "app", "name": table}
            url = path.replace(":name", "").format(
                **parameters, thread_id=variant, checkpoint_id=state, workflow_id=workflow
            )
            url += QUERIES.get((method, path), f"?as_user={user}" if user else "")
            answer, kind = ask(clients[role], method, url, BODIES.get((method, path)))
            if answer != status:
                wrong.append(f"{role}: {method} {url} {answer} instead of {status}")
            if status >= 400:
                assert kind == "application/problem+json", url
    assert wrong == []


def test_a_viewer_changes_nothing_by_statements_and_commands_either(server):
    server.tank.sql(TABLES)
    viewer, user = server.as_role("viewer", "ada"), server.as_role("user", "ada")
    assert user.post("/sql", json={"sql": "INSERT INTO app.notes VALUES (1)"}).status_code == 200
    for text in (
        "INSERT INTO app.notes VALUES (1)", "UPDATE app.notes SET id = 2", "DELETE FROM app.notes",
        "INSERT INTO app.open SELECT 1", "EXECUTE AS USER 'ada' DELETE FROM app.notes",
    ):  # fmt: skip
        refused = viewer.post("/sql", json={"sql": text})
        assert (refused.status_code, refused.json()["code"]) == (403, "role-needed"), text
    found = viewer.post("/sql", json={"sql": "SELECT * FROM app.notes"}).json()["results"][0]
    assert found["rows"] == [[1]]
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    for method in ("run.start", "input.respond"):
        refused = viewer.post("/threads/t/commands", json={"id": 1, "method": method, "params": {}})
        assert refused.json()["code"] == "role-needed"
