"""Everything at once: writers and workers killed with -9, PostgreSQL crashing, on one buffer; the
seed is printed.

After the deterministic crash points, this looks for what nobody thought of. Bounded in rounds.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.postgres import PostgresServer
from support.savers import listed
from support.torture import FEW_SEEDS
from surgetank import Surgetank

TESTS = str(Path(__file__).parents[1])
STEPS = 250
WRITER = f"""
import sys
from surgetank import Surgetank
from support.savers import put
home, url, name = sys.argv[1:]
with Surgetank(home, database_url=url, flush_in_process=False) as tank:
    saver, parent, text = tank.checkpointer(), None, ""
    for step in range({STEPS}):
        text += f"{{name}} says {{step}}. " * 10
        parent = put(saver, name, {{"text": text, "step": step}}, parent=parent, step=step)
        saver.put_writes(parent, [("w", step)], "task")
        print(step, flush=True)
    sys.stdin.read()  # until it is killed
"""


def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    # Unbuffered: what was read ahead after the first line would be missing from the count.
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        bufsize=0, cwd=TESTS, env={**os.environ, "PYTHONPATH": TESTS, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("seed", FEW_SEEDS)
def test_nothing_accepted_is_lost_when_everything_is_killed_at_random(
    tmp_path: Path, private_postgres: PostgresServer, seed: int
) -> None:
    chance = random.Random(seed)
    home, url = str(tmp_path / "home"), private_postgres.url
    with Surgetank(home, database_url=url, flush_in_process=False) as tank:
        tank.parts.database.prepare()
    settings = {
        "SURGETANK_HOME": home, "SURGETANK_DATABASE_URL": url, "SURGETANK_FLUSH_AGE": "0", "SURGETANK_LEASE_TTL": "0.5",
        "SURGETANK_FLUSH_TICK": "0.01", "SURGETANK_BREAKER_MAX": "0.2", "SURGETANK_RETRY_MAX": "0.2",
        "SURGETANK_FLUSH_BATCH_ENTRIES": str(chance.choice((1, 7, 2000))),
    }  # fmt: skip
    accepted: dict[str, int] = {}
    kills = 0
    workers = [start("-m", "surgetank", "worker", **settings) for _ in range(2)]
    try:
        for round_ in range(4):
            names = [f"thread-{round_}-{n}" for n in range(2)]
            writers = {name: start("-c", WRITER, home, url, name) for name in names}
            for writer in writers.values():
                assert writer.stdout is not None
                writer.stdout.readline()  # it writes
            time.sleep(chance.uniform(0.0, 0.2))
            if chance.random() < 0.5:
                private_postgres.kill()
                kills += 1
            kills += 1 + len(writers)
            victim = chance.randrange(2)
            workers[victim].kill()
            time.sleep(chance.uniform(0.0, 0.05))
            for name, writer in writers.items():
                writer.send_signal(signal.SIGKILL)
                output, _ = writer.communicate()
                accepted[name] = len(output.split()) + 1
            if private_postgres.pid is None:
                private_postgres.start()
            workers[victim].communicate()
            workers[victim] = start("-m", "surgetank", "worker", **settings)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    with Surgetank(home, database_url=url, flush_in_process=False, lease_ttl=0.5) as tank:
        for temperature in ("as it was left", "cold"):
            for name, count in accepted.items():
                found = listed(tank.checkpointer(), name)[::-1]
                # The last put may have been accepted without having been reported.
                assert len(found) in (count, count + 1), (seed, temperature, name)
                for step, checkpoint in enumerate(found):
                    assert checkpoint.metadata["step"] == step
                    assert checkpoint.checkpoint["channel_values"]["text"].count(name) == 10 * (
                        step + 1
                    )
                    if step < count - 1:
                        assert [w[2] for w in checkpoint.pending_writes or ()] == [step], (
                            seed,
                            temperature,
                            name,
                        )
                parents = [c.parent_config for c in found]
                assert parents == [None, *(c.config for c in found[:-1])]
            job = tank.flush()
            assert job.ok, (seed, job.result)
        assert tank.parked() == []
        tank.parts.buffer.check()
    puts = sum(accepted.values())
    amid = sum(count < STEPS for count in accepted.values())
    print(
        f"seed {seed}: {kills} kills ({amid} of {len(accepted)} writers amid writing), "
        f"{puts} checkpoints accepted, 0 lost"
    )
