"""`/store` over HTTP: LangGraph's own client against a server in a process of its own, and who
reaches what."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError

from support.http import ADMIN_TOKEN, Server, running
from support.process import Process

ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture
def process(tmp_path, database_url) -> Iterator[Any]:
    """Starts servers in processes of their own, on one database."""
    started: list[Process] = []

    def start() -> Process:
        environment = {
            **os.environ, "SURGETANK_HOME": str(tmp_path / "home"), "SURGETANK_DATABASE_URL": database_url,
            "SURGETANK_ADMIN_TOKEN": ADMIN_TOKEN,
        }  # fmt: skip
        started.append(Process(environment))
        return started[-1]

    yield start
    for one in started:
        one.end(signal.SIGKILL)
        assert one.process.stdout is not None
        one.process.stdout.close()


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


@pytest.fixture
def sdk() -> Iterator[Callable[..., Any]]:
    """The store of LangGraph's client, for a user of a server, or for its administrator."""
    clients: list[SyncLangGraphClient] = []

    def make(server: Server, user: str | None = None, role: str = "user") -> Any:
        token = server.token(role, user) if user is not None else ADMIN_TOKEN
        headers = {"Authorization": f"Bearer {token}"}
        clients.append(get_sync_client(url=server.url, headers=headers))
        return clients[-1].store

    yield make
    for client in clients:
        client.http.client.close()


async def test_langgraphs_client_finds_what_it_stored_also_after_a_kill(process):
    first = process()
    client = get_client(url=first.url(), headers=ADMIN)
    store = client.store
    value: dict[str, Any] = {"text": "likes tea", "score": 4.5, "deep": {"list": [1, None, True]}}
    await store.put_item(["users", "ada"], key="one", value=value)
    await store.put_item(["users", "ada", "old"], key="two", value={"score": 1}, ttl=60)
    await store.put_item(["users", "bob"], key="one", value={"score": 9}, index=False)
    item = await store.get_item(["users", "ada"], key="one")
    assert set(item) == {"namespace", "key", "value", "created_at", "updated_at"}
    assert (item["namespace"], item["key"], item["value"]) == (["users", "ada"], "one", value)
    assert await store.get_item(["users", "ada"], key="none") is None
    assert await store.get_item(["users", "ada", "old"], key="two", refresh_ttl=False) is not None
    await client.aclose()
    first.end(signal.SIGKILL)

    client = get_client(url=process().url(), headers=ADMIN)
    store = client.store
    found = (await store.search_items(["users"], filter={"score": {"$gt": 2}}, limit=5))["items"]
    assert [i["value"]["score"] for i in found] == [9, 4.5]
    assert found[0].keys() >= {"namespace", "key", "value", "created_at", "updated_at", "score"}
    assert len((await store.search_items(["users"], limit=2, offset=2))["items"]) == 1
    assert len((await store.search_items(["users"], query="x", refresh_ttl=True))["items"]) == 3
    names = await store.list_namespaces(prefix=["users"], max_depth=2)
    assert names == {"namespaces": [["users", "ada"], ["users", "bob"]]}
    assert await store.list_namespaces(suffix=["old"], limit=1) == {
        "namespaces": [["users", "ada", "old"]]
    }
    await store.delete_item(["users", "ada"], key="one")
    assert await store.get_item(["users", "ada"], key="one") is None
    with pytest.raises(UnprocessableEntityError):
        await store.put_item([], key="one", value={})
    await client.aclose()


def test_callers_have_a_part_of_their_own_and_administrators_have_all(server, sdk):
    ada, bob, admin = (
        sdk(server, "ada"),
        sdk(server, "bob", "operator"),
        sdk(server),
    )
    ada.put_item(["notes"], "k", {"of": "ada"})
    bob.put_item(["notes"], "k", {"of": "bob"})
    admin.put_item(["memories", "ada"], "k", {"of": "a graph"})
    assert ada.get_item(["notes"], "k")["value"] == {"of": "ada"}
    assert bob.get_item(["user:ada", "notes"], "k") is None
    assert [i["namespace"] for i in ada.search_items([])["items"]] == [["notes"]]
    assert ada.list_namespaces()["namespaces"] == [["notes"]]
    assert admin.list_namespaces()["namespaces"] == [
        ["memories", "ada"], ["user:ada", "notes"], ["user:bob", "notes"],
    ]  # fmt: skip
    bob.delete_item(["notes"], "k")
    assert ada.get_item(["notes"], "k") is not None
    store = server.tank.store()
    item = store.get((*store.of_user("ada"), "notes"), "k")
    assert item is not None


def test_by_name_callers_reach_what_graphs_wrote_for_them(make_tank, sdk):
    tank = make_tank(admin_token=ADMIN_TOKEN, store_scope="named")
    with running(tank) as server:
        ada, admin = sdk(server, "ada"), sdk(server)
        for who in ("ada", "bob"):
            tank.store().put(("memories", who), "k", {"of": who})
        assert [i["value"]["of"] for i in ada.search_items(["memories"])["items"]] == ["ada"]
        assert ada.list_namespaces()["namespaces"] == [["memories", "ada"]]
        assert len(admin.search_items(["memories"])["items"]) == 2
        viewer = server.as_role("user", "ada")
        foreign = {"namespace": ["memories", "bob"], "key": "k"}
        answers = [
            viewer.put("/store/items", json={**foreign, "value": {}}),
            viewer.get("/store/items", params={"namespace": "memories.bob", "key": "k"}),
            viewer.request("DELETE", "/store/items", json=foreign),
        ]
        assert [a.status_code for a in answers] == [403, 403, 403]
        assert {a.json()["code"] for a in answers} == {"namespace-forbidden"}
        assert "bob" not in "".join(a.text for a in answers)


