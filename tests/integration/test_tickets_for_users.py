"""Tickets that an application's backend mints for its users: for one user, one thread, one connection, and nothing
else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from surgetank.console.app import Console
from surgetank.server.access.roles import Caller, Role
from surgetank.server.access.tickets import _packed, _unpacked


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN, cors_origins="https://chat.example.com")
    for thread, owner in (("of-ada", "ada"), ("another", "ada"), ("of-bob", "bob")):
        put(tank.checkpointer(), thread, {"x": 1}, user_id=owner)
    with running(tank, mounts=[Console]) as started:
        yield started


def ticket(server: Server, thread: str, user: str = "ada") -> str:
    answer = server.admin.post("/ws/ticket", json={"user": user, "thread_id": thread})
    assert answer.status_code == 201
    return str(answer.json()["ticket"])


def follow(server: Server, path: str) -> Any:
    """What the first message says, or the status with which it was refused."""
    try:
        with connect(f"{server.url.replace('http', 'ws')}{path}") as socket:
            return json.loads(socket.recv())["type"]
    except InvalidStatus as refused:
        return refused.response.status_code


def test_it_opens_the_events_of_its_thread_once_and_nothing_else(server: Server) -> None:
    good = ticket(server, "of-ada")
    assert follow(server, f"/ws/threads/of-ada?ticket={good}") == "subscribed"
    assert follow(server, f"/ws/threads/of-ada?ticket={good}") in (401, 403)
    for path in ("/ws/threads/another", "/ws/events", "/ws/threads/of-bob", "/ws/sql"):
        assert follow(server, f"{path}?ticket={ticket(server, 'of-ada')}") in (403, 404), path
    client = server.client()
    for path in ("/sse/events", "/sse/threads/another"):
        assert client.get(path, params={"ticket": ticket(server, "of-ada")}).status_code == 403
    assert client.get("/me", params={"ticket": ticket(server, "of-ada")}).status_code == 401
    # whatever the backend says, the thread must be the user's
    assert follow(server, f"/ws/threads/of-bob?ticket={ticket(server, 'of-bob')}") in (403, 404)
    assert (
        follow(server, f"/ws/threads/of-bob?ticket={ticket(server, 'of-bob', 'bob')}")
        == "subscribed"
    )


def test_only_administrators_mint_them_and_a_backend_has_room_for_all_its_users(
    server: Server,
) -> None:
    wanted = {"user": "ada", "thread_id": "of-ada"}
    for role in ("viewer", "user", "reviewer", "operator"):
        assert server.as_role(role, "ada").post("/ws/ticket", json=wanted).status_code == 403
    backend = server.as_role("admin", "backend")
    assert backend.post("/ws/ticket", json=wanted).status_code == 201
    for bad in ({"user": "ada"}, {"user": "", "thread_id": "t"}, {"user": "a\0", "thread_id": "t"}):
        assert backend.post("/ws/ticket", json=bad).status_code == 422
    made = Caller("ada", Role.VIEWER, "token", only="of-ada")
    assert _unpacked(_packed(made)) == made
    # followers are counted for each user, not for the application's token
    assert made.scope != Caller("bob", Role.VIEWER, "token", only="of-bob").scope


def test_a_ticket_ends_with_the_token_of_the_backend(server: Server) -> None:
    token = server.token("admin", "backend")
    wanted = {"user": "ada", "thread_id": "of-ada"}
    made = server.client(token).post("/ws/ticket", json=wanted).json()["ticket"]
    (known,) = [t for t in server.services.tokens.page() if t.user == "backend"]
    server.admin.delete(f"/admin/tokens/{known.id}")
    assert follow(server, f"/ws/threads/of-ada?ticket={made}") in (401, 403)


def test_the_element_is_served_to_pages_of_others(server: Server) -> None:
    answer = server.client().get("/console/surgetank-banner.js")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "customElements.define" in answer.text
    page = server.client().get("/console/login")
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
