"""The storage report and its commands: figures that add up, estimates that say so, and no database
no panic."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.commands import run_command
from support.savers import config, ids, listed, put, put_chain
from surgetank import Surgetank
from surgetank.exceptions import ConfigurationError, InvalidRequest
from surgetank.streams.checkpoints.retention import storage as reports
from surgetank.streams.checkpoints.retention.plan import Limits


def filled(tank: Surgetank) -> None:
    saver = tank.checkpointer()
    for thread, count in (("small", 2), ("large", 30), ("middle", 12)):
        made = put_chain(saver, thread, count)
        saver.put_writes(made[-1], [("items", ["x" * 500])], "task")
    put_chain(saver, "large", 3, ns="sub:1")
    assert tank.flush().ok


def look(tank: Surgetank, **options: Any) -> reports.StorageReport:
    parts = tank.parts
    return reports.storage(parts.buffer, parts.database, limits=Limits(), now=0.0, **options)


def test_the_figures_add_up_and_are_those_of_the_tables(tank, database_url):
    filled(tank)
    report = tank.storage()
    assert report.problem is None
    assert not report.estimated
    kinds = {u.kind: u for u in report.kinds}
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT (SELECT count(*) FROM surgetank.checkpoints), (SELECT count(*) FROM "
            "surgetank.checkpoint_writes),"
            " (SELECT sum(length(data)) FROM surgetank.checkpoint_blobs WHERE base_n IS NULL),"
            " (SELECT sum(length(data)) FROM surgetank.checkpoint_blobs WHERE base_n IS NOT NULL)"
        ).fetchone()
    assert rows == (
        kinds["checkpoints"].rows,
        kinds["writes"].rows,
        kinds["whole"].bytes,
        kinds["patches"].bytes,
    )
    assert [t.thread_id for t in report.threads] == ["large", "middle", "small"]
    assert sum(t.bytes for t in report.threads) == sum(u.bytes for u in report.kinds)
    assert sum(u.bytes for u in report.channels) == sum(
        u.bytes for u in report.kinds if u.kind != "checkpoints"
    )
    assert {u.channel for u in report.channels} == {"items"}  # "step" lies with the checkpoints
    assert sum(t.bytes for t in report.tables) > sum(u.bytes for u in report.kinds)


def test_growth_and_what_pruning_frees_are_told(tank, database_url):
    filled(tank)
    made = ids([t.config for t in listed(tank.checkpointer(), "large")])
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.checkpoints SET written_at = written_at - interval '9 days'"
            " WHERE checkpoint_id = ANY(%s)",
            (made[10:],),
        )
    (thread,) = tank.storage(thread="large").threads
    assert thread.checkpoints == 33
    assert sum(step.checkpoints for step in thread.growth) == 33
    assert sum(step.bytes for step in thread.growth) == thread.bytes
    assert 0 < thread.last_week_bytes < thread.bytes
    assert thread.last_day_bytes == thread.last_week_bytes
    assert thread.to_latest.checkpoints == 31
    tank.retain(keep=1, threads=["large"])
    assert tank.flush().ok
    (after,) = tank.storage(thread="large").threads
    assert after.to_latest.checkpoints == after.to_latest.freed_bytes == 0
    freed = thread.bytes - after.bytes
    assert abs(thread.to_latest.freed_bytes - freed) < 0.2 * freed


def test_top_and_thread_choose_what_is_shown(tank):
    filled(tank)
    assert [t.thread_id for t in tank.storage(top=1).threads] == ["large"]
    assert len({u.channel for u in tank.storage(top=1).channels}) == 1
    assert [t.thread_id for t in tank.storage(thread="small").threads] == ["small"]
    assert tank.storage(thread="nobody").threads == ()
    with pytest.raises(InvalidRequest):
        tank.storage(top=0)


def test_large_tables_are_sampled_and_large_values_still_counted_exactly(tank):
    saver = tank.checkpointer()
    for thread in range(60):
        put_chain(saver, f"t{thread}", 20)
    huge = os.urandom(3 * 1024**2)
    put(saver, "huge", {"blob": huge})
    assert tank.flush().ok
    exact, sampled = look(tank), look(tank, sample_bytes=200_000)
    assert sampled.estimated
    assert 0 < sampled.share < 1
    assert sampled.threads[0].thread_id == "huge"
    assert sampled.threads[0].bytes == exact.threads[0].bytes >= len(huge)
    for kind in ("patches", "checkpoints"):
        of_sample, of_all = (next(u for u in r.kinds if u.kind == kind) for r in (sampled, exact))
        assert 0.2 * of_all.bytes < of_sample.bytes < 5 * of_all.bytes


def test_the_hot_part_is_told_also_without_the_database(make_tank, tmp_path):
    tank = make_tank(database_url=f"postgresql:///nothing?host={tmp_path}", connect_timeout=0.5)
    put_chain(tank.checkpointer(), "t", 3)
    put_chain(tank.checkpointer(), "u", 9)
    report = tank.storage(top=1)
    assert "can't be reached" in report.problem
    assert report.remedy
    assert report.hot.entries == 12
    assert [(name, entries) for name, entries, _ in report.hot.threads] == [("u", 9)]
    assert report.threads == ()


# -- the commands


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Any:
    environment = {
        **os.environ, "SURGETANK_HOME": str(tmp_path / "home"), "SURGETANK_DATABASE_URL": database_url,
    }  # fmt: skip

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, {**environment, **more})

    return run


def test_storage_speaks_to_people_and_to_scripts(cli, tank):
    filled(tank)
    put(tank.checkpointer(), "large", {"n": 1})
    shown = cli("storage")
    assert shown.returncode == 0, shown.stderr
    for word in ("large", "values, patches", "items", "1 entries", "(estimate)"):
        assert word in shown.stdout
    told = json.loads(cli("storage", "--json", "--top", "2").stdout)
    assert [t["thread_id"] for t in told["threads"]] == ["large", "middle"]
    assert told["threads"][0]["hot_bytes"] > 0
    down = cli("storage", SURGETANK_DATABASE_URL="postgresql:///x?host=/nowhere")
    assert down.returncode == 1
    assert "large: 1 entries" in down.stdout
    assert "not reachable" in down.stderr


def test_prune_by_limits_tells_beforehand_what_it_then_does(cli, tank):
    made = ids(put_chain(tank.checkpointer(), "t", 10))
    other = put_chain(tank.checkpointer(), "other", 10)
    assert tank.flush().ok
    planned = json.loads(cli("prune", "t", "--keep", "4", "--dry-run", "--json").stdout)
    assert planned["checkpoints"] == {"t": {"": made[:6]}}
    assert (
        "t: 6 of 10 checkpoints would be deleted"
        in cli("prune", "t", "--keep", "4", "--dry-run").stdout
    )
    assert len(listed(tank.checkpointer(), "t")) == 10
    done = json.loads(cli("prune", "t", "--keep", "4", "--retain-age", "30d", "--json").stdout)
    assert done["deleted"]["checkpoints"] == planned["checkpoints"]
    assert done["job"]["status"] == "completed"
    assert sorted(ids([t.config for t in listed(tank.checkpointer(), "t")])) == made[6:]
    assert len(listed(tank.checkpointer(), "other")) == len(other)
    assert cli("prune", "--max-bytes", "0").returncode == 0  # all threads
    assert len(listed(tank.checkpointer(), "other")) == 1
    assert "retention" in cli("jobs", "list").stdout
    assert (
        "Retention"
        in cli("jobs", "show", next(j.id for j in tank.jobs() if j.stream == "retention")).stdout
    )


def test_prune_deletes_whole_threads_only_by_its_own_option(cli, tank, database_url):
    put_chain(tank.checkpointer(), "old", 2)
    assert tank.flush().ok
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.checkpoints SET written_at = now() - interval '100 days'"
        )
    assert cli("prune", "--retain-age", "30d").returncode == 0
    assert len(listed(tank.checkpointer(), "old")) == 1
    told = cli("prune", "--delete-threads-older-than", "90d", "--dry-run")
    assert "old: the whole thread would be deleted" in told.stdout
    assert tank.checkpointer().get_tuple(config("old")) is not None
    assert cli("prune", "--delete-threads-older-than", "90d").returncode == 0
    assert tank.checkpointer().get_tuple(config("old")) is None


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("--keep", "0"), ("t", "--strategy", "delete", "--keep", "3"), ("--retain-age", "soon"),
        ("--retain-age", "-3d"), ("--retain-age", "nan"), ("--delete-threads-older-than", "0"),
        ("t", "--strategy", "x"),
    ],
)  # fmt: skip
def test_prune_refuses_wishes_that_make_no_sense(cli, tank, arguments):
    put_chain(tank.checkpointer(), "t", 3)
    refused = cli("prune", *arguments)
    assert refused.returncode == 2, refused.stdout
    assert refused.stderr
    assert len(listed(tank.checkpointer(), "t")) == 3


def test_ages_in_the_environment_may_have_units(make_tank, monkeypatch):
    monkeypatch.setenv("SURGETANK_RETAIN_AGE", "30d")
    assert make_tank().settings.retain_age == 30 * 86400
    with pytest.raises(ConfigurationError):
        make_tank(retain_age="xd")
