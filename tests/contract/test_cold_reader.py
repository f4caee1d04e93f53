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

from support.savers import checkpoint, config, ids, put, put_chain
from support.transfer import postgres_official, sqlite_official
from surgetank import DatabaseUnavailable, Surgetank
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
        self.flush = flush
        self.close: Callable[[], object] | None = None  # its connections, if it has some

    def chain(self, thread: str, count: int, **options: Any) -> list[str]:
        """Ids of a chain of checkpoints, in the store, oldest first."""
        found = ids(put_chain(self.saver, thread, count, **options))
        self.flush()
        return found

    def add(self, thread: str, checkpoint_id: str, *, ns: str = "", **metadata: Any) -> None:
        """A checkpoint of this id."""
        made = checkpoint({"items": [checkpoint_id]}, {"items": "1.0"})
        made["id"] = checkpoint_id
        full = {"source": "loop", "step": 0, "parents": {}, **metadata}
        self.saver.put(config(thread, ns), made, full, made["channel_versions"])

    def write(
        self, thread: str, checkpoint_id: str, *writes: tuple[str, Any], task: str = "task-1"
    ) -> None:
        self.saver.put_writes(config(thread, "", checkpoint_id), list(writes), task)
        self.flush()

    def delete(self, thread: str) -> None:
        self.saver.delete_thread(thread)
        self.flush()

    def refs(self, thread: str | None = "t", **options: Any) -> list[CheckpointRef]:
        asked = {"ns": None, "before": None, "metadata": None, "last": None, "limit": 1000}
        return self.cold.page(thread, **{**asked, **options})

    def walked(self, thread: str | None, *, limit: int, **options: Any) -> list[CheckpointRef]:
        """All pages, one after the other, each from where the one before ended."""
        found: list[CheckpointRef] = []
        last: CheckpointRef | None = None
        while page := self.refs(thread, limit=limit, last=last, **options):
            found += page
            last = page[-1]
            if len(page) < limit:
                assert self.refs(thread, limit=limit, last=last, **options) == [], "the end"
        return found


def nothing() -> None:
    """What is put is there at once."""


@contextmanager
def postgres(request: pytest.FixtureRequest, _: Path) -> Iterator[Store]:
    tank: Surgetank = request.getfixturevalue("make_tank")()

    def flush() -> None:
        assert tank.flush().ok

    store = Store(ColdReader(tank.parts.database), tank.checkpointer(), flush)
    store.close = tank.parts.database.close
    yield store


@contextmanager
def memory(_: pytest.FixtureRequest, __: Path) -> Iterator[Store]:
    saver = InMemorySaver()
    yield Store(SaverCold(saver, faithful(None)), saver, nothing)


