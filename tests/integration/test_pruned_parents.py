"""A put on a checkpoint that was pruned meanwhile never loses what it did not change: it is
refused, or parked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.savers import config, ids, listed, put_chain, stored
from support.tanks import MakeTank
from surgetank import EntryRejected, StateCorrupt, Surgetank

TEXT = "a value that is no small one and does not change, " * 5


@pytest.fixture(params=(1, 2), ids=("level 1", "level 2"))
def level(request: pytest.FixtureRequest, tank: Surgetank) -> int:
    with tank.parts.database.connection() as connection:
        connection.execute("UPDATE surgetank.storage_format SET level = %s", (request.param,))
    return int(request.param)


def grow(saver: Any, thread: str, parent: Any = None, number: int = 0, **changed: Any) -> Any:
    """A checkpoint whose channel `text` came with the first one; only `changed` channels are
    put."""
    found = saver.get_tuple(parent) if parent is not None else None
    old = found.checkpoint if found is not None else {"channel_values": {}, "channel_versions": {}}
    return put_on(saver, thread, parent, old, **(changed or {"text": TEXT, "n": number}))


def put_on(saver: Any, thread: str, parent: Any, old: Any, **changed: Any) -> Any:
    from langgraph.checkpoint.base import empty_checkpoint

    new = {c: saver.get_next_version(old["channel_versions"].get(c), None) for c in changed}
    checkpoint = {
        **empty_checkpoint(),
        "channel_values": {**old["channel_values"], **changed},
        "channel_versions": {**old["channel_versions"], **new},
    }
    return saver.put(parent or config(thread), checkpoint, {"source": "loop", "step": 1}, new)


def waiting(tank: Surgetank) -> int:
    return tank.parts.buffer.depth().entries


@pytest.mark.parametrize(
    "flushed", [False, True], ids=["while the pruning waits", "after it was flushed"]
)
def test_a_put_on_a_pruned_checkpoint_is_refused_by_name(tank, flushed):
    saver = tank.checkpointer()
    first = grow(saver, "t")
    old = stored(saver, first).checkpoint
    grow(saver, "t", first, text=TEXT + "!", n=1)
    assert tank.flush().ok
    saver.prune(["t"])
    if flushed:
        assert tank.flush().ok
    before = waiting(tank)
    with pytest.raises(EntryRejected, match="pruned"):
        put_on(saver, "t", first, old, n=7)
    saver.put_writes(first, [("n", 1)], "task")  # of a checkpoint that is gone
    assert waiting(tank) == before
    assert tank.flush().ok
    assert [found.checkpoint["channel_values"]["n"] for found in listed(saver, "t")] == [1]


def test_a_put_that_changes_everything_needs_nothing_of_a_pruned_checkpoint(tank):
    saver = tank.checkpointer()
    first = grow(saver, "t")
    old = stored(saver, first).checkpoint
    grow(saver, "t", first, text="other", n=1)
    saver.prune(["t"])
    assert tank.flush().ok
    put_on(saver, "t", first, old, text="all of it", n=7)
    assert tank.flush().ok
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {
        "text": "all of it",
        "n": 7,
    }


@pytest.mark.usefixtures("level")
def test_what_another_buffer_pruned_is_noticed_at_the_flush_and_parked(
    tank: Surgetank, make_tank: MakeTank, tmp_path: Path
):
    saver, other = tank.checkpointer(), make_tank(home=tmp_path / "another home")
    first = grow(saver, "t")
    old = stored(saver, first).checkpoint
    assert tank.flush().ok
    theirs = other.checkpointer()
    grow(theirs, "t", first, text="theirs", n=1)
    theirs.prune(["t"])
    assert other.flush().ok
    put_on(saver, "t", first, old, n=7)  # does not change the text, which is gone
    put_chain(saver, "neighbour", 2)
    job = tank.flush()
    assert job.result["entries_parked"] == 1
    assert "pruned" in job.warnings[0]
    assert len(listed(saver, "neighbour")) == 2
    with pytest.raises(StateCorrupt) as error:
        saver.get_tuple(config("t"))
    assert (error.value.thread_id, error.value.channel) == ("t", "text")
    assert stored(theirs, config("t")).checkpoint["channel_values"] == {"text": "theirs", "n": 1}


@pytest.mark.usefixtures("level")
def test_a_value_that_the_database_lost_is_never_left_out(make_tank: MakeTank, tank: Surgetank):
    configs = put_chain(tank.checkpointer(), "t", 3)
    lost = grow(tank.checkpointer(), "t", configs[-1], text=TEXT)
    assert tank.flush().ok
    with tank.parts.database.connection() as connection:
        connection.execute("DELETE FROM surgetank.checkpoint_blobs WHERE channel = 'text'")
    saver = make_tank(recent_max_bytes=0).checkpointer()
    tank.parts.buffer.shed_copies()
    with pytest.raises(StateCorrupt, match="text") as error:
        saver.get_tuple(lost)
    assert (error.value.thread_id, error.value.channel) == ("t", "text")
    assert stored(saver, configs[-1]).checkpoint["id"] == ids(configs)[-1]


def test_a_first_checkpoint_is_kept_whole_whatever_it_says_is_new(tank):
    saver = tank.checkpointer()
    checkpoint = {
        "v": 4, "id": "1efd0000-0000-6000-8000-000000000001", "ts": "2026-01-01T00:00:00+00:00", "versions_seen": {},
        "channel_values": {"a": [1], "b": "x"}, "channel_versions": {"a": 1, "b": 1},
    }  # fmt: skip
    saver.put(config("t"), checkpoint, {"source": "input", "step": -1}, {"a": 1})
    assert tank.flush().ok
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"a": [1], "b": "x"}
