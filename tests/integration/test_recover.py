"""`surgetank recover`: what a lost buffer had spilled comes back once; what lives or is damaged is
not touched."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support import workload
from support.commands import run_command
from support.savers import config, listed, put, put_chain
from support.spilling import ALL, spill
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import ConfigurationError, DatabaseUnavailable, FallbackUnavailable
from surgetank.spilling.recovery import FileState


@pytest.fixture
def fallback(tmp_path: Path) -> Path:
    return tmp_path / "fallback"


def lose(tank: Surgetank, home: Path) -> str:
    """Lose an engine's buffer; returns its id."""
    lost = tank.parts.buffer.id
    tank.close()
    shutil.rmtree(home)
    return lost


def states(reports: Any) -> list[str]:
    return [report.state.value for report in reports]


def recover(tank: Surgetank, *lost: str) -> Any:
    recovery = tank.recovery(lost=lost)
    reports = recovery.take_over(recovery.reports())
    job = tank.flush()
    assert job.ok, job.result
    tank.parts.spills.clean()
    return reports


def test_a_lost_buffer_s_entries_come_back_as_if_nothing_had_happened(
    make_tank, tmp_path, fallback, undisturbed
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    for _ in workload.steps(old.checkpointer()):
        pass
    assert spill(old, file_bytes=40_000) == 3
    lost = lose(old, tmp_path / "old")
    tank = make_tank(fallback_url=str(fallback), flush_batch_entries=7)

    reports = recover(tank, lost)

    assert set(states(reports)) == {"recovered"}
    assert workload.picture(tank) == undisturbed
    assert list(fallback.rglob("*.spill")) == []
    assert tank.status().healthy


def test_what_is_recovered_is_read_hot_before_it_is_flushed(make_tank, tmp_path, fallback):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    put_chain(old.checkpointer(), "t", 5)
    before = listed(old.checkpointer(), "t")
    spill(old)
    lost = lose(old, tmp_path / "old")
    tank = make_tank(fallback_url=str(fallback))
    recovery = tank.recovery(lost=[lost])
    recovery.take_over(recovery.reports())
    assert listed(tank.checkpointer(), "t") == before
    assert tank.status().fallback.entries == 5


def test_each_entry_is_recovered_once_however_often_and_wherever_it_was_interrupted(
    make_tank, tmp_path, fallback, undisturbed
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    for _ in workload.steps(old.checkpointer()):
        pass
    spill(old, file_bytes=100_000)
    copies = tmp_path / "copies"
    shutil.copytree(fallback, copies)
    lost = lose(old, tmp_path / "old")
    tank = make_tank(fallback_url=str(fallback))
    taken = tank.parts.buffer.take_over
    calls = []

    def interrupted(*arguments: Any) -> Any:
        done = taken(*arguments)
        calls.append(done.entries)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return done

    tank.parts.buffer.take_over = interrupted
    recovery = tank.recovery(lost=[lost])
    with pytest.raises(KeyboardInterrupt):
        recovery.take_over(recovery.reports())
    racing = [make_tank(fallback_url=str(fallback)).recovery(lost=[lost]) for _ in range(2)]
    threads = [threading.Thread(target=lambda r=r: r.take_over(r.reports())) for r in racing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recover(tank, lost)
    # a backup of the location is brought back
    shutil.copytree(copies, fallback, dirs_exist_ok=True)

    again = recover(tank, lost)

    assert sum(report.recovered.entries for report in again) == 0
    assert workload.picture(tank) == undisturbed
    assert list(fallback.rglob("*.spill")) == []


def test_what_the_lost_buffer_had_flushed_already_is_not_doubled(
    make_tank, tmp_path, fallback, undisturbed
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback), flush_batch_entries=20)
    for _ in workload.steps(old.checkpointer()):
        pass
    old.emit_log("a line that is long enough to be moved out of the buffer " * 3, thread_id="alpha")
    spill(old)
    watch = old.parts.spills
    assert watch._spiller.spill("thread_logs", ALL) is not None
    assert old.flush().ok  # and dies before it can delete the files
    lost = lose(old, tmp_path / "old")
    tank = make_tank(fallback_url=str(fallback))

    recover(tank, lost)

    assert workload.picture(tank) == undisturbed
    assert len(tank.logs("alpha").lines) == 1


def test_a_thread_that_was_deleted_meanwhile_stays_deleted(make_tank, tmp_path, fallback):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    for thread in ("deleted", "pending", "kept"):
        put_chain(old.checkpointer(), thread, 3)
    spill(old)
    lost = lose(old, tmp_path / "old")
    tank = make_tank(fallback_url=str(fallback))
    saver = tank.checkpointer()
    saver.delete_thread("deleted")
    assert tank.flush().ok
    saver.delete_thread("pending")

    reports = recover(tank, lost)

    assert sum(r.recovered.deleted for r in reports) == 6
    assert [len(listed(saver, t)) for t in ("deleted", "pending", "kept")] == [0, 0, 3]


def test_copies_stand_in_for_a_location_that_is_gone_but_not_for_one_that_is_there(
    make_tank, tmp_path, fallback
):
    tank = make_tank(fallback_url=str(fallback))
    put_chain(tank.checkpointer(), "t", 5)
    spill(tank)
    copies = tmp_path / "copies"
    shutil.copytree(fallback, copies)
    assert states(tank.recovery(str(copies)).reports()) == ["referred"]
    shutil.rmtree(fallback)
    tank = make_tank(fallback_url=str(fallback))

    recovery = tank.recovery(str(copies))
    reports = recovery.reports()
    assert states(reports) == ["copy"]
    assert states(recovery.take_over(reports)) == ["recovered"]

    assert len(listed(tank.checkpointer(), "t")) == 5
    assert tank.flush().ok
    tank.parts.spills.clean()
    assert list(copies.rglob("*.spill")) == []


def test_files_of_a_buffer_that_may_live_are_left_alone(make_tank, tmp_path, fallback):
    other = make_tank(home=tmp_path / "other", fallback_url=str(fallback))
    put_chain(other.checkpointer(), "t", 3)
    spill(other)
    tank = make_tank(fallback_url=str(fallback))

    assert states(recover(tank)) == ["foreign"]

    assert listed(tank.checkpointer(), "t") == []
    assert len(listed(other.checkpointer(), "t")) == 3
    assert other.flush().ok


def test_a_damaged_file_is_named_and_left_and_the_others_are_recovered(
    make_tank, tmp_path, fallback
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    for thread in ("a", "b", "c"):
        put_chain(old.checkpointer(), thread, 3)
        spill(old)
    lost = lose(old, tmp_path / "old")
    damaged = sorted(fallback.rglob("*.spill"))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    tank = make_tank(fallback_url=str(fallback))

    reports = recover(tank, "all", lost)

    assert states(reports) == ["recovered", "damaged", "recovered"]
    assert damaged.name in reports[1].problem
    assert [len(listed(tank.checkpointer(), t)) for t in ("a", "b", "c")] == [3, 0, 3]
    assert damaged.read_bytes() == bytes(data)
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert states(recover(tank, lost)) == ["recovered"]
    assert [len(listed(tank.checkpointer(), t)) for t in ("a", "b", "c")] == [3, 3, 3]


def test_recovering_from_a_lost_buffer_waits_for_the_database_that_knows_what_was_deleted(
    make_tank, tmp_path, fallback, private_postgres
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    put_chain(old.checkpointer(), "t", 3)
    spill(old)
    lost = lose(old, tmp_path / "old")
    tank = make_tank(
        fallback_url=str(fallback), database_url=private_postgres.url, connect_timeout=1.0
    )
    private_postgres.kill()
    recovery = tank.recovery(lost=[lost])
    reports = recovery.reports()
    with pytest.raises(DatabaseUnavailable):
        recovery.take_over(reports)
    assert tank.status().buffer.entries == 0
    assert states(recovery.reports()) == ["unknown"]


def test_an_application_goes_on_in_an_outage_beyond_the_limit_of_its_buffer(
    make_tank, private_postgres, fallback
):
    tank = make_tank(
        database_url=private_postgres.url, fallback_url=str(fallback), flush_in_process=True, connect_timeout=1.0,
        buffer_max_bytes=1_500_000, buffer_block_timeout=30.0,
    )  # fmt: skip
    saver = tank.checkpointer()
    private_postgres.kill()
    for number in range(40):
        put(saver, f"t{number}", {"data": os.urandom(150_000)})
    states = [saver.get_tuple(config(f"t{number}")) for number in range(40)]
    assert tank.status().buffer.bytes < 1_500_000
    assert tank.status().fallback.entries >= 30

    private_postgres.start()

    wait_until(lambda: not tank.status().buffer.entries, "everything to be flushed", timeout_s=60)
    assert [saver.get_tuple(config(f"t{number}")) for number in range(40)] == states
    wait_until(lambda: not list(fallback.rglob("*.spill")), "the files to be deleted")
    wait_until(
        lambda: not any(i.key.startswith("fallback:") for i in tank.events.incidents()),
        "the all-clear",
    )


def test_errors_are_seen_in_an_outage_although_the_fallback_location_is_away_too(
    make_tank, fallback, private_postgres
):
    settings = {
        "database_url": private_postgres.url,
        "fallback_url": str(fallback),
        "connect_timeout": 1.0,
    }
    tank = make_tank(**settings, fallback_after=0.1)
    put_chain(tank.checkpointer(), "t", 3)
    tank.log_system_error("mine", "a message that is long enough to be moved " * 5)
    private_postgres.kill()
    while not tank.parts.buffer.spilled_entries():
        tank.flush()
        tank.parts.housekeep()
    fallback.rename(fallback.with_name("away"))
    tank = make_tank(**settings)
    assert {"mine", "fallback_spilled"} <= {error.error_type for error in tank.errors.find().errors}
    status = tank.status(ping=True)
    assert status.fallback.reachable is False
    assert any("can't be read now" in notice.message for notice in status.notices)
    with pytest.raises(FallbackUnavailable, match="fallback"):
        tank.checkpointer().get_tuple(config("t"))


def test_a_wrong_location_is_told_before_it_is_needed(make_tank, fallback):
    fallback.write_text("a file, not a folder")
    tank = make_tank(fallback_url=str(fallback))
    tank.parts.housekeep()
    assert [error.error_type for error in tank.errors.find().errors] == ["fallback_problem"]
    assert tank.status(ping=True).fallback.reachable is None


def test_without_a_location_there_is_nothing_to_recover_from(tank):
    with pytest.raises(ConfigurationError, match="location"):
        tank.recovery()


# -- the outage as people see it


def test_an_outage_spills_is_told_once_and_ends_by_itself(make_tank, private_postgres, fallback):
    url = private_postgres.url
    tank = make_tank(
        database_url=url, fallback_url=str(fallback), fallback_after=0.5, connect_timeout=1.0
    )
    saver = tank.checkpointer()
    parent = put(saver, "t", {"text": "before " * 200})
    assert tank.flush().ok
    private_postgres.kill()
    for step in range(5):
        parent = put(saver, "t", {"text": f"during {step} " * 200}, parent=parent, step=step)
    while not tank.parts.buffer.spilled_entries():
        tank.flush()
        tank.parts.housekeep()
    hot = saver.get_tuple(config("t"))
    tank.parts.housekeep()

    status = tank.status(ping=True)
    assert status.fallback.entries >= 5  # lines of the thread's log are among them
    assert status.fallback.reachable is True
    assert any(
        "fallback location" in n.message and n.severity == "critical" for n in status.notices
    )
    told = [e for e in tank.errors.find().errors if e.error_type == "fallback_spilled"]
    assert [(e.severity.value, e.occurrences) for e in told] == [("critical", 1)]

    private_postgres.start()
    tank.parts.buffer.retry_now()
    while tank.status().buffer.entries:
        tank.flush()
    tank.parts.housekeep()
    assert not any(i.key.startswith("fallback:") for i in tank.events.incidents())
    assert tank.status(ping=True).fallback.files == 0
    assert list(fallback.rglob("*.spill")) == []
    assert saver.get_tuple(config("t")) == hot
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM surgetank.checkpoints").fetchone() == (6,)


# -- the command


def cli(tmp_path: Path, database_url: str, fallback: Path, *arguments: str) -> Any:
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path / "home"), "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_FALLBACK_URL": str(fallback),
    }  # fmt: skip
    return run_command(arguments, environment)


def test_the_command_looks_recovers_and_says_what_it_left(
    make_tank, tmp_path, fallback, database_url
):
    old = make_tank(home=tmp_path / "old", fallback_url=str(fallback))
    put_chain(old.checkpointer(), "t", 4)
    spill(old)
    lost = lose(old, tmp_path / "old")

    foreign = cli(tmp_path, database_url, fallback, "recover", "--dry-run")
    assert (foreign.returncode, lost in foreign.stdout) == (3, True)

    dry = cli(tmp_path, database_url, fallback, "recover", "--dry-run", "--json", "--lost", lost)
    assert dry.returncode == 0, dry.stderr
    (file,) = json.loads(dry.stdout)["files"]
    assert (file["state"], file["entries"]) == (FileState.UNKNOWN.value, 4)
    assert "1/1" in dry.stderr
    assert len(list(fallback.rglob("*.spill"))) == 1

    real = cli(tmp_path, database_url, fallback, "recover", "--json", "--lost", lost)
    assert real.returncode == 0, real.stderr
    answer = json.loads(real.stdout)
    assert (answer["recovered"]["entries"], answer["job"]["status"]) == (4, "completed")
    assert list(fallback.rglob("*.spill")) == []
    tank = make_tank(fallback_url=str(fallback))
    assert len(listed(tank.checkpointer(), "t")) == 4
    assert tank.status().buffer.entries == 0

    again = cli(tmp_path, database_url, fallback, "recover")
    assert (again.returncode, again.stdout.strip().splitlines()[-1]) == (0, "0 files")


def test_the_command_flushes_what_this_buffer_spilled_and_names_what_is_damaged(
    make_tank, tmp_path, fallback, database_url
):
    tank = make_tank(fallback_url=str(fallback))
    put_chain(tank.checkpointer(), "t", 4)
    spill(tank)
    status = cli(tmp_path, database_url, fallback, "status")
    assert (status.returncode, "4 entries in 1 files" in status.stdout) == (1, True)
    (fallback / "broken.spill").write_bytes(b"no spill file at all")

    done = cli(tmp_path, database_url, fallback, "recover")

    assert done.returncode == 3
    assert "broken.spill is damaged" in done.stdout
    assert tank.status().buffer.entries == 0
    assert list(fallback.rglob("*.spill")) == [fallback / "broken.spill"]


def test_a_location_that_is_not_there_is_said(tmp_path, database_url, fallback):
    done = cli(tmp_path, database_url, fallback, "recover", "--from", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "way out" in done.stderr
