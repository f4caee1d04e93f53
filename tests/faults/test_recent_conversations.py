"""Recent conversations go on while the database is away: what was flushed is read from its copy in
the buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt

from support.graphs import agent, delta_graph, nested
from support.postgres import PostgresServer
from support.savers import config, ids, listed, put, put_chain
from support.tanks import MakeTank
from surgetank import ColdStateUnavailable, Surgetank
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
from surgetank.streams.checkpoints.copies.check import is_stale
from surgetank.streams.checkpoints.copies.layout import Mark
from surgetank.streams.checkpoints.copies.reader import Copies
from surgetank.streams.checkpoints.envelope import STREAM


@pytest.fixture
def server(private_postgres: PostgresServer) -> PostgresServer:
    database = Database(private_postgres.url)
    migrate(database)
    database.close()
    return private_postgres


@pytest.fixture
def tank(make_tank: MakeTank, server: PostgresServer) -> Surgetank:
    return make_tank(database_url=server.url)


def conversation(graph: Any, thread: str, between: Callable[[str], None]) -> list[Any]:
    """An agent that asks, is corrected and resumed, then talks on; `between` happens at each
    pause."""
    at = {"configurable": {"thread_id": thread}}
    said = [graph.invoke({"messages": [("user", "hello")]}, at)]
    between("asked")
    said.append(graph.get_state(at).next)
    graph.update_state(at, {"steps": 3})
    between("corrected")
    said.append(graph.invoke(Command(resume="yes"), at))
    between("resumed")
    said.append(graph.invoke({"messages": [("user", "and now?")]}, at))
    return said


def plain(value: Any) -> Any:
    """States without the ids that every run makes anew."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Interrupt):
        return plain(value.value)
    return value.content if isinstance(value, BaseMessage) else value


def history(graph: Any, thread: str) -> list[tuple[Any, ...]]:
    """All states, newest first, by what a person could see of them."""
    return [
        (
            plain(s.values),
            s.next,
            s.metadata["source"],
            s.metadata["step"],
            [len(t.interrupts) for t in s.tasks],
        )
        for s in graph.get_state_history({"configurable": {"thread_id": thread}})
    ]


def test_a_conversation_goes_on_through_an_outage_as_if_there_were_none(tank, server):
    def between(pause: str) -> None:
        if pause == "asked":
            assert tank.flush().ok
            assert tank.parts.buffer.depth().entries == 0
            server.kill()

    ours, theirs = agent(tank.checkpointer()), agent(InMemorySaver())
    said = conversation(ours, "t", between)
    expected = conversation(theirs, "t", lambda _: None)
    assert plain(said) == plain(expected)
    server.start()
    assert tank.flush().ok
    assert tank.parts.buffer.depth().entries == 0
    assert history(ours, "t") == history(theirs, "t")


def test_each_of_its_pauses_may_be_flushed_before_the_database_goes(tank, server):
    wanted = conversation(agent(InMemorySaver()), "t", lambda _: None)
    for last in ("asked", "corrected", "resumed"):

        def between(pause: str, last: str = last) -> None:
            assert tank.flush().ok or server.pid is None
            if pause == last:
                server.kill()

        assert plain(conversation(agent(tank.checkpointer()), f"until {last}", between)) == plain(
            wanted
        )
        server.start()
        assert tank.flush().ok


def test_a_subgraph_that_was_interrupted_is_resumed_without_the_database(tank, server):
    saver = tank.checkpointer()
    graph = nested(saver)
    at = {"configurable": {"thread_id": "t"}}
    graph.invoke({"count": 0}, at, interrupt_before=["after"])
    assert tank.flush().ok
    server.kill()
    assert graph.get_state(at, subgraphs=True).next == ("after",)
    assert graph.invoke(None, at) == {"count": 3}


def test_a_delta_channel_is_rebuilt_without_the_database(tank, server):
    graph, other = delta_graph(tank.checkpointer()), delta_graph(InMemorySaver())
    at = {"configurable": {"thread_id": "t"}}
    for number in range(7):
        for one in (graph, other):
            one.invoke({"items": [f"item {number}"]}, at)
        assert tank.flush().ok
    server.kill()
    assert graph.get_state(at).values == other.get_state(at).values
    for one in (graph, other):
        one.invoke({"items": ["in the outage"]}, at)
    assert graph.get_state(at).values == other.get_state(at).values
    server.start()
    assert tank.flush().ok
    assert graph.get_state(at).values == other.get_state(at).values


def test_what_a_reader_brought_stays_readable(tank, server, make_tank, tmp_path):
    graph = delta_graph(tank.checkpointer())
    at = {"configurable": {"thread_id": "t"}}
    for number in range(4):
        graph.invoke({"items": [f"item {number}"]}, at)
    put_chain(tank.checkpointer(), "plain", 5)
    assert tank.flush().ok
    other = make_tank(database_url=server.url, home=tmp_path / "another home")
    theirs = delta_graph(other.checkpointer())
    state, newest = theirs.get_state(at), other.checkpointer().get_tuple(config("plain"))
    server.kill()
    assert theirs.get_state(at) == state
    assert other.checkpointer().get_tuple(config("plain")) == newest
    assert theirs.invoke({"items": ["more"]}, at) is not None


