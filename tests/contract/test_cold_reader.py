"""One suite for every durable store as checkpoints are read from it: what `Cold` promises, on
PostgreSQL and on LangGraph's own savers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from support.savers import ids, put, put_chain
from support.transfer import sqlite_official
from surgetank import Surgetank
from surgetank.streams.checkpoints.any_saver.cold import SaverCold
from surgetank.streams.checkpoints.cold.reader import Cold, ColdReader
from surgetank.streams.checkpoints.refs import CheckpointRef
from surgetank.streams.checkpoints.serde import faithful

SERDE = JsonPlusSerializer()


class Store:
    """A durable store, filled through its saver."""

    def __init__(self, cold: Cold, saver: Any, flush: Callable[[], object]) -> None:
        self.cold = cold
        self.saver = saver
        self._flush = flush

    def chain(self, thread: str, count: int, **options: Any) -> list[str]:
        """Ids of a chain of checkpoints, in the store, oldest first."""
        found = ids(put_chain(self.saver, thread, count, **options))
        self._flush()
        return found

    def write(self, thread: str, checkpoint_id: str, *writes: tuple[str, Any]) -> None:
        config = {
            "configurable": {
                "thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint_id
            }
        }  # fmt: skip
        self.saver.put_writes(config, list(writes), "task-1")
        self._flush()

    def delete(self, thread: str) -> None:
        self.saver.delete_thread(thread)
        self._flush()

    def refs(self, thread: str | None = "t", **options: Any) -> list[CheckpointRef]:
        asked = {"ns": None, "before": None, "metadata": None, "last": None, "limit": 1000}
        return self.cold.page(thread, **{**asked, **options})


def nothing() -> None:
    """What is put is there at once."""


@contextmanager
def postgres(request: pytest.FixtureRequest, _: Path) -> Iterator[Store]:
    tank: Surgetank = request.getfixturevalue("make_tank")()

    def flush() -> None:
        assert tank.flush().ok

    yield Store(ColdReader(tank.parts.database), tank.checkpointer(), flush)


@contextmanager
def memory(_: pytest.FixtureRequest, __: Path) -> Iterator[Store]:
    saver = InMemorySaver()
    yield Store(SaverCold(saver, faithful(None)), saver, nothing)


@contextmanager
def sqlite(_: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with sqlite_official(path / "checkpoints.sqlite") as official:
        yield Store(SaverCold(official.saver, faithful(None)), official.saver, nothing)


# A further store joins the suite by a function that opens it.
KINDS: dict[str, Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Store]]] = {
    "postgres": postgres, "a saver in memory": memory, "a saver on SQLite": sqlite,
}  # fmt: skip


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with KINDS[request.param](request, tmp_path) as found:
        yield found


def loaded(raw: tuple[str, bytes]) -> Any:
    return SERDE.loads_typed(raw)


# -- one checkpoint


def test_a_checkpoint_is_found_by_its_id_with_its_parent_and_not_by_another_s(store: Store) -> None:
    first, second, third = store.chain("t", 3)
    found = store.cold.checkpoint("t", "", second)
    assert found is not None
    assert (found.thread_id, found.checkpoint_ns, found.checkpoint_id, found.parent_id) == (
        "t", "", second, first,
    )  # fmt: skip
    assert store.cold.checkpoint("u", "", third) is None
    assert store.cold.checkpoint("t", "sub", third) is None
    assert store.cold.checkpoint("t", "", "nobody's") is None


def test_the_newest_that_is_not_hidden_is_found(store: Store) -> None:
    first, second, third = store.chain("t", 3)
    for hidden, expected in (([], third), ([third], second), ([third, second], first)):
        found = store.cold.latest("t", "", hidden)
        assert found is not None
        assert found.checkpoint_id == expected
    assert store.cold.latest("t", "", [first, second, third]) is None
    assert store.cold.latest("u", "", []) is None


def test_namespaces_are_read_apart(store: Store) -> None:
    (root,), (inner,) = store.chain("t", 1), store.chain("t", 1, ns="sub:1")
    for ns, expected in (("", root), ("sub:1", inner)):
        found = store.cold.latest("t", ns, [])
        assert found is not None
        assert found.checkpoint_id == expected
    assert {ref.checkpoint_ns for ref in store.refs()} == {"", "sub:1"}
    assert [ref.checkpoint_id for ref in store.refs(ns="sub:1")] == [inner]


def test_writes_come_with_their_checkpoint_in_order(store: Store) -> None:
    (one,) = store.chain("t", 1)
    assert store.cold.writes("t", "", one) == []
    store.write("t", one, ("a", 1), ("b", {"deep": ["x"]}))
    found = store.cold.writes("t", "", one)
    assert [(w.task_id, w.record.channel) for w in found] == [("task-1", "a"), ("task-1", "b")]
    whole = store.cold.checkpoint("t", "", one)
    assert whole is not None
    assert [w.order for w in whole.writes] == [w.order for w in found]
    assert store.cold.writes("t", "", "nobody's") == []


# -- values


def versions(store: Store, thread: str, checkpoint_id: str) -> dict[str, str]:
    found = store.cold.checkpoint(thread, "", checkpoint_id)
    assert found is not None
    return found.versions()


def test_values_of_any_version_are_found_and_what_is_missing_is_missing(store: Store) -> None:
    chain = store.chain("t", 5)
    for step, checkpoint_id in enumerate(chain):
        wanted = versions(store, "t", checkpoint_id)
        found = store.cold.checkpoint("t", "", checkpoint_id)
        assert found is not None
        values = {**store.cold.blobs("t", "", wanted), **found.blobs}
        assert len(loaded(values["items"])) == step + 1
    assert store.cold.blobs("t", "", {"items": "of nobody", "no channel": "1"}) == {}
    assert store.cold.blobs("u", "", versions(store, "t", chain[0])) == {}
    assert store.cold.blobs("t", "", {}) == {}


def test_projections_are_json_and_empty_when_the_checkpoint_is_gone(store: Store) -> None:
    (one,) = store.chain("t", 1, customer="acme")
    metadata, scalars = store.cold.projections("t", "", one)
    assert json.loads(metadata)["customer"] == "acme"
    assert json.loads(scalars)["step"] == 0
    assert store.cold.projections("t", "", "nobody's") == (b"{}", b"{}")


def test_it_is_known_whether_a_checkpoint_is_still_there(store: Store) -> None:
    (one,) = store.chain("t", 1)
    assert store.cold.still_there("t", "", one)
    assert not store.cold.still_there("t", "", "nobody's")
    store.delete("t")
    assert not store.cold.still_there("t", "", one)
    assert store.cold.latest("t", "", []) is None
    assert store.refs() == []


# -- pages


def test_pages_are_newest_first_and_have_neither_gap_nor_double(store: Store) -> None:
    chain = store.chain("t", 7)
    store.chain("u", 2)
    seen: list[CheckpointRef] = []
    last: CheckpointRef | None = None
    while page := store.refs(limit=3, last=last):
        seen += page
        last = page[-1]
    assert [ref.checkpoint_id for ref in seen] == chain[::-1]
    assert {ref.thread_id for ref in store.refs(None)} == {"t", "u"}
    assert len(store.refs(None)) == 9


def test_a_page_begins_before_what_was_asked_for(store: Store) -> None:
    chain = store.chain("t", 4)
    assert [ref.checkpoint_id for ref in store.refs(before=chain[2])] == chain[:2][::-1]
    assert store.refs(before=chain[0]) == []


def test_a_filter_leaves_nothing_out_that_fits(store: Store) -> None:
    """A store may give more than fits: `Reader` looks again. It never gives less."""
    mine = store.chain("t", 3, source="update")
    store.chain("t", 2, source="loop")
    found = {ref.checkpoint_id for ref in store.refs(metadata={"source": "update"})}
    assert found >= set(mine)
    assert found == set(mine), "the source is a filter that all of these know"


def test_checkpoints_of_runs_are_found(store: Store) -> None:
    mine = store.chain("t", 2, run_id="run-1")
    store.chain("u", 1, run_id="run-2")
    assert {ref.checkpoint_id for ref in store.cold.run_checkpoints(["run-1"])} == set(mine)
    assert store.cold.run_checkpoints(["run-3"]) == []
    assert store.cold.run_checkpoints([]) == []


# -- what a store may not be able to tell


def test_a_mark_changes_with_the_thread_if_the_store_has_marks(store: Store) -> None:
    store.chain("t", 1)
    mark = store.cold.mark("t")
    marks = store.cold.marks(["t", "u"])
    assert (mark is None) is (marks is None), "it can tell, or it can't"
    if mark is not None and marks is not None:
        assert marks == {"t": mark}
        assert store.cold.mark("u") is None
        assert store.cold.mark("t") == mark
        put(store.saver, "t", {"x": 1})
        store._flush()
        assert store.cold.mark("t") != mark


def test_what_was_deleted_lately_is_told_or_nothing_is(store: Store) -> None:
    store.chain("t", 1)
    store.chain("u", 1)
    store.delete("t")
    assert store.cold.deleted(["t", "u", "v"]) <= {"t"}


def test_several_at_once_are_what_one_by_one_gives(store: Store) -> None:
    chain = store.chain("t", 3)
    found = store.cold.many("t", "", [*chain, "nobody's"])
    assert set(found) <= set(chain), "what is missing is read singly"
    for checkpoint_id, raw in found.items():
        single = store.cold.checkpoint("t", "", checkpoint_id)
        assert single is not None
        assert (raw.parent_id, raw.record) == (single.parent_id, single.record)
