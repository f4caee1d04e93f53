"""Everything at once on one thread: differences, copies, a parked entry, spilled values, and what
ends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.savers import config, put
from support.spilling import spill
from surgetank import NotSaved, Surgetank, SurgetankSaver
from surgetank.streams.checkpoints.envelope import STREAM

REFUSED = "7"


def go_on(saver: SurgetankSaver, thread: str, configs: list[Any], count: int) -> None:
    """More steps of a conversation that grows, so that each is stored as a difference."""
    for _ in range(count):
        step = len(configs)
        values = {"items": [f"item {i} of {thread}" * 20 for i in range(step + 1)], "step": step}
        parent = configs[-1] if configs else None
        configs.append(put(saver, thread, values, parent=parent, step=step))
        saver.put_writes(configs[-1], [("items", f"write {step}")], f"task-{step}")


def seen(saver: SurgetankSaver, configs: list[Any]) -> list[Any]:
    found = []
    for at in configs:
        known = saver.get_tuple(at)
        assert known is not None
        found.append((known.checkpoint["channel_values"], known.metadata, known.pending_writes))
    return found


def expected(thread: str, count: int) -> list[Any]:
    return [[f"item {i} of {thread}" * 20 for i in range(step + 1)] for step in range(count)]


def refuse(url: str, *, again: bool = True) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE surgetank.checkpoints DROP CONSTRAINT IF EXISTS refused")
        if again:
            connection.execute(
                "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refused CHECK"
                f" (metadata ->> 'step' <> '{REFUSED}') NOT VALID"
            )


@pytest.fixture
def thread_of_everything(
    make_tank: Any, tmp_path: Path, database_url: str
) -> tuple[Surgetank, list[Any]]:
    """Steps 0 to 5 are flushed and kept as copy, 6 to 9 were flushed but for 7, which is parked, 10
    to 13 are spilled, 14 and 15 are in the buffer; all are differences to the one before."""
    tank = make_tank(fallback_url=str(tmp_path / "fallback"))
    saver = tank.checkpointer()
    configs: list[Any] = []
    go_on(saver, "t", configs, 6)
    assert tank.flush().ok
    refuse(database_url)
    go_on(saver, "t", configs, 4)
    tank.flush()
    assert len(tank.parked()) >= 1
    go_on(saver, "t", configs, 4)
    assert spill(tank) >= 1
    go_on(saver, "t", configs, 2)
    return tank, configs


def test_all_of_it_is_read_as_it_was_accepted(
    thread_of_everything: tuple[Surgetank, list[Any]], make_tank: Any
) -> None:
    tank, configs = thread_of_everything
    before = seen(tank.checkpointer(), configs)
    assert [values["items"] for values, _, _ in before] == expected("t", 16)
    listed = list(tank.checkpointer().list(config("t")))
    assert [t.checkpoint["id"] for t in reversed(listed)] == [
        at["configurable"]["checkpoint_id"] for at in configs
    ]
    other = make_tank()  # another process that knows nothing of the fallback's settings
    assert seen(other.checkpointer(), configs) == before


def test_it_arrives_whole_when_the_cause_is_gone(
    thread_of_everything: tuple[Surgetank, list[Any]], make_tank: Any, database_url: str
) -> None:
    tank, configs = thread_of_everything
    before = seen(tank.checkpointer(), configs)
    tank.flush()
    assert seen(tank.checkpointer(), configs) == before
    refuse(database_url, again=False)
    tank.parked.retry()
    assert tank.flush().ok
    tank.wait_saved("t", timeout=30)
    assert tank.parked() == []
    assert tank.parts.buffer.depth().entries == 0
    cold = make_tank(home=tank.settings.home.parent / "elsewhere")
    assert seen(cold.checkpointer(), configs) == before
    tank.parts.spills.clean()
    assert list((tank.settings.home.parent / "fallback").rglob("*.spill")) == []


def test_a_deletion_takes_all_of_it_and_the_next_thread_of_that_name_is_new(
    thread_of_everything: tuple[Surgetank, list[Any]], make_tank: Any, database_url: str
) -> None:
    tank, configs = thread_of_everything
    saver = tank.checkpointer()
    saver.delete_thread("t")
    assert all(saver.get_tuple(at) is None for at in configs)
    fresh: list[Any] = []
    go_on(saver, "t", fresh, 3)
    refuse(database_url, again=False)
    assert tank.flush().ok
    tank.wait_saved("t", timeout=30)
    cold = make_tank(home=tank.settings.home.parent / "elsewhere").checkpointer()
    for reader in (saver, cold):
        assert all(reader.get_tuple(at) is None for at in configs)
        assert [values["items"] for values, _, _ in seen(reader, fresh)] == expected("t", 3)
    tank.parts.spills.clean()
    assert list((tank.settings.home.parent / "fallback").rglob("*.spill")) == []


def test_pruning_keeps_the_newest_whole(
    thread_of_everything: tuple[Surgetank, list[Any]], make_tank: Any, database_url: str
) -> None:
    tank, configs = thread_of_everything
    saver = tank.checkpointer()
    newest = seen(saver, configs[-1:])
    saver.prune(["t"], strategy="keep_latest")
    tank.flush()
    assert seen(saver, configs[-1:]) == newest
    assert [t.config for t in saver.list(config("t"))] == configs[-1:]
    refuse(database_url, again=False)
    tank.parked.retry()
    assert tank.flush().ok
    tank.wait_saved("t", timeout=30)
    cold = make_tank(home=tank.settings.home.parent / "elsewhere").checkpointer()
    for reader in (saver, cold):
        assert seen(reader, configs[-1:]) == newest
        assert [t.config for t in reader.list(config("t"))] == configs[-1:]


def test_a_receipt_of_deleted_pruned_and_unknown_threads(
    thread_of_everything: tuple[Surgetank, list[Any]], database_url: str
) -> None:
    tank, _ = thread_of_everything
    saver = tank.checkpointer()
    with pytest.raises(NotSaved) as caught:
        tank.wait_saved("t", timeout=0)
    assert caught.value.parked
    tank.wait_saved("never seen", timeout=0)
    saver.delete_thread("t")  # the deletion is what waits now
    with pytest.raises(NotSaved):
        tank.wait_saved("t", timeout=0)
    refuse(database_url, again=False)
    assert tank.flush().ok
    tank.wait_saved("t", timeout=0)
    configs: list[Any] = []
    go_on(saver, "t", configs, 3)
    saver.prune(["t"], strategy="keep_latest")
    assert tank.flush(STREAM).ok
    tank.wait_saved("t", timeout=0)
