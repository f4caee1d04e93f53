"""LangGraph's own savers as the durable store: real graphs, real databases, kills and refused
values."""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.types import Command
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from support.graphs import agent, delta_graph
from support.savers import config, ids, listed, put, put_chain
from support.transfer import Official, postgres_official, sqlite_official
from support.waiting import wait_until
from surgetank import ConfigurationError, Surgetank
from surgetank.buffer.coordination import Due
from surgetank.encode.equality import difference
from surgetank.model import JobStatus
from surgetank.sinks.protocol import Slice
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer

Tank = Callable[..., Surgetank]


@pytest.fixture(params=["postgres", "sqlite"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Official]:
    """One of LangGraph's savers on a database of the test's own."""
    if request.param == "postgres":
        with postgres_official(request.getfixturevalue("fresh_database")) as found:
            yield found
    else:
        with sqlite_official(tmp_path / "checkpoints.sqlite") as found:
            yield found


@pytest.fixture
def into(tmp_path: Path, database_url: str) -> Iterator[Tank]:
    """Opens engines whose checkpoints go to a saver; logs and errors stay with the database."""
    opened: list[Surgetank] = []

    def make(saver: Any, **settings: Any) -> Surgetank:
        settings = {
            "home": tmp_path / "home", "database_url": database_url, "flush_in_process": False,
            "flush_on_close": False, "breaker_max": 0.2, "retry_base": 0.05, "retry_max": 0.2,
            **settings,
        }  # fmt: skip
        tank = Surgetank(sink=saver, **settings).open()
        opened.append(tank)
        return tank

    yield make
    for tank in opened:
        tank.close()


def seen(saver: Any, thread: str) -> list[Any]:
    return [
        (t.config, t.checkpoint, t.metadata, t.parent_config, t.pending_writes)
        for t in listed(saver, thread)
    ]


def test_a_graph_runs_is_flushed_and_its_state_is_read_back_cold(into, official):
    tank = into(official.saver)
    graph = agent(tank.checkpointer())
    on = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [HumanMessage("hi")]}, on)
    hot = seen(tank.checkpointer(), "t")

    job = tank.flush()

    assert job.ok, job.result
    assert tank.status().buffer.entries == 0
    assert difference(hot, seen(tank.checkpointer(), "t")) is None
    assert graph.get_state(on).next == ("ask",)
    alone = agent(official.saver).get_state_history(on)
    assert (
        difference([s.values for s in graph.get_state_history(on)], [s.values for s in alone])
        is None
    )
    graph.invoke(Command(resume="yes"), on)  # a hot checkpoint on cold values
    assert graph.get_state(on).values["approved"] == "yes"
    assert tank.flush().ok
    assert agent(official.saver).get_state(on).values == graph.get_state(on).values
    assert agent(official.saver).get_state(on).values["steps"] == 4


def test_a_delta_channel_is_rebuilt_from_what_the_saver_holds(into, official):
    tank = into(official.saver)
    graph = delta_graph(tank.checkpointer())
    on = {"configurable": {"thread_id": "t"}}
    for step in range(8):
        graph.invoke({"items": [f"step {step}"]}, on)
        if step % 3 == 2:
            assert tank.flush().ok
    expected = [f"step {step}" for step in range(8)]
    assert graph.get_state(on).values["items"] == expected
    assert tank.flush().ok
    assert graph.get_state(on).values["items"] == expected
    assert delta_graph(official.saver).get_state(on).values["items"] == expected


async def test_an_event_loop_reads_through_a_saver_too(into, official):
    saver = into(official.saver).checkpointer()
    graph = agent(saver)
    on = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"messages": [HumanMessage("hi")]}, on)
    hot = seen(saver, "t")
    assert into(official.saver).flush().ok
    found = [t async for t in saver.alist(on)]
    assert difference([h[1] for h in hot], [t.checkpoint for t in found]) is None