def test_lists_and_older_checkpoints_are_refused_by_name(tank, server):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 3)
    assert tank.flush().ok
    server.kill()
    assert saver.get_tuple(config("t")).checkpoint["id"] == ids(configs)[-1]
    with pytest.raises(ColdStateUnavailable):
        saver.get_tuple(configs[0])
    with pytest.raises(ColdStateUnavailable):
        listed(saver, "t")


def test_a_thread_that_was_deleted_is_gone_in_the_outage_too(tank, server):
    saver = tank.checkpointer()
    put_chain(saver, "t", 3)
    assert tank.flush().ok
    server.kill()
    saver.delete_thread("t")
    assert saver.get_tuple(config("t")) is None
    assert tank.parts.buffer.copies_held().copies == 0
    put(saver, "t", {"again": 1})
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"again": 1}


def test_a_pruned_thread_is_read_as_it_is_after_pruning(tank, server):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 4)
    assert tank.flush().ok
    saver.prune(["t"])
    assert tank.flush().ok
    server.kill()
    found = saver.get_tuple(config("t"))
    assert found.checkpoint["id"] == ids(configs)[-1]
    assert found.parent_config is None


def test_a_copy_that_another_buffer_made_stale_is_not_served_while_the_database_answers(
    tank, server, make_tank, tmp_path
):
    saver = tank.checkpointer()
    last = put_chain(saver, "t", 3)[-1]
    assert tank.flush().ok
    other = make_tank(database_url=server.url, home=tmp_path / "another home")
    put(other.checkpointer(), "t", {"theirs": 1}, parent=last)
    assert other.flush().ok
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"theirs": 1}
    server.kill()  # by now the copy is the newer state
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"theirs": 1}


def test_a_thread_that_another_buffer_deleted_is_gone_after_one_look(
    tank, server, make_tank, tmp_path
):
    saver = tank.checkpointer()
    put_chain(saver, "t", 3)
    assert tank.flush().ok
    other = make_tank(database_url=server.url, home=tmp_path / "another home")
    other.checkpointer().delete_thread("t")
    assert other.flush().ok
    assert saver.get_tuple(config("t")) is None
    assert tank.parts.buffer.copies_held().copies == 0


def test_a_copy_puts_a_thread_back_that_the_database_lost(tank, server):
    saver = tank.checkpointer()
    last = put_chain(saver, "t", 4)[-1]
    saver.put_writes(last, [("items", "a write")], "task")
    put(saver, "t", {"inner": "x" * 10_000}, ns="sub:1")
    before = [saver.get_tuple(config("t", ns)) for ns in ("", "sub:1")]
    assert tank.flush().ok
    entries = Copies(tank.parts.buffer).entries("t")
    with server.admin() as connection:
        for table in (
            "threads",
            "checkpoint_namespaces",
            "checkpoints",
            "checkpoint_blobs",
            "checkpoint_writes",
        ):
            connection.execute(f"TRUNCATE surgetank.{table}")
    tank.parts.buffer.shed_copies()
    assert saver.get_tuple(config("t")) is None
    for records in entries:
        tank.parts.buffer.append(STREAM, "t", records)
    assert tank.flush().ok
    assert [saver.get_tuple(config("t", ns)) for ns in ("", "sub:1")] == before


def test_copies_that_nobody_looks_at_are_checked_now_and_then(tank, server, make_tank, tmp_path):
    saver = tank.checkpointer()
    for thread in ("kept", "written to", "deleted", "waiting"):
        put_chain(saver, thread, 2)
    assert tank.flush().ok
    other = make_tank(database_url=server.url, home=tmp_path / "another home").checkpointer()
    put(other, "written to", {"theirs": 1}, parent=other.get_tuple(config("written to")).config)
    put(other, "waiting", {"theirs": 1}, parent=other.get_tuple(config("waiting")).config)
    other.delete_thread("deleted")
    assert make_tank(database_url=server.url, home=tmp_path / "another home").flush().ok
    put(saver, "waiting", {"ours": 1})
    assert tank.parts.copies.run() == 2
    assert [name for name, _ in tank.parts.buffer.copies(STREAM)] == ["kept", "waiting"]


@pytest.mark.parametrize(
    ("current", "deleted", "stale"),
    [
        (Mark(7, 4, "c"), False, False),
        (Mark(7, 5, "d"), False, True),
        (Mark(8, 1, "a"), False, True),  # deleted, and made again
        (Mark(7, 4, "x"), False, True),
        (Mark(7, 3, "b"), False, False),  # the database went back: this is what it lost
        (None, True, True),
        (None, False, False),
    ],
)
def test_what_makes_a_copy_stale(current, deleted, stale):
    copied = Mark(7, 4, "c").pack()
    assert (
        is_stale(copied, current.pack() if current is not None else None, deleted=deleted) is stale
    )
