"""Redis behind sentinels, as a cluster, and encrypted: an engine runs on each, and finds its way when servers
change."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.crc import key_slot

from support import savers
from support.redis_fleet import client, redis_cluster, watched_redis
from support.redis_server import shared
from support.savers import config
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.buffer.coordination import Due
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.exceptions import BufferUnavailable
from surgetank.model import Record
from surgetank.redis import server as module
from surgetank.redis.address import parse
from surgetank.redis.cluster import RedisCluster
from surgetank.redis.routes import Node
from surgetank.redis.server import Confirmation

PATIENCE_S = 60.0
RECORD = (Record(b"k", b"v" * 100),)


def use(tank: Surgetank) -> None:
    """Put, read, flush, follow."""
    saver = tank.checkpointer()
    for number in range(6):
        savers.put(saver, f"thread-{number}", {"n": number})
        tank.emit_log("said", thread_id=f"thread-{number}")
    assert {e.thread_id for e in tank.events.tail(0)[1]} >= {f"thread-{n}" for n in range(6)}
    assert tank.flush().ok
    assert tank.status().buffer.entries == 0
    for number in range(6):
        found = saver.get_tuple(config(f"thread-{number}"))
        assert found is not None
        assert found.checkpoint["channel_values"]["n"] == number
    assert tank.door is not None
    tank.door.keep_ticket(b"t", b"body", ttl_s=30)
    assert tank.door.take_ticket(b"t") == b"body"


# -- a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[int]]:
    with redis_cluster() as ports:
        yield ports


def url_of(ports: list[int]) -> str:
    nodes = ",".join(f"127.0.0.1:{port}" for port in (1, *ports))  # the first one is not there
    return f"redis+cluster://{nodes}?prefix={uuid4().hex}&shards=8"


def test_an_engine_runs_on_a_cluster(make_tank: MakeTank, cluster: list[int]) -> None:
    tank = make_tank(buffer_url=url_of(cluster))
    use(tank)
    server = tank.parts.buffer._shards.server  # type: ignore[union-attr]
    assert isinstance(server, RedisCluster)
    assert len({owner for owner in server._slots._owners if owner is not None}) == 3
    tank.parts.buffer.check()
    tank.parts.buffer.maintain()


def test_a_slot_that_is_elsewhere_is_found_and_asked_once(
    make_tank: MakeTank, cluster: list[int]
) -> None:
    tank = make_tank(buffer_url=url_of(cluster))
    buffer: Any = tank.parts.buffer
    slots = buffer._shards.server._slots
    for _ in range(2):
        slots._owners = [Node("127.0.0.1", cluster[0])] * 16384  # of most it is wrong
        for number in range(8):
            buffer.append("s", f"p{number}", RECORD)
    slots._owners = [Node("127.0.0.1", 1)] * 16384  # nobody is there
    buffer.append("s", "p0", RECORD)
    assert [buffer.state("s", f"p{number}").entries for number in range(8)] == [3] + [2] * 7


def test_what_each_node_is_set_to_is_said(make_tank: MakeTank, cluster: list[int]) -> None:
    unsafe = client(cluster[1])
    unsafe.config_set("maxmemory-policy", "allkeys-lru")
    try:
        tank = make_tank(buffer_url=url_of(cluster))
        advices = tank.parts.buffer.advices()
    finally:
        unsafe.config_set("maxmemory-policy", "noeviction")
    evicting = [advice.what for advice in advices if "drops keys" in advice.what]
    assert [what.split(": ")[0] for what in evicting] == [f"127.0.0.1:{cluster[1]}"]
    assert {what.what.split(": ")[0] for what in advices if "append-only" in what.what} == {
        f"127.0.0.1:{port}" for port in cluster
    }


def test_what_comes_while_a_slot_moves_to_another_node_waits_and_is_accepted_once(
    make_tank: MakeTank, cluster: list[int]
) -> None:
    """A shard is at one node or the other, never in both: who asks meanwhile waits for the end."""
    tank = make_tank(buffer_url=url_of(cluster))
    buffer: Any = tank.parts.buffer
    shards = buffer._shards
    shards.server._patience_s = 60.0
    before = [buffer.append("s", "p", RECORD) for _ in range(3)]
    slot = key_slot(shards.tag(shards.of("p")))
    from_port = shards.server._slots.owner(slot).port
    to_port = next(port for port in cluster if port != from_port)
    from_, to = client(from_port), client(to_port)
    ids = {port: cluster_id(port) for port in cluster}
    to.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[from_port])
    from_.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to_port])
    refused = asked_elsewhere(from_)
    during: list[int] = []
    writer = threading.Thread(target=lambda: during.append(buffer.append("s", "p", RECORD)))
    writer.start()
    wait_until(lambda: asked_elsewhere(from_) > refused, "the writer to be sent away", PATIENCE_S)
    while keys := from_.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        from_.execute_command("MIGRATE", "127.0.0.1", to_port, "", 0, 5000, "KEYS", *keys)
    assert during == []
    for port in cluster:
        client(port).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[to_port])
    writer.join(PATIENCE_S)
    assert len(during) == 1
    (leased,) = buffer.lease("s", Due(partition="p", force=True), owner="w", ttl_s=15)
    entries = buffer.read(leased.lease, max_entries=10, max_bytes=10**6)
    assert [entry.seq for entry in entries] == [*before, *during]
    assert shards.server._slots.owner(slot).port == to_port
    assert buffer.damage() == []
    buffer.check()


def test_a_replica_that_takes_over_in_a_cluster_has_what_was_acknowledged_as_replicated() -> None:
    with redis_cluster(replica=True) as ports:
        *primaries, replica = ports
        buffer: Any = RedisBuffer(parse(url_of(primaries)), durability="process", patience_s=60.0)
        shards = buffer._shards
        shards.server.confirmation = Confirmation(replicas=1)
        owner = lambda name: shards.server._slots.owner(key_slot(shards.tag(shards.of(name))))  # noqa: E731
        name = next(n for n in map(str, range(1000)) if owner(n).port == primaries[0])
        before = [buffer.append("s", name, RECORD) for _ in range(20)]
        client(primaries[0]).shutdown(nosave=True)
        client(replica).execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        shards.server.confirmation = None  # it has no replica now
        after = buffer.append("s", name, RECORD)
        (leased,) = buffer.lease("s", Due(partition=name, force=True), owner="w", ttl_s=15)
        entries = buffer.read(leased.lease, max_entries=100, max_bytes=10**6)
        assert [entry.seq for entry in entries] == [*before, after]
        assert owner(name).port == replica
        buffer.close()


def cluster_id(port: int) -> str:
    found = client(port).execute_command("CLUSTER", "MYID")
    return found.decode() if isinstance(found, bytes) else str(found)


def asked_elsewhere(node: Any) -> int:
    """How often a node said that a slot is moving."""
    return int(node.info("errorstats").get("errorstat_ASK", {}).get("count", 0))


# -- sentinels


def test_after_a_failover_nothing_acknowledged_as_replicated_is_lost(make_tank: MakeTank) -> None:
    with watched_redis() as watched:
        tank = make_tank(buffer_url=watched.url("drill"), durability="replicated")
        use(tank)
        buffer: Any = tank.parts.buffer
        accepted = list[int]()
        for _ in range(50):
            accepted.append(buffer.append("s", "p", RECORD))
        watched.primary.kill()

        def accepts() -> bool:
            # Of the new primary no replica is there: what it takes is not acknowledged any more.
            with suppress(BufferUnavailable):
                return bool(buffer.state("s", "p"))
            return False

        wait_until(accepts, "the new primary", 60)
        assert watched.primary_now() == watched.replica.port
        (leased,) = buffer.lease("s", Due(force=True), owner="w", ttl_s=30)
        entries = buffer.read(leased.lease, max_entries=1000, max_bytes=1 << 30)
        assert [e.seq for e in entries][:50] == accepted
        server = buffer._shards.server
        server.confirmation = server.confirmation._replace(timeout_s=0.1)
        with pytest.raises(BufferUnavailable, match="not in 1 of its replicas"):
            buffer.append("s", "p", RECORD)
        assert buffer._shards.take_losses() == []


def _all() -> Any:
    from surgetank.buffer.coordination import Due

    return Due(force=True)


# -- encrypted


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that vouches for itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, made = str(folder / "key.pem"), str(folder / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", made],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


@contextmanager
def encrypted(certificates: Path, *, asks: bool) -> Iterator[int]:
    """A door with TLS before the shared server (whose wheel has none); with `asks` clients show a certificate too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "cert.pem")
    behind = str(shared().socket)

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with suppress(OSError), plain, socket.socket(socket.AF_UNIX) as inner:
            plain.settimeout(30)
            with context.wrap_socket(plain, server_side=True) as outer:
                inner.connect(behind)
                outer.settimeout(None)
                back = threading.Thread(target=copy, args=(inner, outer), daemon=True)
                back.start()
                copy(outer, inner)
                back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    threading.Thread(target=serve, args=(plain,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_connection_is_encrypted_and_both_sides_are_known(
    make_tank: MakeTank, certificates: Path
) -> None:
    ca = certificates / "cert.pem"
    with encrypted(certificates, asks=True) as port:
        base = f"rediss://localhost:{port}/0?shards=2&prefix={uuid4().hex}"
        use(make_tank(buffer_url=f"{base}&ca={ca}&cert={ca}&key={certificates / 'key.pem'}"))


@pytest.mark.parametrize("more", ["", "&ca={ca}"], ids=["stranger", "other name"])
def test_a_server_that_is_not_who_it_should_be_is_refused(
    make_tank: MakeTank, certificates: Path, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 60.0)  # once is enough
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 60.0)
    with encrypted(certificates, asks=False) as port:
        host = "127.0.0.1" if more else "localhost"
        url = f"rediss://{host}:{port}/0?shards=2{more.format(ca=certificates / 'cert.pem')}"
        with pytest.raises(BufferUnavailable, match="certificate"):
            make_tank(buffer_url=url)
        use(make_tank(buffer_url=f"{url.partition('&')[0]}&verify=none&prefix={uuid4().hex}"))
