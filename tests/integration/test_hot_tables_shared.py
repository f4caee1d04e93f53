"""Hot rows of tables that hosts share by a log in Redis: what one accepts every other one has,
whoever is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from support.hot_tables import replica
from support.redis_server import running_redis, shared
from surgetank.exceptions import (
    BufferProblem,
    BufferUnavailable,
    Conflict,
    LeaseLost,
)
from surgetank.model import Failure, FailureKind
from surgetank.redis.address import parse
from surgetank.streams.tables.definition import USER, Column, Kind, Table
from surgetank.streams.tables.hot.protocol import (
    ORIGIN_SHIFT,
    BatchKey,
    Change,
    ErasedSince,
    Held,
    Op,
    Refused,
)
from surgetank.streams.tables.hot.shared.copies import Copies
from surgetank.streams.tables.hot.shared.log import SharedLog
from surgetank.streams.tables.hot.shared.store import SharedHotTables
from surgetank.streams.tables.types import ColumnType

T = Table(
    id=7, namespace="ns", name="t", kind=Kind.USER, key=("n",),
    columns=(Column(3, "n", ColumnType.parse("BIGINT")), Column(4, "s", ColumnType.parse("TEXT"))),
)  # fmt: skip
FAILURE = Failure(FailureKind.REJECTED, "no such storage", "StorageError")
Host = Callable[..., SharedHotTables]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    opened: list[SharedHotTables] = []

    def made(name: str, **more: Any) -> SharedHotTables:
        opened.append(replica(tmp_path, name, **more))
        return opened[-1]

    yield made
    for each in opened:
        each.close()


def insert(hot: SharedHotTables, user: str, *ns: int) -> None:
    hot.accept(T, [Change(user, Op.INSERT, (n, f"{user} {n}")) for n in ns])


def batch(*rows: tuple[str, int]) -> pa.Table:
    users, ns = zip(*rows, strict=True)
    texts = [f"{user} {n}" for user, n in rows]
    return pa.table({USER: list(users), "n": pa.array(ns, pa.int64()), "s": texts})


def seen(hot: SharedHotTables) -> list[int]:
    with hot.snapshot() as snapshot:
        return sorted(snapshot.rows(T).column("n").to_pylist())


def test_what_one_host_accepts_every_host_reads_and_keys_are_unique_on_all(host: Host) -> None:
    one, two = host("one"), host("two")
    insert(one, "ann", 1)
    two.accept_arrow(T, batch(("ann", 2), ("bob", 3)))
    assert seen(one) == seen(two) == [1, 2, 3]
    for hot in (one, two):
        for n in (1, 2):
            with pytest.raises(Conflict, match="PRIMARY KEY"):
                insert(hot, "ann", n)
            with pytest.raises(Conflict, match="PRIMARY KEY"):
                hot.accept_arrow(T, batch(("ann", n)))
    with two.snapshot() as snapshot:
        read = snapshot.through(T)
        row = snapshot.rows(T, user="ann").to_pylist()[0]
    change = [Change("ann", Op.UPDATE, (1, "new"), row["_seq"])]
    one.accept(T, change, unless_newer_than=read)
    with pytest.raises(Conflict, match="changed meanwhile"):
        two.accept(T, change, unless_newer_than=read)


def test_one_host_flushes_at_a_time_and_another_goes_on_when_it_is_lost(host: Host) -> None:
    now = [1_800_000_000.0]
    one, two = (host(name, clock=lambda: now[0]) for name in ("one", "two"))
    insert(one, "ann", 1)
    one.accept_arrow(T, batch(("bob", 2)))
    lease = one.lease(T, owner="one", ttl_s=30)
    assert lease is not None
    assert two.lease(T, owner="two", ttl_s=30) is None
    now[0] += 31
    taken = two.lease(T, owner="two", ttl_s=30)
    assert taken is not None
    assert taken.token > lease.token
    with pytest.raises(LeaseLost):
        one.ack(lease, lease.through)
    assert sorted(two.take(taken)[0].column("n").to_pylist()) == [1, 2]
    assert two.ack(taken, taken.through).changes == 2
    two.release(taken)
    assert (one.waiting(), seen(one), one.progress(T)) == ([], [], two.progress(T))


def test_parked_and_held_rows_are_those_of_all_hosts(host: Host) -> None:
    one, two = host("one"), host("two")
    one.accept_arrow(T, batch(("ann", 1), ("bob", 2), ("cay", 3)))
    lease = one.lease(T, owner="one", ttl_s=30)
    assert lease is not None
    with one.snapshot() as snapshot:
        version = snapshot.rows(T, user="ann").column("_version")[0].as_py()
    one.ack(lease, 0, refused=[Refused("ann", version, FAILURE)])
    one.ack(lease, lease.through, held={"bob": Held(FAILURE, 1, 0.0)})
    one.release(lease)
    (parked,) = two.parked()
    assert [state.partition for state in two.states(failing=True)] == ["ns.t/bob"]
    assert seen(two) == [1, 2]
    two.unpark([parked.id])
    assert one.parked() == []


def test_a_host_that_comes_later_begins_with_a_copy(host: Host) -> None:
    one = host("one")
    insert(one, "ann", *range(20))
    one.accept_arrow(T, batch(("bob", 100)))
    one._copy()
    insert(one, "ann", 20)
    log = SharedLog(one._log._server.address)
    with closing(log):
        name, at = log.copy()
        assert name
        assert at == one._file.where().n - 1
    assert shared().client().hlen(one._log._tag + b":log") == 2, "what the copy has is gone"
    assert seen(host("two")) == [*range(21), 100]


def test_of_a_host_that_was_away_for_long_nothing_is_missing(host: Host) -> None:
    two = host("two")
    insert(two, "ann", 1)
    two.close()
    one = host("one")
    insert(one, "ann", 2)
    one._copy()
    insert(one, "ann", 3)
    again = host("two")
    assert seen(again) == [1, 2, 3]
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        insert(again, "ann", 2)


def test_a_copy_that_goes_while_a_host_begins_with_it_is_no_problem(host: Host) -> None:
    one = host("one")
    insert(one, "ann", 1)
    one._copy()
    insert(one, "ann", 2)
    two, load = host("two"), Copies.load

    def late(self: Copies, *given: Any) -> bytes:
        if mocked.call_count == 1:
            one._copy()  # which removes the one before
        return load(self, *given)

    with mock.patch.object(Copies, "load", autospec=True, side_effect=late) as mocked:
        assert seen(two) == [1, 2]
    assert mocked.call_count == 2


def test_no_byte_of_an_erased_user_is_left_on_any_host_in_redis_or_in_the_storage(
    host: Host, tmp_path: Path
) -> None:
    one, two = host("one"), host("two")
    insert(one, "eraseme", 1)
    insert(two, "bob", 2)
    two.accept_arrow(T, batch(("eraseme", 3), ("cay", 4)))
    two._copy()
    insert(one, "eraseme", 5)
    read = two.erasures()
    assert seen(two) == [1, 2, 3, 4, 5]
    assert one.erase_user("eraseme") == 3
    with pytest.raises(ErasedSince):
        two.accept(T, [Change("bob", Op.INSERT, (9, ""))], unless_erased_since=read)
    two.maintain()
    assert seen(one) == seen(two) == [2, 4]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"eraseme" in path.read_bytes()] == []
    client, tag = shared().client(), one._log._tag
    for key in client.scan_iter(tag + b"*", count=1000):
        assert b"eraseme" not in (client.dump(key) or b"")


def test_rows_of_a_batch_are_erased_though_it_came_while_they_were(host: Host) -> None:
    one, two = host("one"), host("two")
    one.accept_arrow(T, batch(("ann", 1), ("bob", 2)))
    do, late = one._do, [("ann", 3), ("bob", 4)]

    def first(kind: str, *given: Any, **more: Any) -> Any:
        if kind == "erase" and late:
            two.accept_arrow(T, batch(*late))
            late.clear()
        return do(kind, *given, **more)

    with mock.patch.object(one, "_do", first):
        assert one.erase_user("ann") == 2
    assert seen(two) == [2, 4]


def test_many_hosts_and_threads_at_once_lose_and_double_nothing(host: Host) -> None:
    hosts = [host(name) for name in ("one", "one", "two")]  # two processes of one host, too
    taken: list[int] = []
    done = threading.Event()

    def write(at: int) -> None:
        for n in range(25):
            hosts[at % 3].accept(T, [Change(f"user{at}", Op.INSERT, (at * 100 + n, "x"))])
            if n % 10 == 0:
                hosts[at % 3].accept_arrow(T, batch((f"user{at}", at * 100 + 50 + n)))

    def flush(at: int) -> None:
        while True:
            last = done.is_set()
            lease = hosts[at].lease(T, owner=str(at), ttl_s=60)
            if lease is not None:
                rows, through = hosts[at].take(lease)
                hosts[at].ack(lease, through)
                hosts[at].release(lease)
                taken.extend(rows.column("n").to_pylist())
            elif last:
                return

    with ThreadPoolExecutor(6) as pool:
        flushers = [pool.submit(flush, at) for at in (0, 2)]
        for each in [pool.submit(write, at) for at in range(4)]:
            each.result()
        done.set()
        for each in flushers:
            each.result()
    wanted = [a * 100 + n for a in range(4) for n in [*range(25), 50, 60, 70]]
    assert sorted(taken) == wanted
    assert [seen(hot) for hot in hosts] == [[], [], []]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_host_that_ends_beside_the_log_has_done_all_or_nothing(host: Host, moment: str) -> None:
    """What a kill leaves: a step that is in the log and was not done, or a file that no step
    names."""
    one = host("one")
    insert(one, "ann", 1)
    append = one._log.append

    def killed(*given: Any, **more: Any) -> Any:
        if moment == "after":
            append(*given, **more)
        raise KeyboardInterrupt

    with mock.patch.object(one._log, "append", killed):
        with pytest.raises(KeyboardInterrupt):
            insert(one, "ann", 2)
        with pytest.raises(KeyboardInterrupt):
            one.accept_arrow(T, batch(("ann", 3)))
    one.close()
    wanted = [1] if moment == "before" else [1, 2, 3]
    assert seen(host("two")) == seen(host("one")) == wanted


def test_a_batch_key_is_known_on_every_host(host: Host) -> None:
    one, two = host("one"), host("two")
    key = BatchKey("k", b"digest", "ann")
    first = one.accept_arrow(T, batch(("ann", 1)), batch=key)
    again = two.accept_arrow(T, batch(("ann", 1)), batch=key)
    assert (again.first, again.repeated) == (first.first, True)
    with pytest.raises(Conflict, match="idempotency key"):
        two.accept_arrow(T, batch(("ann", 2)), batch=BatchKey("k", b"other", "ann"))


def test_where_the_storage_is_away_single_rows_are_taken_and_batches_refused(
    host: Host, tmp_path: Path
) -> None:
    one, two = host("one"), host("two")
    one.accept_arrow(T, batch(("ann", 1)))
    (tmp_path / "storage").rename(tmp_path / "away")
    (tmp_path / "storage").write_text("")
    insert(two, "ann", 2)
    with pytest.raises(BufferUnavailable, match="batch"):
        two.accept_arrow(T, batch(("ann", 3)))
    with pytest.raises(BufferProblem):
        seen(two)
    (tmp_path / "storage").unlink()
    (tmp_path / "away").rename(tmp_path / "storage")
    assert seen(two) == [1, 2]


def test_files_that_no_step_needs_are_swept_when_they_are_old(host: Host, tmp_path: Path) -> None:
    one = host("one")
    one.accept_arrow(T, batch(("ann", 1)))
    one.accept_arrow(T, batch(("ann", 2)))
    lease = one.lease(T, owner="one", ttl_s=30)
    assert lease is not None
    one.ack(lease, lease.through)
    one.release(lease)
    one.accept_arrow(T, batch(("ann", 3)))
    left = tmp_path / "storage" / "hot" / "7-left.arrow"
    left.write_bytes(b"of a host that was killed")
    for file in (tmp_path / "storage" / "hot").glob("*.arrow"):
        os.utime(file, (0, 0))
    one._copy()
    one._sweep()
    assert len(list((tmp_path / "storage" / "hot").glob("*.arrow"))) == 1
    assert seen(host("two")) == [3]


def test_a_server_that_lost_its_end_is_said_and_no_number_is_given_twice(
    tmp_path: Path, host: Host
) -> None:
    said: list[Any] = []
    with running_redis(save="", appendonly="no") as server:
        url = server.url("t", shards=1)
        one = host("one", url=url, on_problem=said.append)
        insert(one, "ann", 1)
        server.client().save()
        insert(one, "ann", 2)
        lost = _versions(one)
        server.kill()
        server.start()
        two = host("two", url=url)
        insert(two, "bob", 3)  # this host does not know what was lost
        assert seen(one) == [1, 3]
        assert "has lost steps" in str(said[0])
        insert(one, "ann", 2)
        assert seen(two) == [1, 2, 3]
        assert {v >> ORIGIN_SHIFT for v in _versions(two) - lost} & {
            v >> ORIGIN_SHIFT for v in lost
        } == set()


def test_a_server_that_lost_all_goes_on_from_a_host_that_has_it(host: Host) -> None:
    said: list[Any] = []
    with running_redis(save="", appendonly="no") as server:
        url = server.url("t", shards=1)
        one = host("one", url=url, on_problem=said.append)
        insert(one, "ann", 1)
        one.accept_arrow(T, batch(("ann", 2)))
        server.kill()
        server.start()
        insert(one, "ann", 3)
        assert seen(one) == seen(host("two", url=url)) == [1, 2, 3]
        assert said == []


def test_while_the_server_is_away_it_is_said(host: Host) -> None:
    with running_redis() as server:
        log = SharedLog(parse(server.url("t", shards=1)))
        log._server._patience_s = 0.0
        one = host("one", url=server.url("t", shards=1))
        one._log._server._patience_s = 0.0
        insert(one, "ann", 1)
        server.kill()
        for ask in (lambda: insert(one, "ann", 2), lambda: seen(one)):
            with pytest.raises(BufferUnavailable, match="log of tables"):
                ask()
        log.close()


def _versions(hot: SharedHotTables) -> set[int]:
    with hot.snapshot() as snapshot:
        return set(snapshot.rows(T).column("_version").to_pylist())
