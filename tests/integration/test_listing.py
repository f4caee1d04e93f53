"""`list` with a filter on metadata: what PostgresSaver finds is found, and only what is found is
loaded."""

from __future__ import annotations

import datetime as dt
import math
import random
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver

from support.postgres import PostgresServer
from support.savers import checkpoint, config, ids, put, put_chain, settings_for, tempered

METADATA: list[dict[str, Any]] = [
    {
        "source": "input",
        "step": -1,
        "tags": ["a", "b"],
        "who": {"name": "ann", "age": 3, "at": {"x": 1}},
    },
    {"source": "loop", "step": 0, "tags": [], "who": {"name": "bob"}, "flag": True},
    {
        "source": "loop",
        "step": 1,
        "tags": [["a"], {"k": 1, "l": 2}],
        "who": None,
        "flag": False,
        "score": 1.0,
    },
    {"source": "update", "step": 2, "who": {}, "score": 0.5, "note": "x"},
    {"source": "loop", "step": 3, "tags": "a", "flag": 1, "score": 2**60},
    {"source": "loop", "step": 4, "run_id": "r1", "tags": ["b", "a", "c"], "who": {"name": "ann"}},
]
FILTERS: list[dict[str, Any]] = [
    {}, {"source": "loop"}, {"step": 1}, {"step": 1.0}, {"score": 1}, {"flag": True}, {"flag": 1}, {"who": None},
    {"who": {"name": "ann"}}, {"who": {"name": "ann", "at": {"x": 1}}}, {"who": {}}, {"who": {"age": None}},
    {"tags": ["a"]}, {"tags": ["a", "b"]}, {"tags": []}, {"tags": [["a"]]}, {"tags": [{"k": 1}]}, {"tags": "a"},
    {"missing": None}, {"run_id": "r1"}, {"source": "loop", "who": {"name": "ann"}}, {"score": 2**60}, {"note": "y"},
]  # fmt: skip


def _filled(saver: Any, thread: str) -> None:
    parent = None
    for number, metadata in enumerate(METADATA):
        made = checkpoint({"v": number}, {"v": f"{number + 1:032}.0"})
        at = parent or config(thread)
        parent = saver.put(at, made, {"parents": {}, **metadata}, made["channel_versions"])


def _steps(saver: Any, thread: str, wanted: dict[str, Any], **options: Any) -> list[int]:
    found = list(saver.list(config(thread), filter=wanted, **options))
    assert all(t.checkpoint["channel_values"] == {"v": t.metadata["step"] + 1} for t in found)
    return [t.metadata["step"] for t in found]


@pytest.mark.parametrize("temperature", ["hot", "cold", "half"])
def test_every_filter_finds_what_it_finds_in_postgres_saver(
    make_tank, postgres_server: PostgresServer, temperature
):
    saver = tempered(make_tank(**settings_for(temperature)), temperature)
    _filled(saver, "t")
    name = postgres_server.create_database()
    with PostgresSaver.from_conn_string(postgres_server.url_of(name)) as peer:
        peer.setup()
        _filled(peer, "t")
        expected = {str(wanted): _steps(peer, "t", wanted) for wanted in FILTERS}
        limited = _steps(peer, "t", {"source": "loop"}, limit=2)
    postgres_server.drop_database(name)
    assert {str(wanted): _steps(saver, "t", wanted) for wanted in FILTERS} == expected
    assert _steps(saver, "t", {"source": "loop"}, limit=2) == limited
    assert len({tuple(steps) for steps in expected.values()}) > 8, (
        "the filters differ in what they find"
    )


@pytest.mark.parametrize("temperature", ["hot", "cold"])
def test_what_json_loses_is_still_told_apart(make_tank, temperature):
    """In the projection NaN is null and a date is text: the stored metadata decides."""
    tank = make_tank()
    saver, now = tank.checkpointer(), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for number, value in enumerate(
        [math.nan, None, now, now.isoformat(), (1, 2), "a\x00b", "a�b", 2**70]
    ):
        put(saver, "t", {"v": number}, step=number, odd=value)
    if temperature == "cold":
        assert tank.flush().ok
    found = {
        name: _numbers(saver, {"odd": wanted})
        for name, wanted in {
            "nan": math.nan, "null": None, "date": now, "text": now.isoformat(), "tuple": (1, 2), "list": [1],
            "nul": "a\x00b", "large": 2**70, "nothing": {1},
        }.items()
    }  # fmt: skip
    assert found == {
        "nan": [0], "null": [1], "date": [2], "text": [3], "tuple": [4], "list": [4], "nul": [5], "large": [7],
        "nothing": [],
    }  # fmt: skip


