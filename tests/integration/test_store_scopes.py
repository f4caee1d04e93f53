"""Who reaches what of the store, and what an erasure takes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from langgraph.store.base import (
    GetOp,
    PutOp,
)

from support.stores import index_of
from surgetank import Surgetank
from surgetank.exceptions import (
    NamespaceForbidden,
)
from surgetank.workflows.store.scope import Scope


def asked(tank: Surgetank, query: str) -> list[tuple[Any, ...]]:
    """Ask the database itself."""
    assert tank.settings.database_url is not None
    url = tank.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description is not None else []


def test_a_part_of_the_store_is_a_store_of_its_own(tank):
    everything = tank.store()
    ada, bob = everything.within(Scope.below("ada")), everything.within(Scope.below("bob"))
    for store, who in ((ada, "ada"), (bob, "bob")):
        store.put(("notes",), "k", {"of": who})
        store.put(("user:bob", "notes"), "k", {"of": who})
    assert ada.get(("notes",), "k").value == {"of": "ada"}
    assert bob.get(("notes",), "k").value == {"of": "bob"}
    assert [i.namespace for i in ada.search(("notes",))] == [("notes",)]
    assert {i.value["of"] for i in ada.search(())} == {"ada"}
    assert ada.list_namespaces() == [("notes",), ("user:bob", "notes")]
    assert ada.list_namespaces(max_depth=1) == [("notes",), ("user:bob",)]
    assert ada.list_namespaces(suffix=("*", "*", "notes")) == [], "its root is no label for it"
    assert ada.list_namespaces(prefix=("*", "notes")) == [("user:bob", "notes")]
    ada.delete(("notes",), "k")
    assert bob.get(("notes",), "k") is not None
    assert everything.get((*everything.of_user("bob"), "notes"), "k") is not None
    assert len(everything.search(())) == 3


def test_a_part_by_name_holds_what_names_the_user(tank):
    everything = tank.store(index=index_of())
    for namespace in [
        ("memories", "ada"),
        ("memories", "bob"),
        ("memories", "adam"),
        ("ada",),
        ("xada", "y"),
    ]:
        everything.put(namespace, "k", {"text": "zebra"})
    ada = everything.within(Scope.naming("ada"))
    assert {i.namespace for i in ada.search(())} == {("memories", "ada"), ("ada",)}
    assert {i.namespace for i in ada.search((), query="zebra")} == {("memories", "ada"), ("ada",)}
    assert [i.namespace for i in ada.search(("memories",))] == [("memories", "ada")]
    assert ada.list_namespaces() == [("ada",), ("memories", "ada")]
    assert ada.list_namespaces(max_depth=1) == [("ada",), ("memories",)]
    ada.put(("memories", "ada", "x"), "k", {})
    for namespace in [("memories", "bob"), ("memories",), ("new",)]:
        for op in (GetOp(namespace, "k"), PutOp(namespace, "k", {}), PutOp(namespace, "k", None)):
            with pytest.raises(NamespaceForbidden):
                ada.batch([op])


@pytest.mark.parametrize("scope", ["user", "named"])
def test_an_erasure_takes_the_users_part(make_tank, scope):
    tank = make_tank(store_scope=scope)
    store = tank.store(index=index_of())
    mine = store.within(Scope.below("ada@example.com"))
    mine.put(("notes",), "k", {"text": "mine"})
    for who in ("bob", "ada@example%2Ecom"):
        store.put(("memories", who.replace("@example%2Ecom", "@example%2Ecom")), "k", {"text": who})
    report = tank.erase_user("ada@example.com")
    assert report.state == "completed"
    left = {i.namespace for i in store.search(())}
    told = [text for text in report.out_of_reach if "store" in text]
    if scope == "named":
        assert report.removed["items of the store"] == 2
        assert left == {("memories", "bob")}
        assert told == []
    else:
        assert report.removed["items of the store"] == 1
        assert left == {("memories", "bob"), ("memories", "ada@example%2Ecom")}
        assert len(told) == 1
    assert asked(tank, "SELECT count(*) FROM surgetank.store_vectors") == [(len(left),)]
