"""Server and worker of runs killed with -9 at random, while clients start, follow, answer, cancel and roll
back runs over HTTP: what was acknowledged is there, once. The seed is printed.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.plant import running
from support.postgres import PostgresServer
from support.run_clients import PATIENCE_S, PROJECT, Client, check, is_at_rest
from support.torture import FEW_SEEDS, SEEDS
from support.waiting import wait_until
from surgetank import Surgetank

KILLS = 10 if len(SEEDS) > 2 else 4  # 200 in `make torture`
_CLIENTS = 6


@pytest.mark.parametrize("seed", FEW_SEEDS)
@pytest.mark.timeout(600)
def test_what_was_acknowledged_is_there_once_whoever_is_killed(
    tmp_path: Path, private_postgres: PostgresServer, seed: int
) -> None:
    chance = random.Random(seed)
    over = threading.Event()
    lease = {"SURGETANK_RUN_LEASE": "2"}
    with (
        running(tmp_path, private_postgres.url, PROJECT, environment=lease) as plant,
        ThreadPoolExecutor(_CLIENTS) as pool,
    ):
        clients = [Client(plant.url, random.Random(chance.random()), over) for _ in range(_CLIENTS)]
        working = [pool.submit(client.work) for client in clients]
        try:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.3, 1.2))
                name = chance.choice(["server", "worker"])
                plant.kill(name)
                plant.start(name)
                if name == "server":
                    wait_until(plant.answers, "the server again", 60)
        finally:
            over.set()
        for each in working:
            each.result(PATIENCE_S * 3)
        for client in clients:
            client.http.close()
        wait_until(lambda: is_at_rest(private_postgres.url), "every run to end or to wait", 120)
    with Surgetank(tmp_path / "home", database_url=private_postgres.url) as tank:
        figures = check(tank, plant, clients, private_postgres.url)
    print(f"seed {seed}: {KILLS} kills, {figures}")