def _numbers(saver: Any, wanted: dict[str, Any]) -> list[int]:
    return [t.checkpoint["channel_values"]["v"] for t in saver.list(config("t"), filter=wanted)]


@pytest.mark.parametrize("temperature", ["hot", "cold"])
def test_values_are_loaded_only_of_what_passes(make_tank, temperature, monkeypatch):
    tank = make_tank(recent_max_bytes=0)
    saver = tank.checkpointer()
    configs = [
        put(saver, "t", {"large": [n] * 200}, step=n, about={"n": n % 50}) for n in range(100)
    ]
    if temperature == "cold":
        assert tank.flush().ok
    loaded: list[str] = []
    load = saver._load

    def counted(thread: str, channel: str, stored: Any) -> Any:
        loaded.append(channel)
        return load(thread, channel, stored)

    monkeypatch.setattr(saver, "_load", counted)
    found = list(saver.list(config("t"), filter={"about": {"n": 7}}))
    assert [t.config for t in found] == [configs[57], configs[7]]
    assert loaded.count("large") == 2
    assert loaded.count("metadata") <= (106 if temperature == "hot" else 6)


def test_encrypted_metadata_is_filtered_too(make_tank):
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    pytest.importorskip("Crypto")
    tank = make_tank()
    saver = tank.checkpointer(
        serde=EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    )
    for number in range(4):
        put(saver, "t", {"v": number}, step=number, secret={"n": number})
    for _ in ("hot", "cold"):
        assert _numbers(saver, {"secret": {"n": 2}}) == [2]
        assert _numbers(saver, {"step": 1, "secret": {}}) == [1]
        assert tank.flush().ok


@pytest.mark.parametrize("level", [1, 2])
def test_a_list_of_a_long_thread_gives_what_single_reads_give(make_tank, level):
    tank = make_tank(recent_max_bytes=0)
    with tank.parts.database.connection() as connection:
        connection.execute("UPDATE surgetank.storage_format SET level = %s", (level,))
    saver = tank.checkpointer()
    source = random.Random(1)
    configs: list[Any] = []
    for thread in ("a", "b"):
        configs += put_chain(saver, thread, 120)
    for c in source.sample(configs, 40):
        saver.put_writes(
            c, [("x", source.random()), ("y", (1, 2))], f"task{source.random()}", "path"
        )
    assert tank.flush().ok
    for c in source.sample(configs, 5):  # of some, a write is still hot
        saver.put_writes(c, [("late", 1)], "late")
    for where in (config("a"), config("b"), None):
        listed = list(saver.list(where))
        wanted = [
            c
            for c in configs
            if where is None or c["configurable"]["thread_id"] == where["configurable"]["thread_id"]
        ]
        assert sorted(ids([t.config for t in listed]), reverse=True) == ids(
            [t.config for t in listed]
        )
        assert {t.config["configurable"]["checkpoint_id"] for t in listed} == set(ids(wanted))
        for found in source.sample(listed, 30):
            assert found == saver.get_tuple(found.config)
    before = configs[60]
    assert len(list(saver.list(config("a"), before=before))) == 60
    assert len(list(saver.list(config("a"), before=before, limit=17))) == 17


def test_a_list_goes_on_when_checkpoints_are_deleted_under_it(make_tank):
    tank = make_tank(recent_max_bytes=0)
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 60)
    assert tank.flush().ok
    listing = saver.list(config("t"))
    assert next(listing).config == configs[-1]
    saver.prune(["t"], strategy="keep_latest")
    assert tank.flush().ok
    assert len(list(listing)) <= 59


async def test_the_asynchronous_list_is_the_same(make_tank):
    tank = make_tank(recent_max_bytes=0)
    saver = tank.checkpointer()
    for n in range(30):
        put(saver, "t", {"v": n}, step=n, about={"even": n % 2 == 0})
    assert tank.flush().ok
    for wanted in (None, {"about": {"even": True}}, {"step": 3}):
        found = [t async for t in saver.alist(config("t"), filter=wanted)]
        assert found == list(saver.list(config("t"), filter=wanted))
        assert found
