"""The saver beyond the conformance suite, with the data hot, cold, half flushed, and while a flush
is running."""

from __future__ import annotations

import operator
import subprocess
import sys
import textwrap
import threading
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from support.savers import (
    TEMPERATURES,
    checkpoint,
    config,
    ids,
    listed,
    put,
    put_chain,
    settings_for,
    stored,
    tempered,
)
from surgetank import EntryRejected, SurgetankSaver
from surgetank.streams.checkpoints import envelope


class Note(BaseModel):
    """A model of the user's own."""

    text: str
    inner: Any = None


@pytest.fixture(params=TEMPERATURES)
def temperature(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def warm_tank(make_tank, temperature):
    return make_tank(**settings_for(temperature))


@pytest.fixture
def saver(warm_tank, temperature) -> SurgetankSaver:
    return tempered(warm_tank, temperature)


def rows(tank, table: str, thread: str) -> int:
    with tank.parts.database.connection() as connection:
        return connection.execute(
            f"SELECT count(*) FROM surgetank.{table} JOIN surgetank.checkpoint_namespaces USING "
            f"(ns_pk)"
            " WHERE thread_id = %s", (thread,),
        ).fetchone()[0]  # fmt: skip


# -- chains, history, forks


def test_every_version_of_a_growing_value_comes_back(saver):
    configs = put_chain(saver, "t", 30)
    for step, c in enumerate(configs):
        found = saver.get_tuple(c)
        assert len(found.checkpoint["channel_values"]["items"]) == step + 1
        assert found.metadata["step"] == step
    assert saver.get_tuple(config("t")).config == configs[-1]
    assert [t.config for t in listed(saver, "t")] == configs[::-1]


def test_the_newest_checkpoint_is_found_when_an_older_one_is_put_later(saver):
    first, newest = checkpoint({"a": 1}), checkpoint({"a": 2})
    saver.put(config("t"), newest, {"source": "loop", "step": 1}, {"a": 1})
    saver.put(config("t"), first, {"source": "loop", "step": 0}, {})
    assert saver.get_tuple(config("t")).checkpoint["id"] == newest["id"]


def test_a_fork_does_not_touch_the_branch_that_it_left(saver):
    configs = put_chain(saver, "t", 4)
    fork = put(saver, "t", {"items": ["other"], "step": 99}, parent=configs[1], step=9)
    assert saver.get_tuple(configs[3]).checkpoint["channel_values"]["step"] == 3
    assert saver.get_tuple(fork).checkpoint["channel_values"] == {"items": ["other"], "step": 99}
    assert saver.get_tuple(fork).parent_config == configs[1]


def test_get_tuple_works_while_a_list_is_being_iterated(saver):
    configs = put_chain(saver, "t", 5)
    seen = []
    for found in saver.list({"configurable": {"thread_id": "t"}}):
        assert saver.get_tuple(found.config).checkpoint["id"] == found.checkpoint["id"]
        put(saver, "elsewhere", {"x": 1})
        seen.append(found.config)
    assert seen == configs[::-1]


def test_a_listing_is_filtered_limited_and_bounded(saver):
    configs = put_chain(saver, "t", 6, run_id="r1")
    assert [t.metadata["step"] for t in listed(saver, "t", filter={"step": 3})] == [3]
    assert [t.config for t in listed(saver, "t", limit=2)] == configs[:3:-1]
    assert [t.config for t in listed(saver, "t", before=configs[2])] == configs[1::-1]
    assert len(listed(saver, "t", filter={"run_id": "r1"})) == 6
    assert listed(saver, "t", filter={"run_id": "other"}) == []


def test_all_threads_are_listed_newest_first(saver):
    a, b = put_chain(saver, "a", 2), put_chain(saver, "b", 2)
    found = [t.config for t in saver.list(None)]
    assert found == [b[1], b[0], a[1], a[0]]


# -- writes


def test_writes_that_come_after_the_successor_checkpoint_are_accepted(saver):
    first, second = put_chain(saver, "t", 2)
    saver.put_writes(first, [("late", "value")], "task-1")
    assert [(w[1], w[2]) for w in saver.get_tuple(first).pending_writes] == [("late", "value")]
    assert saver.get_tuple(second).pending_writes == []


def test_writes_that_come_before_their_checkpoint_are_kept(saver):
    made = checkpoint({"a": 1})
    saver.put_writes(config("t", "", made["id"]), [("early", 1)], "task-1")
    saver.put(config("t"), made, {"source": "loop", "step": 0}, {"a": 1})
    assert [(w[1], w[2]) for w in saver.get_tuple(config("t")).pending_writes] == [("early", 1)]


def test_of_ordinary_writes_the_first_stays_and_of_special_ones_the_last(saver):
    (c,) = put_chain(saver, "t", 1)
    for value in ("first", "second"):
        saver.put_writes(c, [("channel", value)], "task-1")
        saver.put_writes(c, [("__interrupt__", value)], "task-1")
    writes = {w[1]: w[2] for w in saver.get_tuple(c).pending_writes}
    assert writes == {"channel": "first", "__interrupt__": "second"}


def test_writes_come_in_the_order_in_which_langgraph_applies_them(saver):
    (c,) = put_chain(saver, "t", 1)
    saver.put_writes(c, [("x", 1), ("x", 2)], "zzz", task_path="~0")
    saver.put_writes(c, [("x", 3)], "aaa", task_path="~1")
    assert [w[2] for w in saver.get_tuple(c).pending_writes] == [1, 2, 3]


# -- deletion


def test_a_deleted_thread_is_gone_and_its_id_can_be_used_again(saver, warm_tank):
    put_chain(saver, "t", 3)
    saver.delete_thread("t")
    assert saver.get_tuple(config("t")) is None
    assert listed(saver, "t") == []
    again = put_chain(saver, "t", 2)
    assert [t.config for t in listed(saver, "t")] == again[::-1]
    assert warm_tank.flush().ok
    assert [t.config for t in listed(saver, "t")] == again[::-1]
    assert rows(warm_tank, "checkpoints", "t") == 2


def test_what_comes_late_for_a_deleted_thread_vanishes(saver, warm_tank):
    configs = put_chain(saver, "t", 3)
    saver.put_writes(configs[-1], [("x", 1)], "task")
    saver.delete_thread("t")
    saver.put_writes(configs[-1], [("late", 1)], "task")
    orphan = put(saver, "t", {"late": 1}, parent=configs[-1], step=7)
    put(saver, "t", {"later": 1}, parent=orphan, step=8)
    saver.put_writes(orphan, [("latest", 1)], "task")
    assert saver.get_tuple(config("t")) is None
    assert warm_tank.flush().ok
    assert saver.get_tuple(config("t")) is None
    assert listed(saver, "t") == []
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
        assert rows(warm_tank, table, "t") == 0


def test_late_arrivals_don_t_disturb_a_new_conversation_under_the_same_id(saver, warm_tank):
    old = put_chain(saver, "t", 2)
    saver.delete_thread("t")
    new = put_chain(saver, "t", 2)
    put(saver, "t", {"late": 1}, parent=old[-1], step=7)
    newest = put(saver, "t", {"items": ["new"]}, parent=new[-1], step=3)
    assert warm_tank.flush().ok
    assert [t.config for t in listed(saver, "t")] == [newest, *new[::-1]]


def test_deleting_a_thread_takes_its_subgraphs_with_it(saver, warm_tank):
    (root,) = put_chain(saver, "t", 1)
    child = put(saver, "t", {"c": 1}, ns="sub:1", parents={"": ids([root])[0]})
    saver.delete_thread("t")
    late = put(saver, "t", {"c": 2}, ns="sub:1", parent=child, step=2, parents={"": ids([root])[0]})
    assert saver.get_tuple(late) is None
    assert warm_tank.flush().ok
    assert rows(warm_tank, "checkpoints", "t") == 0


def test_a_thread_can_be_restored_from_its_copy(saver, warm_tank):
    configs = put_chain(saver, "t", 3)
    saver.copy_thread("t", "backup")
    saver.delete_thread("t")
    saver.copy_thread("backup", "t")
    assert warm_tank.flush().ok
    assert ids([x.config for x in listed(saver, "t")]) == ids(configs[::-1])


def test_the_checkpoints_of_runs_are_deleted_and_no_others(saver, warm_tank):
    a = put_chain(saver, "t", 3, run_id="r1")
    b = put(saver, "t", {"items": ["x"]}, parent=a[-1], step=3, run_id="r2")
    put_chain(saver, "u", 2, run_id="r1")
    saver.delete_for_runs(["r1"])
    assert [t.config for t in listed(saver, "t")] == [b]
    assert listed(saver, "u") == []
    assert saver.get_tuple(b).parent_config is None
    assert warm_tank.flush().ok
    assert saver.get_tuple(b).checkpoint["channel_values"] == {"items": ["x"]}
    assert saver.get_tuple(b).parent_config is None


# -- copies


def test_a_copy_equals_its_source_and_lives_on_its_own(saver, warm_tank):
    configs = put_chain(saver, "t", 4)
    put(saver, "t", {"c": (1, 2)}, ns="sub:1")
    saver.put_writes(configs[-1], [("w", {"a": (1,)})], "task", task_path="~p")
    saver.copy_thread("t", "copy")
    source, copy = listed(saver, "t"), listed(saver, "copy")
    assert [(s.checkpoint, s.metadata, s.pending_writes) for s in source] == [
        (c.checkpoint, c.metadata, c.pending_writes) for c in copy
    ]
    saver.delete_thread("t")
    assert warm_tank.flush().ok
    assert [c.checkpoint for c in listed(saver, "copy")] == [s.checkpoint for s in source]


# -- pruning


def test_keep_latest_leaves_the_newest_of_each_namespace_readable(saver, warm_tank):
    configs = put_chain(saver, "t", 12)
    sub = put_chain(saver, "t", 3, ns="sub:1")
    saver.put_writes(configs[-1], [("w", 1)], "task")
    expected = [saver.get_tuple(c) for c in (configs[-1], sub[-1])]
    saver.prune(["t"], strategy="keep_latest")
    for tuple_, c in zip(expected, (configs[-1], sub[-1]), strict=True):
        found = saver.get_tuple(c)
        assert found.checkpoint == tuple_.checkpoint
        assert found.pending_writes == tuple_.pending_writes
        assert found.parent_config is None
    assert len(listed(saver, "t")) == 2
    assert warm_tank.flush().ok
    # small values lie in their checkpoints' own rows
    assert rows(warm_tank, "checkpoint_blobs", "t") == 2
    assert saver.get_tuple(config("t")).checkpoint == expected[0].checkpoint
    put(saver, "t", {"items": ["more"]}, parent=configs[-1], step=20)
    assert warm_tank.flush().ok
    assert len(listed(saver, "t")) == 3


def test_pruning_with_delete_removes_the_threads(saver):
    put_chain(saver, "t", 2)
    put_chain(saver, "u", 2)
    saver.prune(["t"], strategy="delete")
    assert listed(saver, "t") == []
    assert len(listed(saver, "u")) == 2


def test_wrong_arguments_of_prune_are_refused(saver):
    with pytest.raises(ValueError, match="keep_latest"):
        saver.prune(["t"], strategy="all")
    with pytest.raises(TypeError):
        saver.prune("t")


# -- DeltaChannel


def delta_graph(saver: Any, frequency: int) -> Any:
    channel = DeltaChannel(
        lambda old, new: [*old, *(x for batch in new for x in batch)],
        list,
        snapshot_frequency=frequency,
    )
    State: Any = TypedDict("State", {"log": Annotated[list[str], channel], "n": int})
    graph: Any = StateGraph(State)
    graph.add_node("step", lambda s: {"log": [f"entry {s['n']}"], "n": s["n"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda s: END if s["n"] % 5 == 0 else "step")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("frequency", [3, 1000])
@pytest.mark.filterwarnings("ignore")
def test_a_delta_channel_survives_pruning_and_goes_on(saver, warm_tank, frequency):
    graph, c = delta_graph(saver, frequency), config("t")
    for _ in range(2):
        graph.invoke({"n": graph.get_state(c).values.get("n", 0)}, c)
    expected = [f"entry {i}" for i in range(10)]
    assert graph.get_state(c).values["log"] == expected
    before = len(listed(saver, "t"))
    saver.prune(["t"], strategy="keep_latest")
    assert len(listed(saver, "t")) <= before
    assert graph.get_state(c).values["log"] == expected
    assert warm_tank.flush().ok
    assert graph.get_state(c).values["log"] == expected
    graph.invoke({"n": 10}, c)
    assert graph.get_state(c).values["log"] == [f"entry {i}" for i in range(15)]
    saver.copy_thread("t", "copy")
    assert graph.get_state(config("copy")).values["log"] == [f"entry {i}" for i in range(15)]
    saver.prune(["t"], strategy="delete")
    assert graph.get_state(c).values == {}


@pytest.mark.filterwarnings("ignore")
def test_delta_history_equals_that_of_the_in_memory_saver(saver):
    memory = InMemorySaver()
    histories = []
    for one in (memory, saver):
        graph, c = delta_graph(one, 4), config("t")
        graph.invoke({"n": 0}, c)
        history = one.get_delta_channel_history(config=c, channels=["log", "n"])
        histories.append(
            {k: ([w[1:] for w in h["writes"]], h.get("seed")) for k, h in history.items()}
        )
    assert histories[0] == histories[1]
    assert saver.get_delta_channel_history(config=config("t"), channels=[]) == {}


@pytest.mark.filterwarnings("ignore")
def test_runs_that_a_delta_channel_is_rebuilt_from_are_not_deleted(saver):
    graph = delta_graph(saver, 1000)
    graph.invoke({"n": 0}, {**config("t"), "metadata": {"run_id": "r1"}})
    graph.invoke({"n": 5}, {**config("t"), "metadata": {"run_id": "r2"}})
    with pytest.raises(EntryRejected, match="DeltaChannel"):
        saver.delete_for_runs(["r1"])
    assert len(graph.get_state(config("t")).values["log"]) == 10
    saver.delete_for_runs(["r1", "r2"])
    assert graph.get_state(config("t")).values == {}


# -- serializers


def test_an_allowlisted_copy_of_the_saver_shares_its_storage(warm_tank, temperature):
    strict = JsonPlusSerializer(allowed_msgpack_modules=[])
    saver = tempered(warm_tank, temperature, serde=strict)
    clone = saver.with_allowlist([(Note.__module__, Note.__name__)])
    assert clone is not saver
    with pytest.raises(EntryRejected, match=r"\$\.channel_values\.note"):
        put(saver, "t", {"note": Note(text="x")})
    c = put(clone, "t", {"note": Note(text="x", inner=Note(text="y"))})
    assert stored(clone, c).checkpoint["channel_values"]["note"] == Note(
        text="x", inner=Note(text="y")
    )
    assert clone.get_tuple(c) == clone.get_tuple(config("t"))
    assert len(listed(saver.with_allowlist([(Note.__module__, Note.__name__)]), "t")) == 1


def test_encrypted_values_come_back_and_are_nowhere_in_clear(warm_tank, temperature):
    secret = "the launch code is 0000"
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    saver = tempered(warm_tank, temperature, serde=serde)
    c = put(saver, "t", {"secret": secret, "box": (1, secret)}, customer=secret, run_id="r1")
    saver.put_writes(c, [("secret", secret)], "task")
    found = stored(saver, c)
    assert found.checkpoint["channel_values"] == {"secret": secret, "box": (1, secret)}
    assert dict(found.metadata)["customer"] == secret
    assert found.pending_writes == [("task", "secret", secret)]
    assert len(listed(saver, "t", filter={"customer": secret})) == 1
    assert warm_tank.flush().ok
    assert saver.get_tuple(c) == found
    with warm_tank.parts.database.connection() as connection:
        for table in ("threads", "checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            dump = connection.execute(f"SELECT x::text FROM surgetank.{table} x").fetchall()
            assert secret not in str(dump)
            assert secret.encode().hex() not in str(dump)


def test_pickle_is_refused_with_a_way_out(warm_tank):
    from surgetank import ConfigurationError

    with pytest.raises(ConfigurationError, match="unpickle"):
        warm_tank.checkpointer(serde=JsonPlusSerializer(pickle_fallback=True))


# -- real graphs


class Chat(TypedDict):
    log: Annotated[list[str], operator.add]
    n: int


def chat_graph(saver: Any) -> Any:
    inner: Any = StateGraph(Chat)
    inner.add_node("think", lambda s: {"log": [f"thought {s['n']}"]})
    inner.add_node("ask", lambda s: {"log": [f"answer {interrupt('go on?')}"]})
    inner.add_edge(START, "think")
    inner.add_edge("think", "ask")
    graph: Any = StateGraph(Chat)
    graph.add_node("count", lambda s: {"n": s.get("n", 0) + 1, "log": ["counted"]})
    graph.add_node("inner", inner.compile())
    graph.add_edge(START, "count")
    graph.add_edge("count", "inner")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_graph_with_a_subgraph_and_an_interrupt_goes_as_it_does_in_memory(saver, durability):
    results = []
    for one in (InMemorySaver(), saver):
        graph, c = chat_graph(one), {"configurable": {"thread_id": "t"}}
        graph.invoke({"log": ["start"]}, c, durability=durability)
        state = graph.get_state(c, subgraphs=True)
        assert state.next == ("inner",)
        assert state.tasks[0].state.values["log"][-1] == "thought 1"
        graph.invoke(Command(resume="yes"), c, durability=durability)
        history = [(s.values, s.next, s.metadata["step"]) for s in graph.get_state_history(c)]
        results.append((graph.get_state(c).values, history))
    assert results[0] == results[1]


def test_time_travel_forks_a_graph_from_an_earlier_checkpoint(saver):
    graph, c = chat_graph(saver), {"configurable": {"thread_id": "t"}}
    graph.invoke({"log": ["start"]}, c)
    graph.invoke(Command(resume="yes"), c)
    earlier = next(s for s in graph.get_state_history(c) if s.next == ("count",))
    changed = graph.update_state(earlier.config, {"log": ["changed"]})
    graph.invoke(None, changed)
    graph.invoke(Command(resume="no"), c)
    assert graph.get_state(c).values["log"][-1] == "answer no"
    assert "changed" in graph.get_state(c).values["log"]


async def test_a_graph_runs_asynchronously(warm_tank, temperature):
    saver = tempered(warm_tank, temperature)
    graph, c = chat_graph(saver), {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"log": ["start"]}, c, durability="async")
    await graph.ainvoke(Command(resume="yes"), c)
    assert (await graph.aget_state(c)).values["log"][-1] == "answer yes"
    assert [s.metadata["step"] async for s in graph.aget_state_history(c)] == [2, 1, 0, -1]


def test_many_threads_use_one_saver_at_once(saver):
    problems = []

    def talk(number: int) -> None:
        try:
            configs = put_chain(saver, f"t{number}", 8)
            assert [t.config for t in listed(saver, f"t{number}")] == configs[::-1]
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []


def test_two_processes_share_one_buffer(saver, warm_tank, tmp_path, database_url):
    mine = put_chain(saver, "t", 2)
    script = textwrap.dedent(
        """
        import sys
        from surgetank import Surgetank
        sys.path.insert(0, sys.argv[3])
        from support.savers import config, listed, put
        with Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False) as tank:
            saver = tank.checkpointer()
            newest = saver.get_tuple(config("t"))
            put(saver, "t", {"items": ["from the other process"]}, parent=newest.config, step=5)
            print(len(listed(saver, "t")))
        """
    )
    here = str(__import__("pathlib").Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "home"), database_url, here],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "3", done.stderr
    newest = saver.get_tuple(config("t"))
    assert newest.checkpoint["channel_values"] == {"items": ["from the other process"]}
    assert newest.parent_config == mine[-1]


# -- names


@pytest.mark.parametrize("name", ["nul\x00", "lone \ud800", "x" * 5000])
def test_names_that_can_t_be_stored_are_refused_by_put(saver, name):
    with pytest.raises(EntryRejected) as refused:
        put(saver, name, {"a": 1})
    assert refused.value.path == "$.thread_id"
    with pytest.raises(EntryRejected, match="channel_values"):
        put(saver, "t", {name: 1})
    assert saver.get_tuple(config("t")) is None


@pytest.mark.parametrize(
    "name", ["ünïcode ✓", "a/b:c|d%00", "'; DROP TABLE x; --", " ", "\u202e", "null"]
)
def test_odd_but_honest_names_are_kept(saver, warm_tank, name):
    c = put(saver, name, {name: name}, ns=name)
    assert warm_tank.flush().ok
    assert saver.get_tuple(c).checkpoint["channel_values"] == {name: name}
    assert envelope.split_blob_key(envelope.blob_key(name, name, "1")) == (name, name, "1")


def test_a_checkpoint_put_again_after_it_was_parked_counts_also_when_it_is_cold(tank, database_url):
    saver, made = tank.checkpointer(), checkpoint({"a": 1}, {"a": "1"})
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' <> "
            "'99')"
        )
    at = saver.put(config("t"), made, {"step": 99}, {"a": "1"})
    assert tank.flush().result["entries_parked"] == 1
    mended = {**made, "channel_values": {"a": 2}, "channel_versions": {"a": "2"}}
    saver.put(config("t"), mended, {"step": 1}, {"a": "2"})
    for _ in ("hot", "cold"):
        assert saver.get_tuple(at).checkpoint["channel_values"] == {"a": 2}
        assert saver.get_tuple(config("t")).metadata["step"] == 1
        assert [t.metadata["step"] for t in listed(saver, "t")] == [1]
        assert tank.flush().ok