def test_flushed_in_portions_and_half_hot_everything_reads_the_same(into, official):
    tank = into(official.saver, flush_batch_entries=2)
    saver = tank.checkpointer()
    chain = put_chain(saver, "t", 5)
    fork = put(saver, "t", {"items": ["a fork"], "step": 99}, parent=chain[1], step=99)
    before = seen(saver, "t")
    assert tank.flush().ok
    more = put(saver, "t", {"step": 100}, parent=fork, step=100)
    saver.put_writes(more, [("items", 1), ("__error__", "x"), ("step", 2)], "task", "~0")
    assert difference(before, seen(saver, "t")[1:]) is None
    assert [w[1] for w in saver.get_tuple(more).pending_writes] == ["__error__", "items", "step"]
    half = seen(saver, "t")
    assert tank.flush().ok
    assert difference(half, seen(saver, "t")) is None


def test_a_value_that_the_saver_refuses_is_parked_and_its_neighbours_arrive(into, fresh_database):
    with postgres_official(fresh_database) as official:
        tank = into(official.saver)
        saver = tank.checkpointer()
        good = put_chain(saver, "good", 3)
        first = put(saver, "t", {"score": 1.0, "text": "a"})
        bad = put(saver, "t", {"score": math.nan, "text": "b"}, parent=first, step=1)
        saver.put_writes(bad, [("score", 1.5)], "task")
        healed = put(saver, "t", {"score": 2.0}, parent=bad, step=2)

        job = tank.flush()

        assert job.warnings
        (parked, along) = tank.parked()
        assert "$.channel_values.score" in parked.failure.message
        assert "NaN" in parked.failure.message
        assert "their checkpoint is parked" in along.failure.message
        assert ids([t.config for t in listed(official.saver, "t")]) == ids([healed, first])
        assert len(listed(official.saver, "good")) == len(good)
        found = saver.get_tuple(bad)
        assert math.isnan(found.checkpoint["channel_values"]["score"]), (
            "what is parked stays readable"
        )
        assert found.pending_writes == [("task", "score", 1.5)]


def test_an_unchanged_value_of_a_parked_checkpoint_reaches_the_next_one(into, fresh_database):
    with postgres_official(fresh_database) as official:
        tank = into(official.saver)
        saver = tank.checkpointer()
        bad = put(saver, "t", {"score": math.nan, "note": ["kept"]})
        tuple_ = saver.get_tuple(bad)
        next_ = {
            **tuple_.checkpoint,
            "id": "~later",
            "channel_values": {"score": 3.0, "note": ["kept"]},
        }
        next_["channel_versions"] = {**tuple_.checkpoint["channel_versions"], "score": "2"}
        assert tank.flush().status is JobStatus.FAILED  # nothing was saved
        later = saver.put(bad, next_, {"source": "loop", "step": 1}, {"score": "2"})

        assert tank.flush().ok
        assert official.saver.get_tuple(later).checkpoint["channel_values"] == {
            "score": 3.0,
            "note": ["kept"],
        }


def test_what_the_saver_would_alter_is_parked_with_its_place(into, official):
    tank = into(official.saver)
    saver = tank.checkpointer()
    c = put(saver, "t", {"pair": {"in": (1, 2)}})
    assert tank.flush().result["entries_parked"] == 1
    (parked,) = tank.parked()
    assert "$.channel_values.pair.in" in parked.failure.message
    assert "list instead of tuple" in parked.failure.message
    assert "FaithfulSerializer" in parked.failure.remedy
    assert listed(official.saver, "t") == [], "nothing altered was written"
    assert saver.get_tuple(c).checkpoint["channel_values"] == {"pair": {"in": (1, 2)}}


def test_with_the_faithful_serializer_nothing_has_to_be_parked(into, official):
    official.saver.serde = FaithfulSerializer()
    tank = into(official.saver)
    saver = tank.checkpointer()
    c = put(saver, "t", {"pair": {"in": (1, 2)}, "odd": [math.nan, "a\x00b", 2**70]})
    hot = saver.get_tuple(c).checkpoint
    job = tank.flush()
    assert job.ok, job.result
    assert difference(hot, saver.get_tuple(c).checkpoint) is None


