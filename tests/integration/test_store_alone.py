"""Our store alone: what it keeps exactly, what expires, transactions, crowds."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import threading
from typing import Any

import psycopg
import pytest
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    SearchOp,
)

from support.buffers import child_env
from support.stores import index_of
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.encode.equality import difference
from surgetank.exceptions import (
    DatabaseUnavailable,
    EntryRejected,
    InvalidRequest,
)

HOUR_M = 60.0
BLINK_M = 0.02 / 60  # 20 ms


def asked(tank: Surgetank, query: str) -> list[tuple[Any, ...]]:
    """Ask the database itself."""
    assert tank.settings.database_url is not None
    url = tank.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description is not None else []


def remaining_s(tank: Surgetank) -> dict[str, float]:
    rows = asked(
        tank,
        "SELECT key, extract(epoch FROM expires_at - now())::float8 FROM surgetank.store_items",
    )
    return {key: left for key, left in rows if left is not None}


def age(tank: Surgetank, minutes: float) -> None:
    """Let time pass for what expires."""
    asked(
        tank,
        f"UPDATE surgetank.store_items SET expires_at = expires_at - make_interval(secs => {minutes * 60})",
    )


# -- exactly


def test_what_jsonb_cannot_hold_is_given_back(tank):
    store = tank.store()
    value = {
        "z": 1,
        "a": [math.nan, math.inf, -0.0],
        "t": "nul\x00 half \ud800",
        "\x00": 10**300,
        "i": 2**63,
    }
    store.put(("a",), "k", value)
    item = store.get(("a",), "k")
    assert item is not None
    assert difference(item.value, value) is None
    assert list(item.value) == list(value)
    (found,) = store.search(("a",), filter={"z": 1})
    assert difference(found.value, value) is None
    assert store.search(("a",), filter={"i": 2**63})


@pytest.mark.parametrize("key", ["a\x00", "\ud800", "k" * 1025])
def test_a_key_that_cannot_be_stored_is_refused_and_asking_for_it_finds_nothing(tank, key):
    store = tank.store()
    with pytest.raises(EntryRejected) as caught:
        store.put(("a",), key, {})
    str(caught.value).encode()
    assert store.get(("a",), key) is None
    store.delete(("b",), "k")
    with pytest.raises(EntryRejected):
        store.delete(("a",), key)


def test_the_longest_namespace_and_key_fit_into_the_index(tank):
    store = tank.store()
    noise = random.Random(7)  # what can't be compressed
    label = "".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range(341))
    key = "".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range(341))
    store.put((label,), key, {"x": 1})
    assert store.get((label,), key) is not None
    with pytest.raises(InvalidNamespaceError):
        store.put((label, "x"), key, {"x": 1})


def test_a_large_value_is_kept_up_to_the_limit(make_tank):
    store = make_tank(store_max_bytes=2_000_000).store()
    store.put(("a",), "k", {"x": "ü" * 900_000})
    item = store.get(("a",), "k")
    assert item is not None
    assert len(item.value["x"]) == 900_000
    with pytest.raises(EntryRejected, match="limit"):
        store.put(("a",), "k", {"x": "ü" * 1_100_000})


def test_a_batch_that_is_too_large_is_refused_as_a_whole(tank, monkeypatch):
    monkeypatch.setattr("surgetank.workflows.store.plan.MAX_BATCH_BYTES", 2000)
    store = tank.store()
    with pytest.raises(InvalidRequest, match="several batches"):
        store.batch([PutOp(("a",), f"k{n}", {"x": "y" * 300}) for n in range(5)])
    assert store.search(()) == []


@pytest.mark.parametrize(
    "op", [SearchOp((), limit=-1), SearchOp((), offset=-1), ListNamespacesOp(max_depth=-1), "put"]
)
def test_what_cannot_be_asked_is_refused(tank, op):
    with pytest.raises(InvalidRequest):
        tank.store().batch([op])


def test_huge_numbers_of_rows_may_be_asked_for(tank):
    store = tank.store()
    store.put(("a",), "k", {})
    assert len(store.search((), limit=10**30)) == 1
    assert store.search((), offset=10**30) == []
    assert store.list_namespaces(limit=10**30, max_depth=10**30) == [("a",)]


# -- time


def test_what_has_expired_is_not_there_and_is_swept(tank):
    store = tank.store(index=index_of())
    store.put(("a",), "stays", {"x": 1})
    for n in range(5):
        store.put(("gone",), f"k{n}", {"x": 1}, ttl=HOUR_M)
    age(tank, HOUR_M + 1)
    assert store.get(("gone",), "k0") is None
    assert [i.key for i in store.search(())] == ["stays"]
    assert [i.key for i in store.search((), query="x")] == ["stays"]
    assert store.list_namespaces() == [("a",)]
    assert asked(tank, "SELECT count(*) FROM surgetank.store_items") == [(6,)]
    assert store.sweep_ttl() == 5
    assert store.sweep_ttl() == 0
    assert asked(tank, "SELECT count(*) FROM surgetank.store_items") == [(1,)]
    assert asked(tank, "SELECT DISTINCT key FROM surgetank.store_vectors") == [("stays",)]


def test_the_engine_sweeps_by_itself_in_pieces(tank):
    tank.store().put(("gone",), "k", {"x": 1}, ttl=HOUR_M)
    asked(
        tank,
        """INSERT INTO surgetank.store_items (path, key, value, projection, ttl_s, expires_at)
        SELECT 'gone.', n::text, '{}', '{}', 1, now() - interval '1 day' FROM generate_series(1, 12000) n""",
    )
    age(tank, HOUR_M + 1)
    gone = tank.parts.reporting.retention.run(tank.now())
    assert gone["forget_store_items"] == 12001
    assert asked(tank, "SELECT count(*) FROM surgetank.store_items") == [(0,)]


def test_an_item_really_expires(tank):
    store = tank.store(ttl={"refresh_on_read": False})
    store.put(("a",), "k", {}, ttl=BLINK_M)
    wait_until(lambda: store.get(("a",), "k") is None, "its time to be over")


def test_reading_lets_an_item_live_longer_unless_it_is_asked_not_to(tank):
    store = tank.store(ttl={"default_ttl": HOUR_M})
    for key in ("got", "found", "listed", "quiet", "batch"):
        store.put((key,), key, {"x": 1})
    age(tank, HOUR_M / 2)
    store.get(("got",), "got")
    store.search(("found",))
    store.list_namespaces()
    store.get(("quiet",), "quiet", refresh_ttl=False)
    store.search(("quiet",), refresh_ttl=False)
    store.batch([GetOp(("batch",), "batch"), PutOp(("new",), "new", {}, ttl=1.0)])
    left = {key: round(seconds / 60) for key, seconds in remaining_s(tank).items()}
    assert left == {"got": 60, "found": 60, "listed": 30, "quiet": 30, "batch": 60, "new": 1}


def test_a_store_that_does_not_refresh_does_so_when_it_is_asked_to(tank):
    store = tank.store(ttl={"default_ttl": HOUR_M, "refresh_on_read": False})
    store.put(("a",), "k", {})
    age(tank, HOUR_M / 2)
    store.get(("a",), "k")
    assert remaining_s(tank)["k"] == pytest.approx(1800, abs=60)
    store.get(("a",), "k", refresh_ttl=True)
    assert remaining_s(tank)["k"] == pytest.approx(3600, abs=60)


def test_a_put_sets_the_time_anew_or_takes_it_away(tank):
    store = tank.store(ttl={"default_ttl": HOUR_M})
    store.put(("a",), "k", {}, ttl=1)
    store.put(("a",), "k", {})
    assert remaining_s(tank)["k"] == pytest.approx(3600, abs=60)
    store.put(("a",), "k", {}, ttl=None)
    assert remaining_s(tank) == {}


def test_what_had_expired_is_a_new_item_when_it_is_put_again(tank):
    store = tank.store()
    store.put(("a",), "k", {}, ttl=HOUR_M)
    first = store.get(("a",), "k")
    store.put(("a",), "k", {}, ttl=HOUR_M)
    same_one = store.get(("a",), "k")
    age(tank, HOUR_M + 1)
    store.put(("a",), "k", {}, ttl=HOUR_M)
    again = store.get(("a",), "k")
    assert first is not None
    assert same_one is not None
    assert again is not None
    assert first.created_at == same_one.created_at < again.created_at


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, 1e12])
def test_a_time_that_is_none_is_refused(tank, ttl):
    with pytest.raises(InvalidRequest):
        tank.store().put(("a",), "k", {}, ttl=ttl)


# -- transactions and crowds


def test_a_batch_that_fails_leaves_nothing(tank):
    store = tank.store()
    with pytest.raises(EntryRejected):
        store.batch([PutOp(("a",), "good", {}), PutOp(("a",), "bad", {"x": object()})])
    assert store.search(()) == []

    def broken(texts: list[str]) -> list[list[float]]:
        raise RuntimeError("the model is away")

    failing = tank.store(index={"dims": 2, "embed": broken})
    with pytest.raises(RuntimeError):
        failing.batch([PutOp(("a",), "good", {}, index=False), PutOp(("a",), "k", {"x": 1})])
    assert store.search(()) == []


def test_racing_batches_over_the_same_keys_never_block_each_other(make_tank):
    """Deletes, puts, new keys and refreshing reads, in any order: no deadlock, and each batch is
    there as a whole or not at all."""
    store = make_tank(database_connections=8).store(ttl={"default_ttl": HOUR_M})
    keys = [f"k{n}" for n in range(6)]
    problems: list[BaseException] = []
    start = threading.Barrier(8)

    def work(me: int) -> None:
        chance = random.Random(me)
        start.wait()
        try:
            for n in range(40):
                chosen = chance.sample(keys, 4)
                ops: list[Op] = [GetOp(("t",), key) for key in chance.sample(keys, 3)]
                ops += [PutOp(("t",), key, {"by": [me, n]}, ttl=5.0) for key in chosen[:3]]
                ops += [PutOp(("t",), chosen[3], None)]
                chance.shuffle(ops)
                store.batch(ops)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    # The last batch over a key wins: the newest writer's three keys agree where nobody came after.
    assert {item.key for item in store.search(("t",))} <= set(keys)


WRITER = """
import itertools, sys
from langgraph.store.base import PutOp
from surgetank import Surgetank
with Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False) as tank:
    store = tank.store()
    for n in itertools.count():
        store.batch([PutOp(("w",), f"k{at}", {"n": n}) for at in range(20)])
        print(n, flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_batches(tank, tmp_path):
    url = tank.settings.database_url.get_secret_value()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "writer"), url],
        env=child_env(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    told = -1
    for line in writer.stdout:
        told = int(line)
        if told >= 25:
            break
    writer.kill()
    rest, _ = writer.communicate()
    told = max([told, *(int(line) for line in rest.split())])
    numbers = {item.value["n"] for item in tank.store().search(("w",), limit=100)}
    assert len(numbers) == 1, "one batch is seen, not parts of two"
    assert numbers.pop() >= told, "what it was told of is there"


async def test_an_event_loop_goes_on_while_the_database_is_asked(tank):
    store = tank.store(index={"dims": 2, "embed": alike, "fields": ["text"]})
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await store.aput(("a",), "k", {"text": "aab"})
    assert [i.key for i in await store.asearch((), query="aab")] == ["k"]
    ticking.cancel()
    assert ticks > 10


async def alike(texts: list[str]) -> list[list[float]]:
    """A model that is asynchronous only."""
    return [[float(text.count("a")), float(text.count("b"))] for text in texts]


def test_a_database_that_is_away_is_told(make_tank, private_postgres):
    tank = make_tank(database_url=private_postgres.url)
    store = tank.store()
    store.put(("a",), "k", {"x": 1})
    private_postgres.stop()
    with pytest.raises(DatabaseUnavailable):
        store.put(("a",), "k", {"x": 2})
    with pytest.raises(DatabaseUnavailable):
        store.get(("a",), "k")
    private_postgres.start()

    def back() -> Item | None:
        try:
            return store.get(("a",), "k")
        except DatabaseUnavailable:
            return None

    assert wait_until(back, "the database to be back").value == {"x": 1}
