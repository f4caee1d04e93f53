"""Everything at once: writers, flushing workers, servers, workers of runs, PostgreSQL and Redis are killed, frozen, cut
off and held back at random, while checkpoints, logs, runs and answers go in; the seed is printed.

After the deterministic crash points, this finds what nobody thought of. With a file as buffer all processes are on one
host; with Redis each is on a host of its own: its own home, its own way to Redis and to PostgreSQL.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.plant import Plant, running
from support.postgres import PostgresServer
from support.redis_server import RedisTestServer, running_redis
from support.run_clients import PATIENCE_S, PROJECT, Client, check, is_at_rest
from support.savers import listed
from support.tcp_proxy import TcpProxy
from support.torture import FEW_SEEDS, TORTURED
from support.waiting import wait_until
from surgetank import Surgetank

TESTS = str(Path(__file__).parents[1])
SECONDS = 150.0  # of `make torture`; else each fault comes once
STEPS = 40
WRITER = f"""
import itertools, json, os, sys, threading, time
sys.path.insert(0, {TESTS!r})
from surgetank import Surgetank
from surgetank.exceptions import SurgetankError
from support.workload import config, put

told = os.open(f"{{sys.argv[1]}}/{{os.getpid()}}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def tell(*what):
    os.write(told, json.dumps(what).encode() + b"\\n")

def until_accepted(do):
    while True:
        try:
            return do()
        except SurgetankError:
            time.sleep(0.05)

def write(tank, number):
    saver = tank.checkpointer()
    for life in itertools.count():
        name, items = f"w{{os.getpid()}}-{{number}}-{{life}}", []
        for step in range(1, {STEPS} + 1):
            items.append(f"{{name}} says {{step}}. " * 10)
            until_accepted(lambda: put(saver, name, step, step - 1 or None, items))
            until_accepted(lambda: saver.put_writes(config(name, step), [("n", step)], f"task-{{step}}"))
            tell(name, "put", step)
            try:
                tank.emit_log(str(step), thread_id=name)
                tell(name, "log", step)
            except SurgetankError:
                pass  # nobody knows; it is not sent again
            time.sleep(0.02)

with Surgetank(flush_in_process=False) as tank:
    threads = [threading.Thread(target=write, args=(tank, number)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
"""


@dataclass
class House:
    """What can be hurt."""

    folder: Path
    chance: random.Random
    postgres: PostgresServer
    redis: RedisTestServer | None
    plant: Plant | None = None
    ways: dict[tuple[str, str], TcpProxy] = field(default_factory=dict)  # of whom, to what
    done: list[str] = field(default_factory=list)

    def own(self, name: str) -> Mapping[str, str]:
        """What a process has for itself."""
        if self.redis is None:
            return {}
        for what in ("redis", "postgres"):
            if (name, what) not in self.ways:
                self.ways[name, what] = TcpProxy(
                    ("127.0.0.1", self.redis.port) if what == "redis" else self.postgres.socket
                )
        return {
            "SURGETANK_HOME": str(self.folder / "homes" / name), "SURGETANK_BUFFER_URL": self.buffer_url(name),
            "SURGETANK_DATABASE_URL":
                f"postgresql://postgres@127.0.0.1:{self.ways[name, 'postgres'].port}/postgres",
        }  # fmt: skip

    def buffer_url(self, name: str | None = None) -> str:
        """The buffer in Redis, by somebody's way or straight."""
        assert self.redis is not None
        port = self.ways[name, "redis"].port if name else self.redis.port
        return f"redis://127.0.0.1:{port}/0?prefix=chaos&shards=4"

    def faults(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """All that can happen, as what lasts for a while."""
        found: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "kill postgres": self.without_postgres
        }
        assert self.plant is not None
        for name in self.plant.processes:
            found[f"kill {name}"] = lambda name=name: self.without(name)  # type: ignore[misc]
        if self.redis is not None:
            found["kill redis"] = self.without_redis
            one, other = self.chance.sample([*self.plant.processes], 2)
            found[f"freeze {one}"] = lambda: self.frozen(one)
            found[f"cut {one} from redis"] = lambda: self.cut_off(one, "redis", hold=False)
            found[f"hold {other} from redis"] = lambda: self.cut_off(other, "redis", hold=True)
            found[f"cut {other} from postgres"] = lambda: self.cut_off(
                other, "postgres", hold=False
            )
            found[f"hold {one} from postgres"] = lambda: self.cut_off(one, "postgres", hold=True)
        return found

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        self.postgres.kill()
        yield
        self.postgres.start()

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        assert self.redis is not None
        self.redis.kill()
        yield
        self.redis.start()

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        assert self.plant is not None
        self.plant.kill(name)
        yield
        self.plant.start(name)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        assert self.plant is not None
        process = self.plant.processes[name]
        process.send_signal(signal.SIGSTOP)
        yield
        process.send_signal(signal.SIGCONT)

    @contextmanager
    def cut_off(self, name: str, what: str, *, hold: bool) -> Iterator[None]:
        way = self.ways[name, what]
        (way.hold if hold else way.cut)()
        yield
        way.mend()

    def supervise(self) -> None:
        """Who ended by himself, having found nobody at his start, is started again."""
        assert self.plant is not None
        for name, process in self.plant.processes.items():
            if process.poll() is not None:
                self.plant.killed_at.setdefault(process.pid, time.time())
                self.plant.start(name)

    def rage(self) -> None:
        """Everything that can happen, once; in `make torture` for as long as it may, and two at a time."""
        assert self.plant is not None
        limit = time.monotonic() + (SECONDS if TORTURED else 0.0)
        while not self.done or time.monotonic() < limit:
            faults = [*self.faults().items()]
            self.chance.shuffle(faults)
            while faults:
                with ExitStack() as stack:
                    for _ in range(self.chance.choice((1, 1, 2))):
                        if faults:
                            name, fault = faults.pop()
                            self.done.append(name)
                            stack.enter_context(fault())
                    time.sleep(self.chance.uniform(0.05, 7.0 if TORTURED else 0.7))
                self.supervise()
                wait_until(self.plant.answers, "the servers again", PATIENCE_S)
                wait_until(self.writes, "the writer again", PATIENCE_S)

    def writes(self) -> bool:
        """Whether the writer that lives has accepted something."""
        assert self.plant is not None
        self.supervise()
        told = self.folder / "accepted" / str(self.plant.processes["writer"].pid)
        return told.exists() and told.stat().st_size > 0


@pytest.mark.parametrize("seed", FEW_SEEDS)
@pytest.mark.parametrize("kind", ["file", "redis"])
@pytest.mark.timeout(1200)
def test_nothing_accepted_is_lost_when_everything_is_hurt_at_random(
    tmp_path: Path, private_postgres: PostgresServer, kind: str, seed: int
) -> None:
    chance = random.Random(seed)
    environment = {
        "SURGETANK_FLUSH_AGE": "0", "SURGETANK_LEASE_TTL": "1", "SURGETANK_FLUSH_TICK": "0.01",
        "SURGETANK_BREAKER_MAX": "0.2", "SURGETANK_RETRY_MAX": "0.2", "SURGETANK_RUN_LEASE": "2",
        "SURGETANK_CONNECT_TIMEOUT": "2",
        "SURGETANK_FLUSH_BATCH_ENTRIES": str(chance.choice((1, 7, 2000))),
    }  # fmt: skip
    with ExitStack() as stack:
        redis = None
        if kind == "redis":
            redis = stack.enter_context(running_redis(appendonly="yes", appendfsync="always"))
            environment["SURGETANK_DURABILITY"] = "power"
        house = House(tmp_path, chance, private_postgres, redis)
        settings: dict[str, Any] = {
            "home": tmp_path / "home", "database_url": private_postgres.url, "flush_in_process": False,
            "lease_ttl": 1.0,
        }  # fmt: skip
        if redis is not None:
            settings["buffer_url"] = house.buffer_url()
        with Surgetank(**settings) as tank:
            tank.parts.database.prepare()
            assert tank.flush().ok  # it knows its database, by whatever way
        (tmp_path / "accepted").mkdir()
        programs = {
            "writer": ("-c", WRITER, str(tmp_path / "accepted")),
            "flusher": ("-m", "surgetank", "worker"),
        }
        # A file with servers is in `make torture`; else see test_serving_killed.py.
        served = 1 if TORTURED or redis is not None else 0
        over = threading.Event()
        with running(
            tmp_path, private_postgres.url, PROJECT, environment=environment, own=house.own, programs=programs,
            servers=served, workers=served,
        ) as plant, ThreadPoolExecutor(3) as pool:  # fmt: skip
            house.plant = plant
            clients = [
                Client(plant.url, random.Random(chance.random()), over) for _ in range(3 * served)
            ]
            working = [pool.submit(client.work) for client in clients]
            try:
                house.rage()
            finally:
                over.set()
            for each in working:
                each.result(PATIENCE_S * 3)
            for client in clients:
                client.http.close()
            wait_until(lambda: is_at_rest(private_postgres.url), "every run to end or to wait", 120)
        with Surgetank(**settings) as tank:
            written = compare(tank, tmp_path / "accepted", seed)
            runs = check(tank, plant, clients, private_postgres.url, alone=False)
        for way in house.ways.values():
            way.close()
    print(
        f"seed {seed}, {kind}: {len(house.done)} faults ({', '.join(house.done)}); {written}; {runs}"
    )


def compare(tank: Surgetank, accepted: Path, seed: int) -> str:
    """What writers were told, with what is there: as it was left, and when all is in PostgreSQL."""
    steps: dict[str, int] = {}
    lines: dict[str, list[str]] = {}
    for path in accepted.iterdir():
        for text in path.read_text().splitlines():
            name, what, step = json.loads(text)
            if what == "put":
                steps[name] = step
            else:
                lines.setdefault(name, []).append(str(step))
    for temperature in ("as it was left", "cold"):
        where = (seed, temperature)
        for name, count in steps.items():
            found = listed(tank.checkpointer(), name)[::-1]
            # The last one may have been accepted without having been reported.
            assert len(found) in (count, count + 1), (where, name)
            for step, checkpoint in enumerate(found, 1):
                assert checkpoint.metadata["step"] == step
                items = [f"{name} says {n}. " * 10 for n in range(1, step + 1)]
                assert checkpoint.checkpoint["channel_values"]["items"] == items, (where, name)
                if step <= count:
                    assert [w[2] for w in checkpoint.pending_writes or ()] == [step], (where, name)
            assert [c.parent_config for c in found] == [None, *(c.config for c in found[:-1])]
        for name, told in lines.items():
            there = [line.message for line in tank.logs(name, limit=1000)]
            assert there == sorted(set(there), key=int), (where, name, "doubled or reordered")
            assert not set(told) - set(there), (where, name, "lost")
        job = tank.flush()
        assert job.ok, (where, job.result)
    assert tank.parked() == []
    tank.parts.buffer.check()
    kinds = {error.error_type for error in tank.errors.find().errors}
    assert not kinds & {"buffer_damaged", "database_went_back", "buffer_went_back"}, kinds
    return f"{sum(steps.values())} checkpoints and {sum(map(len, lines.values()))} lines accepted, 0 lost"