def test_a_flush_that_died_between_write_and_ack_leaves_the_same_rows(into, official):
    tank = into(official.saver, lease_ttl=0.2)
    saver = tank.checkpointer()
    chain = put_chain(saver, "t", 4)
    saver.put_writes(chain[-1], [("items", "x"), ("__interrupt__", "?")], "task", "~0")
    (leased,) = tank.parts.buffer.lease("checkpoints", Due(force=True), owner="doomed", ttl_s=0.0)
    entries = tank.parts.buffer.read(leased.lease, max_entries=100, max_bytes=1 << 30)
    sink = tank.parts.flushers["checkpoints"].sink
    sink.write([Slice(leased.lease, entries)], buffer_id=tank.parts.buffer.id)  # and no ack
    rows = official.rows()

    again = into(official.saver, home=tank.settings.home)  # another process, for all that it knows
    assert again.flush().ok

    assert official.rows() == rows
    assert again.status().buffer.entries == 0


def test_a_deleted_thread_is_gone_and_late_writes_do_not_bring_it_back(into, official):
    tank = into(official.saver)
    saver = tank.checkpointer()
    chain = put_chain(saver, "t", 3)
    keep = put(saver, "other", {"a": 1})
    assert tank.flush().ok
    saver.delete_thread("t")
    saver.put_writes(chain[-1], [("items", "late")], "task")  # nobody can tell yet
    assert listed(saver, "t") == []
    assert tank.flush().ok
    saver.put_writes(chain[-1], [("items", "later")], "task")
    assert tank.flush().ok
    assert listed(saver, "t") == []
    assert {r[0] for rows in official.rows().values() for r in rows} == {"other"}
    new = put(saver, "t", {"a": "a new conversation"})
    assert tank.flush().ok
    assert ids([t.config for t in listed(saver, "t")]) == ids([new])
    assert saver.get_tuple(keep) is not None


def test_pruning_uses_the_savers_own_where_it_is_the_same_and_hides_otherwise(into, official):
    tank = into(official.saver)
    saver = tank.checkpointer()
    chain = put_chain(saver, "t", 4)
    assert tank.flush().ok
    saver.prune(["t"])
    job = tank.flush()
    assert ids([t.config for t in listed(saver, "t")]) == ids(chain[-1:])
    if isinstance(official.saver, PostgresSaver):
        assert job.ok, job.result
        assert len(listed(official.saver, "t")) == 1
    else:
        assert "single checkpoint" in job.result["message"]
        assert len(listed(official.saver, "t")) == 4
    assert saver.get_tuple(config("t")).parent_config is None


def test_writes_that_come_before_their_checkpoint_wait_for_it(into, official):
    tank = into(official.saver)
    saver = tank.checkpointer()
    made = put(
        into(official.saver, home=tank.settings.home.parent / "elsewhere").checkpointer(),
        "t",
        {"a": 1},
    )
    saver.put_writes(made, [("a", 2)], "task")
    assert not tank.flush().ok
    assert tank.status().buffer.entries == 1
    first = into(official.saver, home=tank.settings.home.parent / "elsewhere")
    assert first.flush().ok
    assert tank.flush().ok
    assert official.saver.get_tuple(made).pending_writes == [("task", "a", 2)]


def test_copied_threads_and_all_threads_are_listed_through_a_saver(into, official):
    tank = into(official.saver)
    saver = tank.checkpointer()
    put_chain(saver, "a", 40, run_id="r1")
    saver.copy_thread("a", "b")
    assert tank.flush().ok
    everything = list(saver.list(None))
    assert len(everything) == 80
    assert len(list(saver.list(None, filter={"run_id": "r1"}))) == 80
    assert (
        difference(
            [t.checkpoint for t in listed(saver, "a")], [t.checkpoint for t in listed(saver, "b")]
        )
        is None
    )
    saver.delete_for_runs(["r1"])
    assert list(saver.list(None)) == []


