"""What is done to several things at once, from Python, the command line and over HTTP: another try, a part
of what waits, deletion. Doing it twice is no harm, and the audit says who did it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from support.http import ADMIN_TOKEN, Server, running
from support.savers import checkpoint, config, put, stored
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.exceptions import Conflict, DatabaseUnavailable
from surgetank.model import JobStatus, Record
from surgetank.workflows.audit import Audit, AuditFilter

LOGS = "thread_logs"


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


def audited(tank: Surgetank, action: str) -> list[dict[str, Any]]:
    return tank.audit.list(AuditFilter(action=action))


def park(tank: Surgetank, *threads: str) -> list[int]:
    """Lines that are none; the numbers that they are set aside with."""
    for thread in threads:
        tank.parts.buffer.append(LOGS, thread, (Record(b"l", b"no line"),))
    tank.flush(LOGS)
    return [entry.id for entry in tank.parked() if entry.partition in threads]


def test_a_checkpoint_is_discarded_unless_a_later_one_needs_its_values(
    tank: Surgetank, database_url: str
) -> None:
    saver = tank.checkpointer()
    first = {thread: put(saver, thread, {"a": 1, "b": 1}) for thread in ("needed", "free")}
    tank.flush()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT no CHECK (metadata ->> 'step' <> '1')"
        )
    second, third = dict[str, Any](), dict[str, Any]()
    for thread, new in (("needed", {"b"}), ("free", {"a", "b"})):
        second[thread] = put(saver, thread, {"a": 2, "b": 1}, parent=first[thread], step=1)
        tank.flush()
        old = stored(saver, second[thread]).checkpoint["channel_versions"]
        versions = {channel: "9" if channel in new else old[channel] for channel in "ab"}
        third[thread] = saver.put(
            config(thread, "", second[thread]["configurable"]["checkpoint_id"]),
            checkpoint({"a": 2, "b": 3}, versions),
            {"source": "loop", "step": 2, "parents": {}},
            dict.fromkeys(new, "9"),
        )
        tank.flush()
    parked = {entry.partition: entry.id for entry in tank.parked()}
    with pytest.raises(Conflict, match="needs values"):
        tank.parked.discard(parked.values())
    assert {entry.id for entry in tank.parked()} == set(parked.values())
    assert tank.incidents("free")
    assert audited(tank, "parked_discarded") == []

    assert [gone.id for gone in tank.parked.discard([parked["free"], 99], by="ops")] == [
        parked["free"]
    ]
    assert tank.parked.discard([parked["free"]], by="ops") == []
    assert saver.get_tuple(second["free"]) is None
    for thread in third:
        assert stored(saver, third[thread]).checkpoint["channel_values"] == {"a": 2, "b": 3}
    assert not tank.incidents("free"), "the banner ends at once"
    tank.flush("thread_logs")  # which tells of it
    tank.wait_saved("free", timeout=10)
    (row,) = audited(tank, "parked_discarded")
    assert (row["actor"], row["thread_id"]) == ("ops", "free")
    assert row["detail"] == {"stream": "checkpoints", "entries": 1, "ids": [parked["free"]]}


def test_nothing_is_discarded_that_is_not_in_the_audit(tank: Surgetank, monkeypatch: Any) -> None:
    ids = park(tank, "a")

    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("It is away.", remedy="wait.")

    monkeypatch.setattr(Audit, "note", away)
    with pytest.raises(DatabaseUnavailable):
        tank.parked.discard(ids)
    assert [entry.id for entry in tank.parked()] == ids
    assert tank.parked.retry(ids) is not None, "another try loses nothing"


def test_over_http_several_are_tried_again_discarded_flushed_and_deleted(server: Server) -> None:
    tank, admin = server.tank, server.as_role("admin", "root")
    ids = park(tank, "a", "b", "c")
    body = admin.post("/parked/retry", json={"ids": [*ids, 99]}).json()
    assert body["job"]["result"]["entries_parked"] == 3
    assert {row["actor"] for row in audited(tank, "parked_retried")} == {"root"}
    ids = [entry.id for entry in tank.parked()]
    answer = {"discarded": ids[:2]}
    assert admin.post("/parked/discard", json={"ids": ids[:2]}).json() == answer
    assert admin.post("/parked/discard", json={"ids": ids[:2]}).json() == {"discarded": []}
    assert admin.post("/parked/retry", json={"ids": ids[:2]}).json() == {"job": None}
    assert admin.post("/parked/discard", json={"ids": []}).status_code == 422

    for thread in ("chat-1", "chat-2", "mail-1"):
        tank.emit_log("hello", thread_id=thread)
    (job,) = admin.post("/flush/matching", json={"text": "CHAT", "stream": LOGS}).json()["jobs"]
    assert job["result"]["partitions_processed"] == 2
    assert admin.post("/flush/matching", json={"text": "chat", "stream": LOGS}).json() == {
        "jobs": []
    }
    assert admin.post("/flush/matching", json={"stream": "none"}).status_code == 422
    nothing = admin.post(f"/jobs/{job['id']}/retry", json={"failed_only": True})
    assert nothing.status_code == 409
    assert admin.post(f"/jobs/{job['id']}/retry").status_code == 200

    for kind in ("one", "two"):
        tank.errors.act(tank.log_system_error(kind, "it failed"), "resolve", "ops")
    tank.log_system_error("one", "another thing")
    at = "/admin/system-errors"
    assert admin.delete(at, params={"until": 1.0}).json() == {"deleted": 0}
    assert admin.delete(at, params={"error_type": "one"}).json() == {"deleted": 1}
    assert admin.delete(at, params={"error_type": "one"}).json() == {"deleted": 0}
    assert {e.error_type for e in tank.errors.find().errors} >= {"one", "two"}


def test_commands_ask_before_they_remove_and_say_what_was_there(
    tank: Surgetank, database_url: str
) -> None:
    ids = park(tank, "a", "b")
    error = tank.log_system_error("one", "it failed")
    tank.errors.act(error, "resolve", "ops")
    tank.emit_log("hello", thread_id="chat-1")
    home = ["--home", str(tank.settings.home), "--database-url", database_url]

    def run(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*words, *home])
        assert done.exit_code == code, done.output
        return done

    def answer(*words: str) -> Any:
        return json.loads(run(*words, "--json").stdout)

    run("parked", "discard", str(ids[0]), code=2)
    run("errors", "delete-resolved", code=2)
    assert len(tank.parked()) == 2
    discard = ("parked", "discard", str(ids[0]), "--yes", "--by", "eve")
    assert answer(*discard) == {"discarded": [ids[0]]}
    assert answer(*discard) == {"discarded": []}
    (row,) = audited(tank, "parked_discarded")
    assert (row["actor"], row["origin"]) == ("eve", "cli")
    assert answer("errors", "delete-resolved", "--yes", "--older-than", "1h") == {"deleted": 0}
    assert answer("errors", "delete-resolved", "--yes") == {"deleted": 1}
    jobs = answer("flush", "--matching", "chat", "--stream", LOGS)
    assert [job["result"]["partitions_processed"] for job in jobs] == [1]
    assert answer("flush", "--failing") == []
    run("flush", "chat-1", "--failing", code=2)
    run("jobs", "retry", jobs[0]["id"], "--failed-only", code=2)
    assert jobs[0]["status"] == JobStatus.COMPLETED


def test_who_erased_a_user_is_in_the_audit_once_and_without_the_name(tank: Surgetank) -> None:
    put(tank.checkpointer(), "hers", {"x": 1}, user_id="ada")
    tank.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgetank.app.erasure.Erasure._rewrite", lambda _: ["not now"])
        for _ in range(2):
            assert tank.erase_user("ada", by="root").state == "running"
    assert tank.erase_user("ada", by="root").state == "completed"
    (row,) = audited(tank, "user_erased")
    subject = hashlib.sha256(b"ada").hexdigest()
    assert (row["actor"], row["detail"]) == ("root", {"subject": subject})
    assert "ada" not in "".join(tank.audit.export()).replace(subject, "")
    assert tank.audit.verify().sound
