"""The command line as a person and a script use it: real processes on a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.commands import run_command
from support.savers import listed, put, put_chain
from support.waiting import wait_until
from surgetank import Surgetank


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Any:
    """Runs `surgetank ARGS`; returns the finished process."""
    environment = {
        **os.environ,
        "SURGETANK_HOME": str(tmp_path / "home"),
        "SURGETANK_DATABASE_URL": database_url,
        "SURGETANK_FLUSH_AGE": "0",
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        longest = 200 if arguments[0] == "demo" else 60
        return run_command(arguments, {**environment, **more}, timeout=longest)

    run.environment = environment  # type: ignore[attr-defined]
    return run


def refuse_step(url: str, step: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' "
            f"<> '{step}')"
        )


def test_the_help_teaches_every_command(cli):
    top = cli("--help")
    assert top.returncode == 0
    for command in (
        "demo",
        "status",
        "flush",
        "jobs",
        "parked",
        "prune",
        "worker",
        "migrate",
        "doctor",
        "errors",
        "tail",
    ):
        assert command in top.stdout
        page = cli(command, "--help")
        assert page.returncode == 0
        assert len(page.stdout) > 200, command
    assert "Exit codes" in " ".join(top.stdout.split())


def test_status_flush_and_jobs_tell_the_same_story(cli, tank):
    put_chain(tank.checkpointer(), "t", 5)
    waiting = json.loads(cli("status", "--json").stdout)
    assert waiting["buffer"]["entries"] == 5
    assert waiting["lag_s"] > 0
    assert waiting["sinks"][0]["reachable"] is True
    assert "5 entries" in cli("status").stdout

    flushed = cli("flush", "--json")
    job = json.loads(flushed.stdout)
    assert flushed.returncode == 0
    assert (job["status"], job["result"]["entries_flushed"], job["trigger"]) == (
        "completed",
        5,
        "manual",
    )

    listing = json.loads(cli("jobs", "list", "--json").stdout)
    assert [j["id"] for j in listing] == [job["id"]]
    assert job["id"] in cli("jobs", "show", job["id"][:10]).stdout
    assert job["id"][:12] in cli("jobs", "list").stdout
    after = cli("status")
    assert after.returncode == 0
    assert "0 entries" in after.stdout
    assert len(listed(tank.checkpointer(), "t")) == 5


def test_flushing_one_thread_leaves_the_others(cli, tank):
    put_chain(tank.checkpointer(), "a", 2)
    put_chain(tank.checkpointer(), "b", 2)
    assert cli("flush", "a").returncode == 0
    assert tank.status().buffer.entries == 2


def test_parked_entries_are_listed_shown_exported_and_retried(cli, tank, database_url, tmp_path):
    refuse_step(database_url, 1)
    put_chain(tank.checkpointer(), "t", 3)
    flushed = cli("flush")
    assert flushed.returncode == 3
    assert "parked" in flushed.stdout
    status = cli("status")
    assert status.returncode == 1
    assert "surgetank parked show 1" in status.stdout

    listing = cli("parked", "list", "--json")
    assert listing.returncode == 1
    (entry,) = json.loads(listing.stdout)
    assert (entry["partition"], entry["failure"]["sqlstate"]) == ("t", "23514")
    assert "refuse" in cli("parked", "show", str(entry["id"])).stdout
    assert cli("parked", "show", "99").returncode == 2

    file = tmp_path / "parked.jsonl"
    assert cli("parked", "export", str(file)).returncode == 0
    assert json.loads(file.read_text())["partition"] == "t"
    again = cli("parked", "export", str(file), "--json")
    assert again.returncode == 2
    assert "way out" in again.stderr
    assert "can't be written" in json.loads(again.stdout)["error"]["what"]
    more = cli("parked", "export", str(tmp_path / "more.jsonl"), "--json")
    assert json.loads(more.stdout)["entries"] == 1

    assert cli("parked", "retry").returncode == 1  # nothing saved, all parked again
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE surgetank.checkpoints DROP CONSTRAINT refuse")
    assert cli("parked", "retry").returncode == 0
    assert cli("parked", "list").returncode == 0
    assert json.loads(cli("parked", "retry", "--json").stdout) is None
    assert len(listed(tank.checkpointer(), "t")) == 3


def test_a_failed_flush_has_its_exit_code_and_can_be_retried_by_job(cli, tank):
    put_chain(tank.checkpointer(), "t", 2)
    failed = cli(
        "flush", "--json", SURGETANK_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing"
    )
    assert failed.returncode == 1
    job = json.loads(failed.stdout)
    assert job["status"] == "failed"
    assert job["result"]["errors"][0]["stack_trace"]
    retried = cli("jobs", "retry", job["id"], "--json")
    assert retried.returncode == 0
    assert json.loads(retried.stdout)["retry_of"] == job["id"]


def test_prune_says_what_it_would_do_before_it_does_it(cli, tank):
    put_chain(tank.checkpointer(), "t", 4)
    dry = cli("prune", "t", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"t": {"(root)": 3}}
    assert len(listed(tank.checkpointer(), "t")) == 4
    assert cli("prune", "t").returncode == 0
    assert len(listed(tank.checkpointer(), "t")) == 1
    assert cli("prune", "t", "--strategy", "delete").returncode == 0
    assert listed(tank.checkpointer(), "t") == []
    assert cli("prune", "t", "--strategy", "nonsense").returncode == 2


def test_migrate_is_idempotent_and_doctor_checks_everything(cli, fresh_database):
    first = cli("migrate", "--json", SURGETANK_DATABASE_URL=fresh_database)
    assert json.loads(first.stdout)["applied"]
    again = cli("migrate", SURGETANK_DATABASE_URL=fresh_database)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    checks = {f["check"]: f["state"] for f in json.loads(cli("doctor", "--json").stdout)}
    assert {"python", "home", "buffer", "database", "schema", "flow"} <= checks.keys()
    assert set(checks.values()) <= {"ok", "warning"}
    down = cli("doctor", SURGETANK_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert down.returncode == 1
    assert "way out" in down.stdout


def test_migrate_without_a_database_leaves_no_home_behind(cli, tmp_path):
    home = tmp_path / "new" / "home"
    done = cli(
        "migrate",
        SURGETANK_HOME=str(home),
        SURGETANK_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing",
    )
    assert done.returncode == 1
    assert "way out" in done.stderr
    assert not home.parent.exists()


def test_wrong_usage_and_settings_exit_with_two_and_no_traceback(cli):
    for done in (
        cli("frobnicate"),
        cli("status", "--colour"),
        cli("status", SURGETANK_DURABILITY="wish"),
    ):
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr
    secret = cli("status", SURGETANK_DATABASE_URL="postgresql://u:hunter2@h:bad/x")
    assert secret.returncode == 2
    assert "hunter2" not in secret.stderr + secret.stdout
    assert "way out" in secret.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_flushes_and_ends_cleanly_when_it_is_told_to(cli, tank, number):
    worker = subprocess.Popen(
        [sys.executable, "-m", "surgetank", "worker", "--json"], env=cli.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        saver = tank.checkpointer()
        put_chain(saver, "t", 3)
        wait_until(lambda: tank.status().buffer.entries == 0, "the worker to flush")
        put(saver, "t", {"last": 1})
        worker.send_signal(number)
        lines, said = worker.communicate(timeout=20)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == (130 if number == signal.SIGINT else 0), said
    assert "Traceback" not in said
    assert "stopping" in said
    events = [json.loads(line) for line in lines.splitlines()]
    names = [e["event"] for e in events]
    assert (names[0], names[-1]) == ("started", "stopped")
    assert set(names[names.index("stopping") + 1 : -1]) <= {"job_finished"}
    jobs = [
        e["job"]
        for e in events
        if e["event"] == "job_finished" and e["job"]["stream"] == "checkpoints"
    ]
    assert sum(job["result"]["entries_flushed"] for job in jobs) >= 3
    assert all(s.leased_by is None for s in tank.parts.buffer.states())
    assert tank.flush().ok


@pytest.mark.timeout(240)  # it does all that there is, and the machine may have other work
def test_the_demo_ends_by_itself_with_everything_arrived(cli):
    done = cli("demo", "--threads", "3", "--json", SURGETANK_DATABASE_URL="", SURGETANK_HOME="")
    assert "In a terminal the demo stays up now" in done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["flush"]["status"] == "completed"
    assert summary["tables"]["job"]["result"]["partitions_failed"] == 1
    assert summary["outage"]["checkpoints_in_database"] == summary["outage"]["checkpoints_listed"]
    for sign in (
        "PostgreSQL is stopped",
        "the user sees",
        "the run goes on",
        "kill -9",
        "edited by you; the run is completed: sent to ada@example.com",
        "everything arrived",
        "nan",
        "replaced",
        "completed with warnings",
        "bob  a thermometer  20.50  tool_failed",
    ):
        assert sign in done.stderr, sign


def test_errors_are_shown_with_stack_traces_resolved_and_come_back(cli, tank):
    def fail() -> None:
        try:
            raise ValueError("broken order")
        except ValueError as error:
            tank.log_system_error(
                "order_failed", "An order failed.", error=error, severity="critical", thread_id="t"
            )

    fail()
    shown = cli("errors")
    assert shown.returncode == 1
    assert "ValueError: broken order" in shown.stdout
    (error,) = json.loads(cli("errors", "list", "--json", "--thread", "t", "--since", "1h").stdout)[
        "errors"
    ]
    done = cli("errors", "resolve", error["id"][:8], "--by", "ada", "--notes", "fixed")
    assert done.returncode == 0, done.stderr
    assert cli("errors").returncode == 0
    assert "No errors" in cli("errors").stdout
    again = cli("errors", "resolve", error["id"])
    assert again.returncode == 1
    assert "resolved by ada already" in again.stderr
    fail()
    back = json.loads(cli("errors", "show", error["id"], "--json").stdout)
    assert (back["regressions"], back["occurrences"], back["resolved"]) == (1, 2, False)
    assert [row["action"] for row in back["audit"]] == ["resolve"]
    for command in ("stats", "trends", "threads"):
        assert cli("errors", command).returncode == 0
    assert cli("errors", "list", "--since", "soon").returncode == 2
    assert cli("errors", "show", "nonsense").returncode == 2


def test_errors_and_tail_work_while_the_database_is_down(cli, tank):
    tank.emit_log("still here", thread_id="t")
    tank.log_system_error("seen", "while it is down")
    away = {"SURGETANK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    shown = cli("errors", **away)
    assert shown.returncode == 3
    assert "while it is down" in shown.stdout
    assert "can't be reached" in shown.stderr
    lines = cli("tail", "t", "--no-follow", "--json", **away).stdout.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["still here"]
    assert "still here" in cli("tail", "--no-follow", **away).stdout


def test_tail_follows_until_it_is_stopped(cli, tank):
    tank.broadcast_run_event("first", thread_id="t")
    process = subprocess.Popen(
        [sys.executable, "-m", "surgetank", "tail", "t", "--json"],
        env=cli.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["type"] == "first"
        tank.broadcast_run_event("second", thread_id="t")
        assert json.loads(process.stdout.readline())["type"] == "second"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_json_is_json_whatever_a_thread_is_called(cli, tank):
    names = ["a:smile:b", "[bold]x[/bold]", "\u2028\x1b[31m", "é\x7f", "x" * 300]
    for name in names:
        put(tank.checkpointer(), name, {"a": float("nan")}, note="\x00")
    for arguments in (
        ["status"],
        ["flush", "a:smile:b"],
        ["flush"],
        ["jobs", "list"],
        ["doctor"],
        ["migrate"],
    ):
        done = cli(*arguments, "--json", PYTHONIOENCODING="ascii", SURGETANK_NODE=":smile:")
        assert json.loads(done.stdout), arguments
        assert "Traceback" not in done.stderr
    assert json.loads(cli("jobs", "list", "--json").stdout)[0]["node"] == ":smile:"
    dry = cli(
        "prune", *names, "--dry-run", "--strategy", "delete", "--json", PYTHONIOENCODING="ascii"
    )
    assert list(json.loads(dry.stdout)) == names


def test_with_json_an_error_is_json_too(cli):
    for arguments in (
        ["jobs", "show", "nothing"],
        ["flush", "--stream", "none"],
        ["prune", "t", "--strategy", "x"],
    ):
        done = cli(*arguments, "--json")
        assert done.returncode in (1, 2)
        assert json.loads(done.stdout)["error"]["what"]
        assert "way out" in done.stderr


def test_an_argument_that_is_no_text_is_refused_without_a_traceback(cli):
    for command in (["flush"], ["prune"], ["jobs", "show"]):
        done = cli(*command, "\udcff")
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(cli, tank):
    job = tank.flush()
    for number in range(1000):
        tank.parts.buffer.save_job(replace(job, id=f"job-{number}"))
    for arguments in ("jobs list --limit 1000", "jobs list --limit 1000 --json"):
        done = subprocess.run(
            ["bash", "-c", (f"set -o pipefail; {sys.executable} -m surgetank {arguments} | head -n "
            f"1")],
            capture_output=True, text=True, check=False, env=cli.environment, timeout=60,
        )  # fmt: skip
        assert done.stdout
        assert done.stderr == ""


def test_a_home_with_spaces_accents_and_odd_bytes_works(cli, tmp_path):
    for name in ("with space é 😀", "odd-\udcff"):
        assert cli("migrate", SURGETANK_HOME=str(tmp_path / name)).returncode == 0
        assert cli("flush", SURGETANK_HOME=str(tmp_path / name)).returncode == 0
        done = cli("status", "--json", SURGETANK_HOME=str(tmp_path / name))
        assert "buffer" in json.loads(done.stdout), done.stderr
        assert "Traceback" not in cli("status", SURGETANK_HOME=str(tmp_path / name)).stderr


def test_errors_start_the_embedded_database_to_show_what_is_in_it(cli, tmp_path):
    with Surgetank(tmp_path / "embedded", flush_in_process=False, flush_on_close=False) as tank:
        tank.log_system_error("payment_failed", "card refused", severity="critical")
        assert tank.flush("system_errors").ok
    shown = cli("errors", SURGETANK_HOME=str(tmp_path / "embedded"), SURGETANK_DATABASE_URL="")
    assert shown.returncode == 1, shown.stderr
    assert "payment_failed" in shown.stdout


def test_a_dry_run_of_an_export_leaves_no_file(cli, tank, tmp_path):
    put_chain(tank.checkpointer(), "t", 2)
    target = tmp_path / "new.sqlite"
    done = cli("export", "--to", str(target), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert not target.exists()


def test_what_does_not_exist_is_an_error_with_one_exit_code(cli, tank):
    put(tank.checkpointer(), "t", {"n": 1})
    for arguments in (
        ("flush", "nobody"), ("flush", "--stream", "nonsense"), ("flush", "--thread", "nobody"), ("prune", "nobody"),
        ("storage", "--thread", "nobody"), ("originals", "nobody"), ("tail", "nobody", "--no-follow"),
        ("errors", "list", "--thread", "nobody"), ("export", "--to", "x.db", "--thread", "nobody"),
        ("jobs", "show", "nonsense"), ("jobs", "retry", "nonsense"), ("errors", "show", "nonsense"),
        ("parked", "show", "7"), ("parked", "retry", "7"), ("token", "revoke", "nonsense"),
    ):  # fmt: skip
        done = cli(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert "way out" in done.stderr, arguments
    assert cli("flush", "--thread", "t").returncode == 0


def test_a_mistyped_home_is_no_successful_flush(cli, tmp_path):
    done = cli("flush", "--home", str(tmp_path / "mistyped"))
    assert done.returncode == 2
    assert "There is no Surgetank here" in done.stderr
    assert not (tmp_path / "mistyped").exists()