def test_encrypted_entries_are_read_with_the_engines_serializer(into, official):
    key = b"0123456789abcdef"
    serde = EncryptedSerializer.from_pycryptodome_aes(key=key)
    official.saver.serde = serde
    tank = into(official.saver, serde=serde)
    c = put(tank.checkpointer(), "t", {"secret": ["word"]})
    assert tank.flush().ok
    assert tank.checkpointer().get_tuple(c).checkpoint["channel_values"] == {"secret": ["word"]}
    with pytest.raises(ConfigurationError, match="one serializer"):
        tank.checkpointer(serde=FaithfulSerializer())


def test_a_saver_that_is_gone_for_a_while_loses_nothing(into, private_postgres):
    url = private_postgres.url
    with ConnectionPool(
        url,
        min_size=1,
        timeout=1.0,
        kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0},
    ) as pool:
        saver = PostgresSaver(cast("Any", pool))
        saver.setup()
        tank = into(saver)
        put_chain(tank.checkpointer(), "old", 2)
        assert tank.flush().ok
        private_postgres.stop("immediate")
        chain = put_chain(tank.checkpointer(), "t", 2)
        job = tank.flush()
        assert job.status.value == "failed"
        assert job.result["errors"][0]["kind"] == "transient"
        assert tank.status().buffer.entries == 2
        private_postgres.start()
        wait_until(lambda: tank.jobs.retry(job.id).ok, "the pool to connect again")
        assert ids([t.config for t in listed(saver, "t")]) == ids(chain[::-1])


def test_status_names_the_saver_and_logs_stay_with_the_database(into, official):
    tank = into(official.saver)
    sinks = {sink.stream: sink for sink in tank.status(ping=True).sinks}
    assert (sinks["checkpoints"].address, sinks["checkpoints"].reachable) == (
        type(official.saver).__name__,
        True,
    )
    assert sinks["thread_logs"].address == tank.parts.database.address


def test_a_database_without_the_savers_tables_is_fatal_until_set_up(into, fresh_database):
    with psycopg.connect(fresh_database, autocommit=True, row_factory=dict_row) as connection:
        saver = PostgresSaver(connection)
        tank = into(saver)
        put(tank.checkpointer(), "t", {"a": 1})
        job = tank.flush()
        assert job.result["errors"][0]["kind"] == "fatal"
        saver.setup()
        assert tank.flush().ok


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    HIGH = 3


def test_text_and_numbers_of_a_class_of_their_own_are_taken_as_what_they_are(into, official):
    """`AIMessage.text` in a channel is a subclass of str, and PostgresSaver keeps it, like a
    StrEnum, as plain text."""
    tank = into(official.saver)
    saver = tank.checkpointer()
    values = {
        "answer": AIMessage("hello").text, "word": Word.YES, "level": Level.HIGH, "by_word": {Word.YES: [Word.YES]},
        "ordered": collections.OrderedDict(b=1, a=2),
    }  # fmt: skip
    first = put(saver, "t", values, step=0, kind=Word.YES)
    saver.put_writes(first, [("answer", AIMessage("again").text), ("word", Word.YES)], "task")
    second = put(saver, "t", {**values, "more": 1}, parent=first, step=2)
    job = tank.flush()
    assert job.ok, job.result
    assert tank.status().buffer.entries == 0
    assert official.saver.get_tuple(second).checkpoint["channel_values"] == {**values, "more": 1}
    found = saver.get_tuple(second).checkpoint["channel_values"]
    assert found == {**values, "more": 1}
    assert saver.get_tuple(first).metadata["kind"] == "yes"


def test_what_means_something_else_is_refused_as_before(into, official):
    tank = into(official.saver)
    put(tank.checkpointer(), "t", {"pair": (1, 2)})
    put(tank.checkpointer(), "u", {"counts": collections.Counter("aab")})
    job = tank.flush()
    assert "list instead of tuple" in str(job.result)
    assert "dict instead of Counter" in str(job.result)
    assert job.result["entries_parked"] == 2
