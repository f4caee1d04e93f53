"""Several redis-servers for tests: a primary with replicas and sentinels, and a cluster of three nodes. All on free
ports, in folders that are watched over as `redis_server` says.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from support.redis_server import PATIENCE_S, RedisTestServer, program, running_redis
from support.servers import ServerFolder, free_port
from support.waiting import wait_until

SERVICE = "mymaster"


def client(port: int) -> Redis:
    """A client of redis-py's own."""
    return Redis(port=port, retry=Retry(NoBackoff(), 0))


def answers(port: int) -> bool:
    """Whether a server takes commands."""
    try:
        return bool(client(port).ping())
    except RedisError:
        return False


@dataclass
class Watched:
    """A primary, a replica, and the ports of sentinels that watch them."""

    primary: RedisTestServer
    replica: RedisTestServer
    sentinels: list[int]

    def url(self, prefix: str, *, shards: int = 4) -> str:
        """The buffer, by its sentinels; the first one named is not there."""
        nodes = ",".join(f"127.0.0.1:{port}" for port in (1, *self.sentinels))
        return f"redis+sentinel://{nodes}/{SERVICE}/0?prefix={prefix}&shards={shards}"

    def primary_now(self) -> int:
        """The port of the primary, as a sentinel says."""
        _, port = cast("Any", client(self.sentinels[0])).sentinel_get_master_addr_by_name(SERVICE)
        return int(port)


@contextmanager
def sentinel_of(folder: Path, primary: int) -> Iterator[int]:
    """A sentinel, that alone decides; gives its port."""
    port = free_port()
    file = folder / f"sentinel-{port}.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {SERVICE} 127.0.0.1 {primary} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
    )
    with (folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen(
            [str(program()), str(file), "--sentinel"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(port), "an answer of the sentinel", PATIENCE_S)
        yield port
    finally:
        process.kill()
        process.wait(PATIENCE_S)


@contextmanager
def watched_redis() -> Iterator[Watched]:
    """A primary with a replica that is up to date, watched by one sentinel, which knows both."""
    with ExitStack() as stack:
        folder = ServerFolder()
        stack.callback(folder.close)
        primary = stack.enter_context(running_redis())
        replica = stack.enter_context(running_redis())
        replica.client().replicaof("127.0.0.1", str(primary.port))
        wait_until(
            lambda: cast("Any", replica.client().info("replication"))["master_link_status"] == "up",
            "the replica", PATIENCE_S,
        )  # fmt: skip
        port = stack.enter_context(sentinel_of(folder.path, primary.port))
        wait_until(
            lambda: int(cast("Any", client(port)).sentinel_master(SERVICE)["num-slaves"]) == 1,
            "the sentinel to know the replica", PATIENCE_S,
        )  # fmt: skip
        yield Watched(primary, replica, [port])


def _port_of_node() -> int:
    """Nodes speak to each other on the port 10,000 above."""
    while (port := free_port()) > 55_000:
        pass
    return port


@contextmanager
def redis_cluster(*, replica: bool = False) -> Iterator[list[int]]:
    """Three nodes, each with a third of the slots, and one more as `replica` of the first; gives their
    ports."""
    with ExitStack() as stack:
        ports = [_port_of_node() for _ in range(3)]
        nodes = [
            stack.enter_context(running_redis(cluster_enabled="yes", port=str(port)))
            for port in ports
        ]
        for number, node in enumerate(nodes):
            first, last = 16384 * number // 3, 16384 * (number + 1) // 3
            node.client().execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
            if number:
                nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", ports[number])
        for node in nodes:
            wait_until(lambda node=node: _is_complete(node), "the cluster", PATIENCE_S)  # type: ignore[misc]
        if replica:
            ports = [*ports, stack.enter_context(_replica_in(ports))]
        yield ports


@contextmanager
def _replica_in(cluster: list[int]) -> Iterator[int]:
    """One more node, that follows the first one; all know it."""
    primary, port = cluster[0], _port_of_node()
    with running_redis(cluster_enabled="yes", port=str(port)) as node:
        id_ = client(primary).execute_command("CLUSTER", "MYID")
        for other in cluster:
            node.client().execute_command("CLUSTER", "MEET", "127.0.0.1", other)
        wait_until(lambda: _follows(node, id_), "the replica to know its primary", PATIENCE_S)
        wait_until(
            lambda: cast("Any", node.client().info("replication"))["master_link_status"] == "up",
            "the replica", PATIENCE_S,
        )  # fmt: skip
        wait_until(
            lambda: all(_knows_all(each, len(cluster) + 1) for each in (port, *cluster)),
            "all nodes", PATIENCE_S,
        )  # fmt: skip
        yield port


def _knows_all(port: int, count: int) -> bool:
    info = cast("Any", client(port)).cluster("info")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count


def _follows(node: RedisTestServer, primary: Any) -> bool:
    try:
        return bool(node.client().execute_command("CLUSTER", "REPLICATE", primary))
    except RedisError:  # it has not heard of it yet
        return False


def _is_complete(node: RedisTestServer) -> bool:
    raw = node.client().execute_command("CLUSTER", "INFO")
    text = raw.decode() if isinstance(raw, bytes) else str(raw)
    return "ok" in text.split("cluster_state", 1)[1][:12] and "cluster_known_nodes" in text