@contextmanager
def sqlite(_: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with sqlite_official(path / "checkpoints.sqlite") as official:
        store = Store(SaverCold(official.saver, faithful(None)), official.saver, nothing)
        store.close = official.saver.conn.close
        yield store


@contextmanager
def postgres_saver(request: pytest.FixtureRequest, _: Path) -> Iterator[Store]:
    with postgres_official(request.getfixturevalue("fresh_database")) as official:
        store = Store(SaverCold(official.saver, faithful(None)), official.saver, nothing)
        store.close = official.saver.conn.close
        yield store


# A further store joins the suite by a function that opens it.
KINDS: dict[str, Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Store]]] = {
    "postgres": postgres, "a saver in memory": memory, "a saver on SQLite": sqlite,
    "a saver on PostgreSQL": postgres_saver,
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
    store.write("t", one, ("a", 3), task="task-2")
    found = store.cold.writes("t", "", one)
    shown = [
        (w.task_id, w.idx, w.record.channel, loaded((w.record.type, w.record.data)))
        for w in sorted(found, key=lambda w: w.order)
    ]
    assert shown == [
        ("task-1", 0, "a", 1), ("task-1", 1, "b", {"deep": ["x"]}), ("task-2", 0, "a", 3),
    ]  # fmt: skip
    for raw in (store.cold.checkpoint("t", "", one), store.cold.latest("t", "", [])):
        assert raw is not None
        assert raw.writes == found
    assert store.cold.writes("t", "", "nobody's") == []
    assert store.cold.writes("u", "", one) == []


# -- values


def versions(store: Store, thread: str, checkpoint_id: str) -> dict[str, str]:
    found = store.cold.checkpoint(thread, "", checkpoint_id)
    assert found is not None
    return found.versions()


def test_values_of_any_version_are_found_and_what_is_missing_is_missing(store: Store) -> None:
    """A hot checkpoint asks for what it did not change, whichever checkpoint that came with."""
    chain = store.chain("t", 5)
    for step, checkpoint_id in enumerate(chain):
        found = store.cold.blobs("t", "", versions(store, "t", checkpoint_id))
        assert {channel: loaded(raw) for channel, raw in found.items()} == {
            "items": [f"item {i} of t" * 5 for i in range(step + 1)], "step": step,
        }  # fmt: skip
    oldest, newest = versions(store, "t", chain[0]), versions(store, "t", chain[-1])
    mixed = {"items": newest["items"], "step": oldest["step"], "gone": "1", "stale": "of nobody"}
    found = store.cold.blobs("t", "", mixed)
    assert (set(found), loaded(found["step"])) == ({"items", "step"}, 0)
    assert store.cold.blobs("t", "", {"items": "of nobody", "no channel": "1"}) == {}
    assert store.cold.blobs("t", "sub", newest) == {}
    assert store.cold.blobs("u", "", newest) == {}
    assert store.cold.blobs("t", "", {}) == {}


def test_values_that_come_along_are_those_of_the_checkpoint(store: Store) -> None:
    chain = store.chain("t", 3)
    for checkpoint_id in chain:
        wanted = store.cold.blobs("t", "", versions(store, "t", checkpoint_id))
        along = store.cold.checkpoint("t", "", checkpoint_id, values=True)
        assert along is not None
        assert along.blobs.items() <= wanted.items()
    newest = store.cold.latest("t", "", [], values=True)
    assert newest is not None
    assert newest.blobs == store.cold.blobs("t", "", newest.versions()), "of the newest, all"


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
    """Namespaces and threads side by side, their checkpoints in turns."""
    of_all = [
        CheckpointRef("tu"[n % 2], ("", "sub:1")[n // 2 % 2], f"1f0c5e1a-{n:04}") for n in range(14)
    ]
    for ref in of_all:
        store.add(ref.thread_id, ref.checkpoint_id, ns=ref.checkpoint_ns)
    store.flush()
    for limit in (1, 2, 3, 5, 100):
        for thread in (None, "t"):
            for ns in (None, "", "sub:1"):
                expected = [
                    ref
                    for ref in reversed(of_all)
                    if thread in (None, ref.thread_id) and ns in (None, ref.checkpoint_ns)
                ]
                assert store.walked(thread, ns=ns, limit=limit) == expected, (limit, thread, ns)
    assert store.walked("nobody", limit=2) == []


def test_equal_ids_of_several_threads_are_not_torn_apart(store: Store) -> None:
    """`copy_thread` and imports give the same ids to another thread."""
    for number in range(4):
        for thread in "abcde":
            store.add(thread, f"1f0c5e1a-{number:04}", ns="sub" if thread == "c" else "")
    store.flush()
    for limit in (1, 2, 3, 7):
        found = store.walked(None, limit=limit)
        assert len(found) == len(set(found)) == 20, limit
        order = [ref.checkpoint_id for ref in found]
        assert order == sorted(order, reverse=True)


def test_a_page_begins_before_what_was_asked_for(store: Store) -> None:
    chain = store.chain("t", 4)
    assert [ref.checkpoint_id for ref in store.refs(before=chain[2])] == chain[:2][::-1]
    assert store.refs(before=chain[0]) == []
    last = store.refs(before=chain[3], limit=1)[-1]
    rest = store.refs(before=chain[3], last=last)
    assert [last.checkpoint_id, *(ref.checkpoint_id for ref in rest)] == chain[:3][::-1]


def test_a_filter_leaves_nothing_out_that_fits(store: Store) -> None:
    """A store may give more than fits: `Reader` looks again. It never gives less."""
    mine = store.chain("t", 3, source="update")
    store.chain("t", 2, source="loop")
    found = {ref.checkpoint_id for ref in store.refs(metadata={"source": "update"})}
    assert found >= set(mine)
    assert found == set(mine), "the source is a filter that all of these know"
    walked = store.walked("t", limit=1, metadata={"source": "update"})
    assert [ref.checkpoint_id for ref in walked] == mine[::-1]


@pytest.mark.parametrize(
    "metadata", [{"run_id": "r1"}, {"deep": {"a": [1]}}, {"score": 1}, {"text": "a'b%\n"}]
)
def test_what_a_store_can_not_filter_by_is_left_to_who_reads(
    store: Store, metadata: dict[str, Any]
) -> None:
    mine = store.chain("t", 2, **metadata)
    store.chain("t", 2, run_id="r2", deep={}, score=2, text="b")
    walked = store.walked("t", limit=1, metadata={**metadata, "source": "loop"})
    assert len(walked) == len(set(walked))
    assert {ref.checkpoint_id for ref in walked} >= set(mine)


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
        store.flush()
        assert store.cold.mark("t") != mark


def test_what_was_deleted_lately_is_said_if_the_store_can_tell(store: Store) -> None:
    store.chain("t", 1)
    store.chain("u", 1)
    store.delete("t")
    can_tell = store.cold.marks(["u"]) is not None
    assert store.cold.deleted(["t", "u", "v"]) == ({"t"} if can_tell else set())
    assert store.cold.deleted([]) == set()


def test_several_at_once_are_what_one_by_one_gives(store: Store) -> None:
    chain = store.chain("t", 3)
    found = store.cold.many("t", "", [*chain, "nobody's"])
    assert set(found) <= set(chain), "what is missing is read singly"
    for checkpoint_id, raw in found.items():
        single = store.cold.checkpoint("t", "", checkpoint_id)
        assert single is not None
        assert (raw.parent_id, raw.record) == (single.parent_id, single.record)
        assert raw.writes == single.writes
        assert raw.blobs == store.cold.blobs("t", "", single.versions())
    assert store.cold.many("t", "", []) == {}


# -- a store that is away


CALLS: dict[str, Callable[[Cold], object]] = {
    "checkpoint": lambda cold: cold.checkpoint("t", "", "id"),
    "latest": lambda cold: cold.latest("t", "", []),
    "writes": lambda cold: cold.writes("t", "", "id"),
    "blobs": lambda cold: cold.blobs("t", "", {"items": "1"}),
    "projections": lambda cold: cold.projections("t", "", "id"),
    "still_there": lambda cold: cold.still_there("t", "", "id"),
    "page": lambda cold: cold.page("t", None, before=None, metadata=None, last=None, limit=1),
    "run_checkpoints": lambda cold: cold.run_checkpoints(["r"]),
}


def test_a_store_whose_connections_are_gone_is_unavailable_and_never_empty(store: Store) -> None:
    if store.close is None:
        return  # in this process's memory: it is never away
    store.chain("t", 1)
    store.close()
    for name, call in CALLS.items():
        with pytest.raises(DatabaseUnavailable):
            pytest.fail(f"{name} answered {call(store.cold)!r}")
