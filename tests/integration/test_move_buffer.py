"""`surgetank move-buffer`: what waits goes from a file to Redis and back, each entry once, wherever it is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from support import workload
from support.commands import run_module
from support.redis_server import url_for
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.app import moving
from surgetank.cli.app import app
from surgetank.exceptions import Conflict, NotFound

BOTH = pytest.mark.parametrize("way", ["to redis", "to sqlite"])


def addresses(way: str, folder: Path) -> tuple[str, str]:
    """From where, and to where."""
    there = f"sqlite:///{folder}/there.db", url_for(folder / "there")
    return there if way == "to redis" else there[::-1]


def fill(tank: Surgetank) -> None:
    """A history of which a part is flushed; lines, errors in a storm, a refused entry."""
    for number, _ in enumerate(workload.steps(tank.checkpointer())):
        if number == 20:
            assert tank.flush().ok
    for number in range(5):
        tank.emit_log(f"line {number}", thread_id="alpha")
    for _ in range(40):
        tank.log_system_error("odd", "alike", thread_id="alpha")


@pytest.fixture
def filled(make_tank: MakeTank, tmp_path: Path, way: str) -> str:
    """The address of a buffer with all that."""
    there, _ = addresses(way, tmp_path)
    tank = make_tank(buffer_url=there)
    fill(tank)
    tank.close()
    return there


def entries(tank: Surgetank) -> int:
    return tank.status().buffer.entries


@BOTH
def test_all_that_waits_is_in_the_other_buffer_and_is_flushed_as_if_it_had_never_moved(
    filled: str, make_tank: MakeTank, tmp_path: Path, way: str, undisturbed: Any
) -> None:
    seen = list[tuple[int, int]]()
    tank = make_tank(buffer_url=addresses(way, tmp_path)[1])
    jobs = 1
    moved = tank.moving(filled, progress=lambda done, of: seen.append((done, of)))
    assert (moved.known, moved.deleted, moved.jobs, moved.left) == (0, 0, jobs, ())
    assert entries(tank) == moved.entries > 40
    assert seen[-1] == (moved.entries, moved.entries)
    assert workload.picture(tank)["seen"] == undisturbed["seen"]
    assert len(tank.logs("alpha").lines) == 5
    assert tank.flush().ok
    assert workload.picture(tank) == undisturbed
    (group,) = [group for group in tank.errors.find().errors if group.error_type == "odd"]
    assert group.occurrences == 40
    again = tank.moving(filled)
    assert (again.entries, again.known, again.jobs) == (0, 0, 0)
    # what is accepted in the old one by mistake is not flushed there, and comes with the next move
    old = make_tank(buffer_url=filled)
    old.emit_log("too late", thread_id="alpha")
    assert not old.flush().ok
    old.close()
    assert tank.moving(filled).entries == 2  # and that it is not flushed there
    assert [line.message for line in tank.logs("alpha")][-1] == "too late"


@BOTH
def test_a_refused_entry_is_tried_again_and_limits_hold(
    make_tank: MakeTank, tmp_path: Path, way: str, database_url: str
) -> None:
    there, here = addresses(way, tmp_path)
    old = make_tank(buffer_url=there)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.thread_logs ADD CONSTRAINT odd CHECK (message <> 'refused')"
        )
        for message in ("good", "refused", "later"):
            old.emit_log(message, thread_id="t")
        old.flush()
        assert len(old.parked()) == 1
        connection.execute("ALTER TABLE surgetank.thread_logs DROP CONSTRAINT odd")
    old.emit_log("x" * 5000, thread_id="u")
    old.close()
    home, url = str(tmp_path / "home"), database_url
    command = [
        "move-buffer",
        "--json",
        "--from",
        there,
        "--to",
        here,
        "--home",
        home,
        "--database-url",
        url,
    ]
    said = CliRunner().invoke(app, command, env={"SURGETANK_BUFFER_MAX_BYTES": "2000"})
    assert said.exit_code == 1
    assert "at its limit" in said.stderr
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0
    tank = make_tank(buffer_url=here)
    assert tank.parked() == []
    assert tank.flush().ok
    lines = [line.message for line in tank.logs("t")]
    assert {"good", "later", "refused"} < set(lines)
    assert lines.count("refused") == 1
    assert json.loads(said.stdout)["left"] == []


@BOTH
def test_while_anybody_uses_one_of_them_nothing_is_moved(
    make_tank: MakeTank, tmp_path: Path, way: str
) -> None:
    there, here = addresses(way, tmp_path)
    tank = make_tank(buffer_url=here)
    with pytest.raises(Conflict):
        tank.moving(here)
    with pytest.raises(NotFound):
        tank.moving(f"sqlite:///{tmp_path}/nowhere.db")
    old = make_tank(buffer_url=there, node="worker-7")
    old.emit_log("waits", thread_id="t")
    old.workers.role("flush", dict).start()
    old.parts.presence.beat()
    with pytest.raises(
        Conflict, match="worker-7" if way == "to sqlite" else f"process {os.getpid()}"
    ):
        tank.moving(there)
    assert entries(old) == 1
    old.close()
    assert tank.moving(there).entries == 1


class Killed(BaseException):
    """As if the process were killed: nothing is caught, nothing is given back."""


def dies(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, when: str, occurrence: int
) -> None:
    plain, count = getattr(owner, method), 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if when == "before" and count == occurrence:
            raise Killed
        result = plain(*arguments, **named)
        if when == "after" and count == occurrence:
            raise Killed
        return result

    monkeypatch.setattr(owner, method, wrapped)


@BOTH
def test_killed_at_any_step_and_repeated_it_moves_each_entry_once(
    filled: str,
    make_tank: MakeTank,
    tmp_path: Path,
    way: str,
    undisturbed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt dies at another step; the next one goes on with what it left."""
    here = addresses(way, tmp_path)[1]
    monkeypatch.setattr(moving, "_ENTRIES", 3)
    points = [
        (moving._Move, "_check_alone", "after", 1), (moving._Move, "_bind", "after", 1),
        (moving._Move, "_take_over", "before", 1), (moving._Move, "_take_over", "after", 1),
        (moving._Move, "_remove", "after", 1), (moving._Move, "_take_over", "after", 4),
        (moving._Move, "_remove_one", "after", 1), (moving._Move, "_remove_one", "after", 5),
        (moving._Move, "_copy_jobs", "before", 1), (moving._Move, "_copy_jobs", "after", 1),
    ]  # fmt: skip
    died = 0
    for owner, method, when, occurrence in points:
        tank = make_tank(buffer_url=here)
        with monkeypatch.context() as patching:
            dies(patching, owner, method, when, occurrence)
            with pytest.raises(Killed):
                tank.moving(filled)
            died += 1
        assert workload.picture(tank)["seen"] == undisturbed["seen"] or died < len(points) - 1
        tank.close()
    tank = make_tank(buffer_url=here)
    assert tank.moving(filled).entries == 0
    assert tank.parked() == []
    assert tank.flush().ok
    assert workload.picture(tank) == undisturbed
    assert len(tank.logs("alpha").lines) == 5


@BOTH
@pytest.mark.parametrize("point", ["after surgetank.app.moving:_Move._take_over 3"])
def test_a_process_that_is_killed_while_it_moves(
    filled: str,
    make_tank: MakeTank,
    tmp_path: Path,
    way: str,
    undisturbed: Any,
    point: str,
    database_url: str,
) -> None:
    here = addresses(way, tmp_path)[1]
    command = [
        *point.split(), "move-buffer", "--from", filled, "--to", here, "--home", str(tmp_path / "home"),
        "--database-url", database_url,
    ]  # fmt: skip
    done = run_module("support.killed", *command, SURGETANK_LEASE_TTL="2")
    assert done.returncode == -9, done.stderr
    tank = make_tank(buffer_url=here)
    assert tank.moving(filled).known
    assert tank.flush().ok
    assert workload.picture(tank) == undisturbed
