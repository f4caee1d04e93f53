"""Programs that end at a moment which chance chooses, not at a point that somebody thought of: a
flusher, a writer, a spiller, a flusher into a saver, an import and an export. The seed is printed.

The points that are known are in the suites of each program; `make torture` takes more seeds.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import faults.test_saver_sink_killed as into_saver
from support import workload
from support.commands import run_module
from support.savers import listed, put_chain
from support.spilling import spill
from support.torture import FEW_SEEDS
from support.transfer import Official, cli_in_process, sqlite_official

KILLS = 3
# How long the programs take: a kill is drawn from there, now and then after the end.
FLUSH_MS, PLAY_MS, SPILL_MS, SAVER_MS, MOVE_MS = 250, 150, 500, 900, 1500

pytestmark = pytest.mark.parametrize("seed", FEW_SEEDS)


class Program:
    """Runs programs until a kill; counts how many were hit."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.hits: list[int] = []
        self._name = name
        self._chance = random.Random(f"{name} {seed}")

    def run(self, module: str, *arguments: str, most_ms: int, **environment: str) -> list[str]:
        """The lines that it wrote. MOMENT among the arguments is when it is killed."""
        milliseconds = self._chance.randint(1, most_ms)
        done = run_module(
            module, *(milliseconds if a == "MOMENT" else a for a in arguments), **environment
        )
        assert done.returncode in (-signal.SIGALRM, 0), (self.seed, milliseconds, done.stderr)
        if done.returncode:
            self.hits.append(milliseconds)
        return [line for line in done.stdout.splitlines() if line != "survived"]

    def report(self) -> None:
        """The figures, for who runs with `-s`."""
        print(f"{self._name}, seed {self.seed}: killed after {self.hits} ms, 0 lost")


def test_a_flusher_leaves_what_an_undisturbed_one_leaves(
    make_tank, tmp_path, database_url, undisturbed, seed
):
    tank = make_tank(lease_ttl=0.2)
    for _ in workload.steps(tank.checkpointer()):
        pass
    before = workload.picture(tank)["seen"]
    program = Program("flusher", seed)
    for _ in range(KILLS):
        program.run(
            "support.workload", "flush", str(tmp_path / "home"), database_url, "moment", "MOMENT",
            most_ms=FLUSH_MS,
        )  # fmt: skip
        assert workload.picture(tank)["seen"] == before, (seed, program.hits)
    job = tank.flush()
    assert job.ok, (seed, program.hits, job.result)
    assert workload.picture(tank) == undisturbed, (seed, program.hits)
    assert tank.status().buffer.entries == 0
    tank.parts.buffer.check()
    program.report()


def test_a_writer_loses_nothing_that_was_accepted(
    make_tank, tmp_path, database_url, undisturbed, seed
):
    program = Program("writer", seed)
    accepted = program.run(
        "support.workload", "play", str(tmp_path / "home"), database_url, "moment", "MOMENT",
        most_ms=PLAY_MS,
    )  # fmt: skip
    tank = make_tank(flush_batch_entries=5)
    if program.hits:
        # The last step may have been accepted without having been reported.
        assert tank.status().buffer.entries - len(accepted) in (0, 1), (seed, program.hits)
    names = list(workload.steps(make_tank(home=tmp_path / "all of it").checkpointer()))
    assert names[: len(accepted)] == accepted
    entries = tank.status().buffer.entries
    if entries <= names.index("prune beta"):  # after it its parents are gone
        list(workload.steps(tank.checkpointer()))  # the same history over what is there
        entries = len(names)
    assert tank.flush().ok
    if entries == len(names):
        assert workload.picture(tank)["seen"] == undisturbed["seen"], (seed, program.hits)
    tank.parts.buffer.check()
    program.report()


