"""What the buffer in Redis keeps when its server dies, by the level that is set; and that it notices what
a server lost.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import pytest

from support.buffers import drain, put, take, values
from support.redis_server import RedisTestServer, running_redis
from support.waiting import wait_until
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.exceptions import BufferUnavailable, ConfigurationError
from surgetank.redis.address import parse


def test_with_a_file_nothing_that_was_accepted_is_lost_by_a_kill_of_the_server() -> None:
    with running_redis(appendonly="yes", appendfsync="always") as redis:
        buffer = RedisBuffer(parse(redis.url("x")), durability="power")
        assert (buffer.durability, buffer.advices()) == ("power", [])
        for n in range(50):
            put(buffer, f"p{n % 5}", b"%d" % n)
        epoch = buffer.epoch
        redis.kill()
        redis.start()
        put(buffer, "p0", b"50")
        assert buffer.epoch == epoch
        assert buffer.damage() == []
        assert sorted(map(int, values(drain(buffer)))) == list(range(51))
        assert buffer.miscounted() == []
        buffer.close()


def test_a_newer_server_is_waited_for_until_its_file_is_on_its_disk() -> None:
    with running_redis(newer=True, appendonly="yes", appendfsync="everysec") as redis:
        buffer = RedisBuffer(parse(redis.url("x")), durability="power")
        server = buffer._shards.server
        assert server.confirmation is not None
        assert server.confirmation.in_file
        for n in range(2):
            put(buffer, f"p{n}", b"%d" % n)
        redis.kill()
        redis.start()
        put(buffer, "p0", b"2")
        assert sorted(values(drain(buffer))) == [b"0", b"1", b"2"]
        assert buffer.damage() == []
        redis.client().config_set("appendfsync", "no")
        server.confirmation = server.confirmation._replace(timeout_s=0.05)
        with pytest.raises(BufferUnavailable, match="not in its file"):
            put(buffer, "p0", b"3")
        redis.client().config_set("appendonly", "no")
        with pytest.raises(BufferUnavailable, match="WAITAOF"):
            put(buffer, "p0", b"4")
        buffer.close()


def test_a_level_is_refused_by_a_server_that_can_not_give_it() -> None:
    with running_redis() as redis:
        address = parse(redis.url())
        for level, needed in (("power", "appendonly yes"), ("replicated", "replica")):
            with pytest.raises(ConfigurationError, match=needed):
                RedisBuffer(address, durability=level)  # type: ignore[arg-type]
        buffer = RedisBuffer(address)
        assert buffer.advices() != []
        buffer.close()


def test_a_server_that_lost_its_tail_is_noticed_by_each_process_and_told_as_a_range() -> None:
    with running_redis() as redis:
        address = parse(redis.url("x", shards=2))
        one, other = RedisBuffer(address), RedisBuffer(address)
        seqs = {name: put(buffer, name) for name, buffer in (("a", one), ("bb", other), ("c", one))}
        token = take(one, "a").lease.token
        epochs = one.epoch, other.epoch
        redis.kill()
        redis.start()  # without a file: it has nothing
        for buffer in (one, other):
            assert put(buffer, "new") > max(seqs.values()), "no number is given again"
        assert take(one, "new").lease.token > token
        assert one.epoch != epochs[0]
        assert other.epoch != epochs[1]
        told = " ".join(damage.what for damage in one.damage(new=True))
        for name in ("bb", "c"):  # the last one that each of them was told was accepted
            assert f"up to {seqs[name]} at least" in told
        one.damage_announced([damage.id for damage in one.damage()])
        assert other.damage(new=True) == []
        put(one, "new")
        assert other.damage(new=True) == [], "it is told once"
        one.close()
        other.close()


def test_a_replica_that_was_behind_and_became_the_primary_is_noticed() -> None:
    with running_redis() as primary, running_redis() as replica:
        _replicate(primary, replica)
        buffer = RedisBuffer(parse(primary.url("x", shards=1)))
        kept = put(buffer, "p", b"kept")
        wait_until(lambda: replica.client().dbsize() == primary.client().dbsize(), "the copy")
        replica.client().replicaof("NO", "ONE")
        lost = put(buffer, "p", b"lost")
        primary.kill()
        primary.socket.symlink_to(replica.socket)  # the name leads to the new primary now
        newer = put(buffer, "p", b"newer")
        assert newer > lost > kept
        (damage,) = buffer.damage()
        assert f"up to {lost} at least" in damage.what
        assert values(drain(buffer)) == [b"kept", b"newer"]
        buffer.close()
        primary.socket.unlink()


def test_replicated_waits_for_a_replica_and_says_when_there_is_none() -> None:
    with running_redis() as primary, running_redis() as replica:
        _replicate(primary, replica)
        wait_until(
            lambda: primary.client().info("replication")["slave0"]["state"] == "online", "a replica"
        )
        buffer = RedisBuffer(parse(primary.url("x")), durability="replicated")
        put(buffer, "p", b"1")
        assert replica.client().keys("*e:s*") != [], "it is there before append returned"
        assert buffer._shards.server.confirmation is not None
        buffer._shards.server.confirmation = buffer._shards.server.confirmation._replace(
            timeout_s=0.05
        )
        replica.freeze()
        with pytest.raises(BufferUnavailable, match="not in 1 of its replicas"):
            put(buffer, "p", b"2")
        replica.thaw()
        put(buffer, "p", b"3")
        buffer.close()


def _replicate(primary: RedisTestServer, replica: RedisTestServer) -> None:
    replica.client().replicaof("127.0.0.1", primary.port)
    wait_until(
        lambda: replica.client().info("replication")["master_link_status"] == "up", "a replica"
    )


@pytest.mark.parametrize("newer", [False, True])
def test_what_was_erased_is_not_in_the_servers_file_after_it_was_scrubbed(newer: bool) -> None:
    noise = random.Random(1)  # a file has it as it is: nothing of it can be made shorter
    secret, other = noise.randbytes(200), noise.randbytes(200)
    with running_redis(newer=newer, appendonly="yes", appendfsync="always") as redis:
        buffer = RedisBuffer(parse(redis.url("x")))

        def in_files(value: bytes) -> bool:
            folder = Path(cast("Any", redis.client().config_get("dir"))["dir"])
            return any(value in f.read_bytes() for f in folder.rglob("*aof*") if f.is_file())

        put(buffer, "mine", secret)
        drain(buffer)
        put(buffer, "other", other)
        assert in_files(secret)
        assert buffer.erase(["mine"], []) == (1, [])
        assert in_files(secret)
        assert buffer.scrub()
        assert not in_files(secret)
        assert in_files(other)
        redis.client().config_set("appendonly", "no")
        assert buffer.scrub()
        buffer.close()


def test_a_server_that_lets_nobody_ask_for_its_file_does_not_keep_an_erasure_from_its_end() -> None:
    with running_redis(appendonly="yes") as redis:
        redis.client().acl_setuser(
            "shy",
            enabled=True,
            nopass=True,
            keys="*",
            categories=["+@all"],
            commands=["-bgrewriteaof", "-config"],
        )
        buffer = RedisBuffer(parse(f"redis://shy:x@127.0.0.1:{redis.port}/0?prefix=x"))
        assert buffer.advices() == []
        assert buffer.scrub()
        buffer.close()
