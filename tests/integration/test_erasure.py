"""Erasing a user: nothing of them is left in any file, everybody else's data is; a kill on the way
changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from support.commands import run_module
from support.erasing import MARK, USER, leave_rows, leave_traces, traces
from support.http import ADMIN_TOKEN, running
from support.postgres import PostgresServer
from support.savers import config, listed, put, put_chain
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
from surgetank.exceptions import DatabaseUnavailable


@pytest.fixture
def own_url(private_postgres: PostgresServer) -> str:
    """A database on a server of the test's own, whose files can be looked through."""
    database = Database(private_postgres.url)
    migrate(database)
    database.close()
    return private_postgres.url


def furnish(tank: Surgetank) -> list[Any]:
    """Bob's thread, with a line of ada's; returns his checkpoints."""
    saver = tank.checkpointer()
    put_chain(saver, "bobs", 5, user_id="bob")
    tank.emit_log("bob's line", thread_id="bobs", user_id="bob")
    tank.log_system_error("bobs_error", "bob's error", thread_id="bobs", context={"bob": 1})
    leave_traces(tank)
    return listed(saver, "bobs")


def test_no_byte_of_an_erased_user_is_left_and_everybody_else_s_data_is(
    make_tank: MakeTank, own_url: str, private_postgres: PostgresServer, tmp_path: Path
) -> None:
    now = 1_800_000_000.0
    tank = make_tank(
        database_url=own_url, fallback_url=str(tmp_path / "spill"), debug_originals=True,
        clock=lambda: now,
    )  # fmt: skip
    bobs = furnish(tank)
    leave_rows(tank)
    before = [rows_of_bob(tank, at) for at in versions(tank)]
    places = [tmp_path, private_postgres.data / "base"]
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    assert len(traces(places)) >= 8, "the traces are there before"
    report = tank.erase_user(USER)
    assert report.state == "running"
    assert [why for why in report.unfinished if "old files of tables" not in why] == []
    assert report.threads == 4
    assert rows_of(tank, USER) == []
    tank.parts.housekeep()
    assert state(own_url) == ("running", report.removed)
    now += 1200  # nobody can be reading the old files any more
    with psycopg.connect(own_url, autocommit=True) as connection:
        for table, column in (("table_garbage", "since"), ("erasures", "tried_at")):
            connection.execute(
                f"UPDATE surgetank.{table} SET {column} = now() - interval '1200 s'".encode()
            )
    tank.parts.housekeep()
    assert state(own_url)[0] == "completed"
    assert any("write-ahead" in place for place in report.out_of_reach)
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    left = [path for path in traces(places) if "bobs" not in path]
    assert left == []
    assert [rows_of_bob(tank, at) for at in versions(tank)][: len(before)] == before
    assert len(rows_of(tank, "bob")) == 9 - 1 + 2
    saver = tank.checkpointer()
    assert [t.config for t in listed(saver, "bobs")] == [t.config for t in bobs]
    assert [line.message for line in tank.logs("bobs")] == ["bob's line"]
    assert [g.error_message for g in tank.errors.find().errors if g.error_type == "bobs_error"] == [
        "bob's error"
    ]
    assert saver.get_tuple(config(f"t0-{MARK}")) is None
    assert tank.erase_user(USER).state == "completed", "again is no error"


def state(url: str) -> tuple[str, dict[str, int]]:
    with psycopg.connect(url) as connection:
        (found,) = connection.execute("SELECT state, removed FROM surgetank.erasures").fetchall()
    return found


def rows_of(tank: Surgetank, user: str) -> list[Any]:
    rows = tank.sql("SELECT id, text FROM diary ORDER BY id", user=user)[-1].rows
    assert rows is not None
    return rows.to_pylist()


def versions(tank: Surgetank) -> list[int]:
    """The snapshots of the table, by which rows were added or deleted."""
    with tank.parts.database.asking() as connection:
        rows = connection.execute(
            "SELECT snapshot_id FROM surgetank.table_snapshots WHERE table_id = %s"
            " AND changes ~ 'inserted|deleted|compacted' ORDER BY 1",
            [tank.tables.describe("diary").id],
        ).fetchall()
    return [number for (number,) in rows]


def rows_of_bob(tank: Surgetank, snapshot: int) -> list[Any]:
    """What bob had at a snapshot, from the files themselves."""
    folder = tank.settings.home / "tables"
    rows: list[Any] = []
    with tank.parts.database.asking() as connection:
        files = connection.execute(
            "SELECT f.path, d.path FROM surgetank.table_files f LEFT JOIN surgetank.table_delete_files d"
            " ON d.file_id = f.file_id AND d.begin_snapshot <= %(at)s"
            " AND coalesce(d.end_snapshot > %(at)s, true)"
            " WHERE f.table_id = %(table)s AND f.begin_snapshot <= %(at)s"
            " AND coalesce(f.end_snapshot > %(at)s, true)",
            {"at": snapshot, "table": tank.tables.describe("diary").id},
        ).fetchall()
    for path, deletes in files:
        gone = pq.read_table(folder / deletes).column("pos").to_pylist() if deletes else []
        rows += [
            (row["id"], row["text"])
            for at, row in enumerate(pq.read_table(folder / path).to_pylist())
            if at not in gone and row["_user"] == "bob"
        ]
    return sorted(rows)


