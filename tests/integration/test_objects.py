"""The objects of a `Surgetank`: what commands show, for programs."""

from __future__ import annotations

import sqlite3

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from support.savers import ids, listed, put, put_chain
from surgetank import Surgetank
from surgetank.exceptions import DatabaseUnavailable, EngineClosed, InvalidRequest, ThreadNotFound


def test_a_thread_that_nobody_knows_is_an_error(tank):
    put(tank.checkpointer(), "t", {"a": 1})
    tank.threads.require("t")
    assert tank.threads.is_known("t")
    with pytest.raises(ThreadNotFound, match="'tt'"):
        tank.threads.require("t", "tt")


def test_the_buffer_says_what_waits_and_where_it_belongs(tank):
    put_chain(tank.checkpointer(), "t", 3)
    assert tank.buffer.depth().entries == 3
    tank.buffer.check()
    assert tank.flush().ok
    assert tank.buffer.depth().entries == 0
    assert tank.buffer.binding().address == tank.database.address.rpartition("@")[2] or (
        tank.buffer.binding().database_id
    )


def test_storage_is_asked_by_a_call_as_before(tank):
    put_chain(tank.checkpointer(), "t", 3)
    assert tank.flush().ok
    assert tank.storage(thread="t").threads[0].checkpoints == 3
    assert tank.storage.raise_format() is False
    assert tank.raise_storage_format() is False


def test_logs_are_read_by_a_call_as_before(tank):
    for number in range(4):
        tank.emit_log(f"line {number}", thread_id="t")
    assert [line.message for line in tank.logs("t", after=2).lines] == ["line 2", "line 3"]
    assert [line.message for line in tank.logs("t", before=3, limit=1).lines] == ["line 1"]


def test_the_streams_and_their_breakers(tank):
    assert "checkpoints" in tank.streams
    assert set(tank.breakers()) == set(tank.streams)
    assert {state.value for state in tank.breakers().values()} == {"closed"}
    assert tank.flushing is False


def test_alerts_without_a_channel(tank):
    assert tank.alerts.channels == ()
    assert tank.alerts.channel_states() == []
    rules, problem = tank.alerts.states()
    assert [state.rule for state in rules] == list(tank.alerts.rules)
    assert (problem, tank.alerts.attempts()) == (None, [])


def test_the_schema_is_as_new_as_the_program(tank):
    tank.schema.migrate()
    assert (tank.schema.pending(), tank.schema.version()) == ([], tank.schema.newest)


def test_threads_move_in_and_out_again(tank, tmp_path):
    put_chain(tank.checkpointer(), "t", 3)
    path = tmp_path / "out.sqlite"
    seen = []
    out = tank.transfers.export_to(
        str(path), lossy=True, progress=lambda report, at, of: seen.append((at, of))
    )
    assert (out.threads, out.checkpoints, out.verified) == (1, 3, 3)
    assert seen[-1] == (1, 1)
    with sqlite3.connect(path) as connection:
        assert len(list(SqliteSaver(connection).list({"configurable": {"thread_id": "t"}}))) == 3
    tank.checkpointer().delete_thread("t")
    back = tank.transfers.import_from(f"sqlite:///{path}", threads=["t"])
    assert (back.checkpoints, back.skipped_count) == (3, 0)
    assert len(listed(tank.checkpointer(), "t")) == 3


def test_a_source_that_is_not_there_makes_no_home(tmp_path):
    tank = Surgetank(tmp_path / "home", database_url="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(InvalidRequest):
        tank.transfers.import_from(str(tmp_path / "missing.sqlite"))
    assert not (tmp_path / "home").exists()


def test_migrating_a_database_that_is_away_leaves_no_home_behind(tmp_path):
    home = tmp_path / "home"
    tank = Surgetank(home, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(DatabaseUnavailable):
        tank.schema.migrate()
    assert not home.exists()


def test_migrating_makes_a_home_that_belongs_to_the_database(tmp_path, fresh_database):
    tank = Surgetank(tmp_path / "other", database_url=fresh_database, flush_in_process=False)
    applied = tank.schema.migrate()
    assert applied[0].startswith("0001_")
    assert (tmp_path / "other" / "buffer.db").exists()
    assert tank.schema.migrate() == []
    tank.close()


def test_a_closed_engine_migrates_nothing(tmp_path, fresh_database):
    tank = Surgetank(tmp_path / "home", database_url=fresh_database, flush_in_process=False)
    tank.close()
    with pytest.raises(EngineClosed):
        tank.schema.migrate()
    assert not (tmp_path / "home").exists()


def test_threads_are_read_as_they_are_stored_page_by_page(tank):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 3)
    assert tank.flush().ok
    configs += [put(saver, "t", {"late": 1}, parent=configs[-1], step=3)]
    made = ids(configs)
    stored = tank.threads.stored()
    assert stored.read("t").checkpoint_id == made[-1]
    assert stored.read("unknown") is None
    first = stored.history("t", limit=2)
    assert [raw.checkpoint_id for raw in first] == [made[3], made[2]]
    assert first.more
    rest = stored.history("t", before=made[2], limit=2)
    assert [raw.checkpoint_id for raw in rest] == [made[1], made[0]]
    assert not rest.more


def test_pruning_says_what_would_go_and_does_it(tank):
    put_chain(tank.checkpointer(), "t", 3)
    assert tank.pruning.plan(["t"]) == {"t": {"": 2}}
    assert tank.pruning.plan(["t"], strategy="delete") == {"t": {"": 3}}
    with pytest.raises(ValueError, match="unknown strategy"):
        tank.pruning.plan(["t"], strategy="all")
    tank.pruning(["t"])
    assert len(listed(tank.checkpointer(), "t")) == 1
