"""Reading what is only in PostgreSQL: large values arrive whole, and the newest checkpoint costs
one round trip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint
from psycopg import Connection

from support.savers import ids, listed, put, put_chain
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.encode.differences.patch import MAX_PATCHED
from surgetank.streams.checkpoints.cold.copying import LARGE
from surgetank.streams.checkpoints.cold.projection import MAX_CHANNELS


@pytest.fixture
def tank(make_tank: MakeTank) -> Surgetank:
    """Without copies of what was flushed, so that the database is read."""
    return make_tank(recent_max_bytes=0)


@pytest.fixture
def trips(tank: Surgetank, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each use of a connection for reading."""
    seen: list[int] = []
    plain = tank.parts.database.reading

    @contextmanager
    def counted() -> Iterator[Connection[Any]]:
        seen.append(1)
        with plain() as connection:
            yield connection

    monkeypatch.setattr(tank.parts.database, "reading", counted)
    return seen


def at(thread: str, checkpoint_id: str | None = None, ns: str = "") -> Any:
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id is not None else {}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, **named}}


def values(saver: Any, config: Any) -> dict[str, Any]:
    found = saver.get_tuple(config)
    assert found is not None
    checkpoint: Checkpoint = found.checkpoint
    return checkpoint["channel_values"]


def test_the_newest_checkpoint_is_read_in_one_round_trip_with_values_and_writes(tank, trips):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 12)
    saver.put_writes(configs[-1], [("items", "a write"), ("branch:to:next", None)], "task")
    hot = saver.get_tuple(at("t"))
    assert tank.flush().ok
    assert saver.get_tuple(at("t")) == hot
    assert len(trips) == 1
    assert saver.get_tuple(at("t", ids(configs)[-1])).pending_writes == hot.pending_writes
    assert len(trips) == 2


def test_bookkeeping_channels_come_along_and_stay_out_of_the_projection(tank, trips):
    saver = tank.checkpointer()
    put(saver, "t", {"items": [1], "branch:to:node": None, "__pregel_tasks": ["x"]})
    tank.flush()
    assert values(saver, at("t")) == {"items": [1], "branch:to:node": None, "__pregel_tasks": ["x"]}
    assert len(trips) == 1
    with tank.parts.database.connection() as connection:
        (state,) = connection.execute("SELECT state FROM surgetank.threads").fetchone()
    assert state == {"items": [1]}


def test_older_checkpoints_forks_and_subgraphs_are_read_whole(tank):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 20)
    fork = put(saver, "t", {"forked": True}, parent=configs[3])
    sub = put(saver, "t", {"inner": [1, 2]}, ns="sub:1")
    before = {repr(c): saver.get_tuple(c) for c in (*configs, fork, sub)}
    assert tank.flush().ok
    for config in (*configs, fork, sub):
        assert saver.get_tuple(config) == before[repr(config)]


def test_the_newest_after_a_deletion_is_read_with_the_values_of_its_own(tank):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 6)
    before = [saver.get_tuple(c) for c in configs]
    tank.flush()
    saver.prune(["t"], strategy="keep_latest")
    tank.flush()
    assert saver.get_tuple(at("t")).checkpoint == before[-1].checkpoint
    assert len(listed(saver, "t")) == 1


def test_more_channels_than_the_projection_shows_are_all_read(tank, trips):
    saver = tank.checkpointer()
    many = {
        f"c{i:03}": f"a value that needs a row of its own {i}" for i in range(MAX_CHANNELS + 50)
    }
    put(saver, "t", many)
    tank.flush()
    assert values(saver, at("t")) == many
    assert len(trips) == 1


def test_large_values_of_every_kind_arrive_whole(tank):
    saver = tank.checkpointer()
    large = {
        "noise": os.urandom(LARGE + 1),
        "text": "ab" * LARGE,
        "huge noise": os.urandom(MAX_PATCHED + 1),
        "huge text": "some words " * (MAX_PATCHED // 8),
        "small": 1,
    }
    config = put(saver, "t", large, note="x" * (2 * LARGE))
    noise = os.urandom(LARGE)
    saver.put_writes(config, [("noise", noise)], "task")
    job = tank.flush()
    assert job.ok, job.result
    found = saver.get_tuple(at("t"))
    assert found.checkpoint["channel_values"] == large
    assert found.metadata["note"] == "x" * (2 * LARGE)
    assert found.pending_writes == [("task", "noise", noise)]


def test_a_large_value_that_grows_is_read_at_each_of_its_versions(tank):
    saver = tank.checkpointer()
    text = os.urandom(LARGE).hex()
    configs = [put(saver, "t", {"text": text[:-1] + "!" * n}) for n in range(4)]
    assert tank.flush().ok
    assert [len(values(saver, config)["text"]) for config in configs] == [
        len(text) - 1 + n for n in range(4)
    ]
    with tank.parts.database.connection() as connection:
        (size,) = connection.execute(
            "SELECT sum(length(data)) FROM surgetank.checkpoint_blobs WHERE channel = 'text'"
        ).fetchone()
    assert size < 1.2 * len(text) / 1.5