def test_a_spiller_leaves_neither_a_gap_nor_a_file(
    make_tank, tmp_path, database_url, undisturbed, seed
):
    fallback = tmp_path / "fallback"
    tank = make_tank(lease_ttl=0.2, fallback_url=str(fallback))
    for _ in workload.steps(tank.checkpointer()):
        pass
    before = workload.picture(tank)["seen"]
    program = Program("spiller", seed)
    for _ in range(KILLS):
        program.run(
            "support.spilling", str(tmp_path / "home"), database_url, str(fallback), "moment", "MOMENT",
            most_ms=SPILL_MS,
        )  # fmt: skip
        assert workload.picture(tank)["seen"] == before, (seed, program.hits)
    spill(tank)
    assert workload.picture(tank)["seen"] == before, (seed, program.hits)
    job = tank.flush()
    assert job.ok, (seed, program.hits, job.result)
    assert workload.picture(tank) == undisturbed, (seed, program.hits)
    tank.parts.spills.clean()
    assert tank.parts.buffer.spill_files() == [], (seed, program.hits)
    assert list(fallback.rglob("*.spill*")) == [], (seed, program.hits)
    tank.parts.buffer.check()
    program.report()


@pytest.fixture
def official(tmp_path: Path) -> Iterator[Official]:
    with sqlite_official(tmp_path / "c.sqlite") as found:
        yield found


def test_a_flusher_into_a_saver_leaves_no_trace(make_tank, official, tmp_path, database_url, seed):
    tank = make_tank()
    saver = tank.checkpointer()
    for c in put_chain(saver, "t", 6):
        saver.put_writes(c, [("items", 1), ("__interrupt__", "?")], "task", "~0")
    expected = [t.checkpoint for t in listed(saver, "t")]
    home = str(tmp_path / "home")
    program = Program("flusher into a saver", seed)
    target = (home, database_url, "sqlite", official.address)
    for _ in range(KILLS):
        program.run(into_saver.__name__, "moment", "-", "MOMENT", *target, most_ms=SAVER_MS)
    into_saver.flush(*target)
    assert tank.status().buffer.entries == 0
    assert [t.checkpoint for t in listed(official.saver, "t")] == expected, (seed, program.hits)
    assert all(len(t.pending_writes or ()) == 2 for t in listed(official.saver, "t"))
    assert {table: len(rows) for table, rows in official.rows().items()} == {
        "checkpoints": 6, "writes": 12,
    }  # fmt: skip
    program.report()


def move(program: Program, home: Path, url: str, *arguments: str) -> dict[str, Any]:
    """Run a transfer until a kill, then again until its end; what it said. One that had ended is
    not begun again."""
    lines = program.run(
        "support.killed", "moment", "-", "MOMENT", *arguments, "--json", most_ms=MOVE_MS,
        SURGETANK_HOME=str(home), SURGETANK_DATABASE_URL=url, SURGETANK_LEASE_TTL="0.2",
    )  # fmt: skip
    if not program.hits:
        return dict(json.loads("".join(lines)))
    again = cli_in_process(*arguments, "--json", home=home, url=url)
    if again.returncode and "already has threads" in again.stdout:
        return {"skipped": []}  # what it has is compared
    return again.report()


def test_an_import_doubles_nothing_and_misses_nothing(
    make_tank, official, tmp_path, database_url, seed
):
    for thread in ("a", "b"):
        for c in put_chain(official.saver, thread, 8):
            official.saver.put_writes(c, [("items", 1), ("step", [2])], "task")
    expected = official.rows()
    program = Program("import", seed)
    said = move(program, tmp_path / "home", database_url, "import", "--from", official.address)
    assert said["skipped"] == []
    tank = make_tank()
    assert tank.status().buffer.entries == 0
    for thread in ("a", "b"):
        found, there = listed(tank.checkpointer(), thread), listed(official.saver, thread)
        assert [t.checkpoint for t in found] == [t.checkpoint for t in there], (seed, program.hits)
        assert [t.pending_writes for t in found] == [t.pending_writes for t in there]
    assert official.rows() == expected, "what is imported from is only read"
    program.report()


def test_an_export_doubles_nothing_and_misses_nothing(
    make_tank, official, tmp_path, database_url, seed
):
    tank = make_tank()
    for thread in ("a", "b"):
        for c in put_chain(tank.checkpointer(), thread, 8):
            tank.checkpointer().put_writes(c, [("items", 1), ("step", [2])], "task")
    assert tank.flush().ok
    program = Program("export", seed)
    move(program, tmp_path / "home", database_url, "export", "--to", official.address)
    for thread in ("a", "b"):
        found, ours = listed(official.saver, thread), listed(tank.checkpointer(), thread)
        assert [t.checkpoint for t in found] == [t.checkpoint for t in ours], (seed, program.hits)
        assert [t.pending_writes for t in found] == [t.pending_writes for t in ours]
    program.report()
