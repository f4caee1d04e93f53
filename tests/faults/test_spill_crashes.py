"""kill -9 at every step of spilling, flushing what was spilled and deleting files: the rows are as
if undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import workload
from support.commands import run_module
from support.spilling import spill


def run_program(home: Path, database_url: str, fallback: Path, point: str, occurrence: int) -> None:
    done = run_module("support.spilling", home, database_url, fallback, point, occurrence)
    assert done.returncode == -9, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("point", "occurrence"),
    [
        ("before_begin_spill", 1), ("after_begin_spill", 1), ("before_write", 1), ("after_write", 1),
        ("after_write", 2), ("before_stub", 1), ("after_stub", 1), ("before_stub", 3), ("before_keep_spill", 1),
        ("after_keep_spill", 1), ("after_keep_spill", 2), ("after_lease_to_spill", 2), ("before_ack", 1),
        ("after_ack", 1), ("after_ack", 4), ("before_delete", 1), ("after_delete", 1), ("before_delete", 2),
        ("before_forget_spill", 1), ("after_forget_spill", 1),
    ],
)  # fmt: skip
def test_whoever_spills_or_flushes_what_was_spilled_may_be_killed_anywhere(
    make_tank, tmp_path, database_url, undisturbed, point, occurrence
):
    fallback = tmp_path / "fallback"
    tank = make_tank(lease_ttl=0.2, fallback_url=str(fallback))
    for _ in workload.steps(tank.checkpointer()):
        pass
    before = workload.picture(tank)["seen"]

    run_program(tmp_path / "home", database_url, fallback, point, occurrence)

    assert workload.picture(tank)["seen"] == before
    spill(tank)
    assert workload.picture(tank)["seen"] == before
    job = tank.flush()
    assert job.ok, job.result
    assert workload.picture(tank) == undisturbed
    tank.parts.spills.clean()
    assert tank.parts.buffer.spill_files() == []
    assert list(fallback.rglob("*.spill*")) == []
    depth = tank.status().buffer
    assert (depth.entries, depth.bytes) == (0, 0)