def test_shared_is_shared(make_tank, sdk):
    with running(make_tank(admin_token=ADMIN_TOKEN, store_scope="shared")) as server:
        sdk(server, "ada").put_item(["a"], "k", {})
        assert sdk(server, "bob").get_item(["a"], "k") is not None


def test_users_with_points_in_their_names_have_parts_too(server, sdk):
    one, other = sdk(server, "ada@a.example"), sdk(server, "ada@a%2Eexample")
    one.put_item(["n"], "k", {"x": 1})
    assert one.get_item(["n"], "k")["value"] == {"x": 1}
    assert other.get_item(["n"], "k") is None


BAD: list[tuple[str, str, Any]] = [
    ("PUT", "/store/items", {"namespace": [], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a.b"], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": [""], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a\x00"], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a\ud800"], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["ü" * 600], "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": "a", "key": "k", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k\ud800", "value": {}}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": None}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": [1]}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {}, "ttl": -1}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {}, "index": True}),
    ("PUT", "/store/items", {"key": "k", "value": {}}),
    ("GET", "/store/items?namespace=a..b&key=k", None),
    ("GET", "/store/items?namespace=a", None),
    ("DELETE", "/store/items", {"namespace": ["a"]}),
    ("POST", "/store/items/search", {"namespace_prefix": ["a."]}),
    ("POST", "/store/items/search", {"limit": -1}),
    ("POST", "/store/items/search", {"limit": 10**9}),
    ("POST", "/store/items/search", {"filter": {"a": {"$near": 1}}}),
    ("POST", "/store/items/search", {"filter": {"a": "\x00"}}),
    ("POST", "/store/namespaces", {"max_depth": -1}),
    ("POST", "/store/namespaces", {"prefix": ["a.b"]}),
]


@pytest.mark.parametrize("role", ["user", "admin"])
def test_what_cannot_be_used_is_422_and_is_not_repeated(server, role):
    client = server.as_role(role, "ada")
    for method, url, body in BAD:
        answer = client.request(
            method, url, content=json.dumps(body) if body is not None else None,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert answer.status_code == 422, (method, url, body, answer.text)
        assert answer.json()["remedy"]
    assert server.tank.store().search(()) == []


def test_langgraphs_own_root_is_refused_to_administrators_and_harmless_for_others(server):
    body = {"namespace": ["langgraph"], "key": "k", "value": {}}
    assert server.admin.put("/store/items", json=body).status_code == 422
    # Below a user's root it could be any label; LangGraph's client rule holds all the same.
    assert server.as_role("user", "ada").put("/store/items", json=body).status_code == 422


def test_answers_are_json_whatever_is_stored(server):
    odd = {"n": float("nan"), "t": "\ud800\x00", "i": 2**70}
    server.tank.store().put(("a",), "k", odd)
    answer = server.admin.get("/store/items", params={"namespace": "a", "key": "k"})
    assert answer.json()["value"] == {"n": None, "t": "��", "i": 2**70}
    found = server.admin.post("/store/items/search", json={"namespace_prefix": ["a"]})
    assert found.json()["items"][0]["value"]["n"] is None
    sent = b'{"namespace": ["a"], "key": "k", "value": {"x": 1e400, "y": "\\ud800\\u0000"}}'
    put = server.admin.put(
        "/store/items", content=sent, headers={"Content-Type": "application/json"}
    )
    assert put.status_code in (204, 422)


def test_a_large_body_is_refused(server):
    body = {"namespace": ["a"], "key": "k", "value": {"x": "y" * 2_000_000}}
    assert server.admin.put("/store/items", json=body).status_code == 413


def test_a_query_uses_the_index_that_the_server_was_given(make_tank, sdk):
    tank = make_tank(admin_token=ADMIN_TOKEN)
    tank.set_store(index={"dims": 1, "embed": lambda texts: [[float(len(t))] for t in texts]})
    with running(tank) as server:
        admin = sdk(server)
        admin.put_item(["a"], "k", {"x": 1})
        admin.put_item(["a"], "hidden", {"x": 1}, index=False)
        (found,) = admin.search_items(["a"], query="anything")["items"]
        assert found["score"] == pytest.approx(1.0)
        assert all(i["score"] is None for i in admin.search_items(["a"])["items"])


def test_a_search_that_would_give_too_much_is_refused(server, sdk, monkeypatch):
    monkeypatch.setattr("surgetank.app.store.ANSWER_BYTES", 1000)
    ada = sdk(server, "ada")
    for n in range(5):
        ada.put_item(["a"], f"k{n}", {"x": "y" * 400})
    assert len(ada.search_items(["a"], limit=2)["items"]) == 2
    with pytest.raises(UnprocessableEntityError):
        ada.search_items(["a"])
