"""What is particular to the buffer in Redis: lost replies, shards, what is sent, what a server may do
to it. What every buffer promises is in tests/contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from support.buffers import BAD, BufferHouse, drain, put, read_all, take, values
from support.redis_server import running_redis, shared, url_for
from support.spilling import SpillPlace
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.buffer.redis.spilling import RedisSpilling
from surgetank.exceptions import (
    BufferCorrupt,
    BufferFull,
    BufferUnavailable,
    ConfigurationError,
    EntryUnreadable,
    LeaseLost,
)
from surgetank.fallback.codec import FileHeader, SpilledEntry, ValueRef
from surgetank.model import CopyChange, FlushJob, JobStatus, OldCopy, Record
from surgetank.redis.address import parse
from surgetank.redis.server import RedisServer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[BufferHouse]:
    house = BufferHouse("redis", tmp_path)
    yield house
    house.close()
    assert house.miscounted() == []


@pytest.fixture
def buffer(house: BufferHouse) -> RedisBuffer:
    buffer = house.open()
    assert isinstance(buffer, RedisBuffer)
    return buffer


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_a_buffer_of_few_shards_is_leased_while_there_is_plenty(shards: int) -> None:
    buffer = RedisBuffer(parse(shared().url(shards=shards)))
    for number in range(6):
        buffer.append("s", f"p{number}", (Record(b"k", b"v"),))
    for _ in range(6):
        leased = buffer.lease("s", Due(limit=2, enough_entries=1), owner="w", ttl_s=30)
        assert leased
        buffer.release([each.lease for each in leased])
    buffer.close()


def prefix(folder: Path) -> str:
    return parse(url_for(folder)).prefix


def test_an_append_whose_reply_was_lost_is_one_entry(
    buffer: RedisBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(buffer, "p", b"1")
    ask, lost = RedisServer._pipeline, [0]

    def losing(lane: object, commands: list[tuple[bytes, ...]]) -> list[object]:
        replies = ask(lane, commands)  # type: ignore[arg-type]
        if lost[0] < 2:
            lost[0] += 1
            raise ConnectionLost("the reply was lost")
        return replies

    monkeypatch.setattr(RedisServer, "_pipeline", staticmethod(losing))
    second = put(buffer, "p", b"2")
    assert second > first
    assert lost == [2]
    entries = drain(buffer)
    assert [(e.seq, values([e])) for e in entries] == [(first, [b"1"]), (second, [b"2"])]


def test_an_acknowledgement_whose_reply_was_lost_is_not_taken_for_a_lost_lease(
    buffer: RedisBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buffer)
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    ask, lost = RedisServer._pipeline, [False]

    def losing(lane: object, commands: list[tuple[bytes, ...]]) -> list[object]:
        replies = ask(lane, commands)  # type: ignore[arg-type]
        if replies == [[b"ok"]] and not lost[0]:
            lost[0] = True
            raise ConnectionLost("the reply was lost")
        return replies

    monkeypatch.setattr(RedisServer, "_pipeline", staticmethod(losing))
    assert buffer.ack([Ack(lease, entries, release=True)]) == []
    assert lost[0]
    assert buffer.depth().entries == 0


def test_all_keys_of_a_shard_have_one_hash_tag_and_load_is_spread(
    house: BufferHouse, buffer: RedisBuffer
) -> None:
    for n in range(40):
        put(buffer, f"thread-{n}", b"x" * 2000)
    lease = take(buffer, "thread-0").lease
    buffer.park(lease, read_all(buffer, lease)[0].seq, BAD)
    lease = take(buffer, "thread-1").lease
    keep = CopyChange(b"m", 2, {b"a": b"b"}, clear=True)
    buffer.ack(
        [
            Ack(
                lease,
                read_all(buffer, lease),
                maxima={b"n": b"1"},
                keep=lambda _: keep,
                release=True,
            )
        ]
    )
    buffer.raise_fence("s", "thread-2", 4)
    buffer.tally("s", "thread-3", b"k", b"v")
    buffer.save_job(FlushJob("j", "s", "manual", JobStatus.COMPLETED, 1.0, "n"))
    keys = shared().client().keys(f"*{prefix(house.folder)}*")
    tags = {re.match(r"b'\{[0-9a-f]+:(\d+)\}:", repr(key)) for key in keys}
    assert None not in tags
    shards = {match[1] for match in tags if match}
    assert shards == {"0", "1", "2", "3"}


def test_bytes_sent_grow_with_what_changed(
    buffer: RedisBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [0]
    ask = RedisServer._pipeline

    def counting(lane: object, commands: list[tuple[object, ...]]) -> list[object]:
        for command in commands:
            sent[0] += sum(len(part) for part in command if isinstance(part, bytes))
        return ask(lane, commands)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisServer, "_pipeline", staticmethod(counting))
    state = bytes(range(256)) * 2000
    expected = []
    costs = []
    for n in range(10):
        state += b"message %06d " % n * 20
        before = sent[0]
        buffer.append("s", "p", [Record(b"state", state, b"messages")])
        costs.append(sent[0] - before)
        expected.append(state)
    assert costs[0] > 500_000
    assert max(costs[2:]) < 3_000, "each adds 300 bytes to a state of half a megabyte"
    assert values(drain(buffer)) == expected


def test_a_difference_from_what_was_acknowledged_meanwhile_is_sent_whole(
    house: BufferHouse, buffer: RedisBuffer
) -> None:
    states = [bytes(range(256)) * 40 + b"." * n for n in range(4)]
    for state in states[:2]:
        buffer.append("s", "p", [Record(b"k", state, b"f")])
    assert values(drain(house.open())) == states[:2]
    for state in states[2:]:
        buffer.append("s", "p", [Record(b"k", state, b"f")])
    assert values(drain(house.open())) == states[2:]
    assert buffer.depth().bytes == 0


def test_a_reader_that_knows_a_partition_is_sent_only_what_is_new(
    house: BufferHouse, buffer: RedisBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = house.open()
    seen = list[int]()
    ask = RedisServer._pipeline

    def counting(lane: object, commands: object) -> list[object]:
        replies = ask(lane, commands)  # type: ignore[arg-type]
        seen.append(len(repr(replies)))
        return replies

    put(buffer, "p", b"x" * 100_000, key=b"large")
    with reader.snapshot() as view:
        assert len(view.scan("s", "p", b"")) == 1
    put(buffer, "p", b"small", key=b"small")
    monkeypatch.setattr(RedisServer, "_pipeline", staticmethod(counting))
    for _ in range(2):
        with reader.snapshot() as view:
            found = view.latest("s", "p", [b"large", b"small"])
            assert [found[b"large"].value, found[b"small"].value] == [b"x" * 100_000, b"small"]
    assert len(seen) == 2, "one round trip for each"
    assert max(seen) < 5_000


def test_limits_hold_over_shards_and_processes(house: BufferHouse) -> None:
    one, other = house.open(max_entries=20), house.open(max_entries=20)
    accepted = 0
    for n in range(60):
        try:
            put((one, other)[n % 2], f"thread-{n}")
        except BufferFull:
            break
        accepted += 1
    # Each knows its own exactly, and the other's as of half a second ago.
    assert 20 <= accepted <= 40
    assert one.depth().entries == accepted


def test_another_number_of_shards_is_refused(house: BufferHouse, buffer: RedisBuffer) -> None:
    put(buffer)
    with pytest.raises(ConfigurationError, match=r"4 shards, not 8.*Way out: write shards=4"):
        RedisBuffer(parse(url_for(house.folder, shards=8)))
    assert buffer.depth().entries == 1


def test_buffers_with_other_prefixes_have_nothing_to_do_with_each_other(
    house: BufferHouse, buffer: RedisBuffer, tmp_path: Path
) -> None:
    other = RedisBuffer(parse(url_for(tmp_path / "other")))
    put(buffer)
    assert (other.id == buffer.id, other.depth().entries) == (False, 0)
    other.close()


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_damaged_entry_is_told_as_such_and_its_neighbours_go_on(tmp_path: Path, how: str) -> None:
    house = BufferHouse("redis", tmp_path)
    buffer = house.open()
    seqs = [put(buffer, "p", b"value %d" % n, key=b"k%d" % n) for n in range(3)]
    client = shared().client()
    (key,) = client.keys(f"*{prefix(house.folder)}*e:s\0p")
    if how == "gone":
        client.hdel(key, str(seqs[1]))
    else:
        stored = client.hget(key, str(seqs[1]))
        assert isinstance(stored, bytes)
        client.hset(key, str(seqs[1]), stored.replace(b"value", b"wrong"))
    with buffer.snapshot() as view, pytest.raises(BufferCorrupt, match=f"Entry {seqs[1]} of s/p"):
        view.latest("s", "p", [b"k1"])
    with buffer.snapshot() as view, pytest.raises(BufferCorrupt):
        view.latest("s", "p", [b"k1"])
    (noted,) = buffer.damage(new=True)  # which is announced as a system error; once
    assert (noted.stream, noted.partition) == ("s", "p")
    assert f"Entry {seqs[1]} of s/p" in noted.what
    lease = take(buffer).lease
    (first,) = read_all(buffer, lease)
    assert first.seq == seqs[0]
    with pytest.raises(EntryUnreadable) as caught:
        buffer.read(lease, after_seq=seqs[0], max_entries=9, max_bytes=10**6)
    assert caught.value.damaged
    assert caught.value.seq == seqs[1]
    buffer.park(lease, seqs[1], BAD)
    assert [e.seq for e in read_all(buffer, lease)] == [seqs[0], seqs[2]]
    with buffer.snapshot() as view:
        assert [f.seq for f in view.scan("s", "p", b"")] == [seqs[0], seqs[2]]
    assert len(buffer.damage()) == 1
    house.close()


def test_numbers_are_not_given_again_by_a_server_that_lost_everything() -> None:
    """Its clock went on: they follow it."""
    with running_redis() as redis:
        address = parse(redis.url("x"))
        buffer = RedisBuffer(address)
        before = put(buffer)
        token = take(buffer).lease.token
        buffer.close()
        redis.kill()
        redis.start()
        again = RedisBuffer(address)
        assert put(again) > before
        assert take(again).lease.token > token
        assert again.id != buffer.id
        again.close()


def test_a_server_that_is_not_there_is_said_with_its_address() -> None:
    with pytest.raises(BufferUnavailable, match=r"The buffer redis://127\.0\.0\.1:1/0 does not"):
        RedisBuffer(parse("redis://:geheim@127.0.0.1:1"), patience_s=0.05)


def test_a_queue_of_several_processes_loses_and_doubles_nothing(house: BufferHouse) -> None:
    buffer = house.open()
    written = house.in_another_process(
        "import threading\n"
        "answer = []\n"
        "def write(n):\n"
        "    for i in range(50): answer.append(put(buffer, f'p{i % 5}', b'%d:%d' % (n, i)))\n"
        "threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]"
    )
    seqs = [entry.seq for entry in drain(buffer)]
    assert sorted(seqs) == sorted(written)
    assert len(set(seqs)) == 200


def test_a_copy_that_changed_after_its_keeper_saw_it_is_asked_for_again(
    house: BufferHouse, buffer: RedisBuffer
) -> None:
    other = house.open()
    put(buffer)
    lease = take(buffer).lease
    entries = read_all(buffer, lease)
    seen: list[bytes | None] = []

    def keep(old: OldCopy) -> CopyChange:
        seen.append(old.mark)
        if len(seen) == 1:  # the thread's copy comes by another way just now
            key = next(iter(shared().client().keys(f"*{prefix(house.folder)}*p:s\0p")))
            shared().client().hset(key, mapping={"cm": "other", "cb": "0", "ver": "1"})
        return CopyChange(b"mine", 2, {b"a": b"1"}, clear=True)

    assert buffer.ack([Ack(lease, entries, keep=keep, release=True)]) == []
    assert seen == [None, b"other"]
    with other.snapshot() as view:
        assert view.copy("s", "p").mark == b"mine"
        assert view.copied("s", "p", [b"a"]) == {b"a": b"1"}


def test_a_spill_file_that_is_given_up_between_two_steps_is_not_referred_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SpillPlace(tmp_path, "redis")
    buffer = place.open()
    put(buffer, "p", b"value " * 100)
    touch = RedisSpilling._touch

    def touched_and_given_up(spilling: RedisSpilling, header: FileHeader) -> None:
        touch(spilling, header)
        place.clock.advance(100)
        assert [file.number for file in buffer.drained_spills(silent_s=1.0)] == [header.number]

    monkeypatch.setattr(RedisSpilling, "_touch", touched_and_given_up)
    leased = take(buffer, ttl_s=1000.0)
    (entry,) = read_all(buffer, leased.lease)
    header = buffer.begin_spill("s", node="n")
    with pytest.raises(LeaseLost, match="given up"):
        buffer.stub(header, leased.lease, [SpilledEntry(entry, (ValueRef(0, 1, 2, 3),))])
    assert buffer.spilled_entries() == 0
    assert values(read_all(buffer, leased.lease)) == [b"value " * 100]
    place.close()