def test_a_thread_goes_with_the_first_owner_that_it_names_and_no_other(make_tank: MakeTank) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    first = put(saver, "bobs", {"x": 1}, user_id="bob")
    put(saver, "bobs", {"x": 2}, parent=first, step=1, user_id="ada")
    put(saver, "nobodys", {"x": 1})
    report = tank.erase_user("ada")
    assert (report.state, report.threads) == ("completed", 0)
    assert len(listed(saver, "bobs")) == 2
    assert len(listed(saver, "nobodys")) == 1
    assert tank.erase_user("bob").threads == 1
    assert listed(saver, "bobs") == []


def test_killed_at_any_step_it_goes_on_when_it_is_asked_for_again(
    make_tank: MakeTank, database_url: str, tmp_path: Path
) -> None:
    tank = make_tank()
    furnish(tank)
    tank.close()
    killed = 0
    for step in (7, 16, 30):
        done = run_module("support.erasing", tmp_path / "home", database_url, USER, step)
        killed += done.returncode == -9
        assert done.returncode in (0, -9), done.stderr
    assert killed >= 2
    report = make_tank().erase_user(USER)
    assert report.state == "completed"
    assert traces([tmp_path / "home"]) == []
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'surgetank'"
            " AND table_type = 'BASE TABLE'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(
                f"SELECT t::text FROM surgetank.{table} t".encode()
            ).fetchall()
            assert not [row for row in rows if MARK in row[0]], table


def test_an_administrator_erases_over_http_and_the_user_is_out_at_once(make_tank: MakeTank) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with running(tank) as server:
        put(tank.checkpointer(), "t", {"x": 1}, user_id="ada/1")
        ada, other = server.as_role("admin", "ada/1"), server.as_role("viewer", "bob")
        ticket = ada.post("/ws/ticket", headers={"Idempotency-Key": "k"}).json()["ticket"]
        assert ada.get("/threads/t/state").status_code == other.get("/me").status_code == 200
        answer = server.admin.delete("/admin/users/ada/1")
        assert (answer.status_code, answer.json()["state"], answer.json()["threads"]) == (
            200,
            "completed",
            1,
        )
        assert ada.get("/me").status_code == 401
        assert server.client().get(f"/sse/events?ticket={ticket}").status_code == 401
        assert server.admin.get("/threads").json()["threads"] == []
        assert other.get("/me").status_code == 200


def test_the_command_erases_only_when_it_is_told_so_twice(
    make_tank: MakeTank, database_url: str
) -> None:
    tank = make_tank()
    put(tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    where = ["--home", str(tank.settings.home), "--database-url", database_url]
    refused = CliRunner().invoke(app, ["erase-user", "ada", *where])
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    done = CliRunner().invoke(app, ["erase-user", "ada", "--yes", "--json", *where])
    assert (done.exit_code, json.loads(done.stdout)["threads"]) == (0, 1)
    again = CliRunner().invoke(app, ["erase-user", "ada", "--yes", *where])
    assert again.stdout.startswith("completed: 0 threads")
    assert "out of reach: backups" in again.stdout


def test_without_the_database_nothing_is_begun(
    make_tank: MakeTank, own_url: str, private_postgres: PostgresServer
) -> None:
    tank = make_tank(database_url=own_url)
    put(tank.checkpointer(), "t", {"x": 1}, user_id=USER)
    private_postgres.stop()
    with pytest.raises(DatabaseUnavailable):
        tank.erase_user(USER)
    assert tank.checkpointer().get_tuple(config("t")) is not None
    private_postgres.start()
    assert tank.erase_user(USER).state == "completed"
    assert tank.checkpointer().get_tuple(config("t")) is None


def test_what_keeps_it_from_being_completed_is_said(make_tank: MakeTank, database_url: str) -> None:
    tank = make_tank()
    put(tank.checkpointer(), "t", {"x": 1}, user_id=USER)
    assert tank.flush().ok
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = 'not now'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE DELETE ON surgetank.checkpoints FOR EACH ROW EXECUTE "
            "FUNCTION public.refuse()"
        )
        report = tank.erase_user(USER)
        assert report.state == "running"
        assert any("could not be deleted" in reason for reason in report.unfinished)
        connection.execute("DROP TRIGGER refuse ON surgetank.checkpoints")
    tank.parts.buffer.retry_now()
    assert tank.erase_user(USER).state == "completed"


def test_what_others_said_stays_also_when_the_user_s_name_is_a_short_one(
    make_tank: MakeTank,
) -> None:
    tank = make_tank()
    put(tank.checkpointer(), "theirs", {"x": 1}, user_id="a")
    tank.broadcast_run_event("said", thread_id="bobs", text="a word of bob's about 'a'")
    put(tank.checkpointer(), "bobs", {"x": 1}, user_id="bob")
    job = tank.flush()
    assert tank.erase_user("a").state == "completed"
    assert [event.type for event in tank.events.thread_events("bobs")[1]] == ["said"]
    kept = tank.jobs.get(job.id)
    assert (kept.status.value, kept.result["partitions_processed"]) == ("completed", 2)
