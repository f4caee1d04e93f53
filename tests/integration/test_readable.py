"""What is written can be read back by every reader, and a record that can't be read never takes its
neighbours."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from support.values import LEAVES, TEXT
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.encode import jsontext
from surgetank.exceptions import EntryRejected
from surgetank.job_result import JobResult
from surgetank.model import Failure, FailureKind, FlushJob, JobStatus, Record
from surgetank.notify.alerts.facts import FactFinder
from surgetank.streams.errors import groups
from surgetank.streams.errors.groups import ErrorReport
from surgetank.streams.logs import line as logline

HUGE = st.sampled_from([18, 19, 20, 308, 309, 400, 4000, 5000]).map(lambda digits: 10**digits)
VALUES = st.recursive(
    LEAVES | HUGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | HUGE, inner, max_size=3),
    max_leaves=5,
)
CONTEXTS = st.dictionaries(TEXT, VALUES, max_size=3)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_the_codec_reads_what_it_writes(value):
    written = jsontext.dumps(value)
    read = jsontext.loads(written)
    assert (
        jsontext.dumps_clean(read) == written or jsontext.loads(jsontext.dumps_clean(read)) == read
    )


def test_an_integer_comes_back_as_it_was_however_many_digits_it_has():
    value = {"a": [2**63, 2**64, -(10**20), 10**308, 10**309, 10**4000]}
    assert jsontext.loads(jsontext.dumps(value)) == value


def facts(tank: Surgetank) -> Any:
    parts = tank.parts
    return FactFinder(
        parts.buffer, parts.database, tank.errors, clock=tank.now, sinks={}, thread_errors=2,
        streams=parts.streams, critical_after_s=60.0,
    ).gather()  # fmt: skip


def readers(tank: Surgetank, server: Server) -> dict[str, Callable[[], Any]]:
    """Everything that reads what applications tell; each raises if it fails."""
    admin = server.admin

    def get(path: str) -> Any:
        answer = admin.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    def cli(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return json.loads(done.stdout)

    return {
        "errors": lambda: tank.errors.find().errors,
        "counts": tank.errors.counts,
        "trends": lambda: tank.errors.trends(since=0.0),
        "facts": lambda: facts(tank).errors,
        "logs": lambda: tank.logs("t").lines,
        "events": lambda: tank.events.tail(0),
        "errors route": lambda: get("/admin/system-errors"),
        "threads route": lambda: get("/threads"),
        "state route": lambda: get("/threads/t/state"),
        "logs route": lambda: get("/threads/t/logs"),
        "events route": lambda: get("/threads/t/events"),
        "jobs route": lambda: get("/jobs"),
        "buffer route": lambda: get("/buffer"),
        "parked route": lambda: get("/parked"),
        "errors command": lambda: cli("errors", "list", "--all"),
        "jobs command": lambda: cli("jobs", "list"),
        "parked command": lambda: cli("parked", "list"),
    }


def read_all(found: dict[str, Callable[[], Any]]) -> None:
    for name, read in found.items():
        try:
            read()
        except Exception as error:
            raise AssertionError(f"the reader {name!r} fails") from error


def test_whatever_applications_tell_every_reader_reads_hot_and_cold(make_tank, monkeypatch):
    tank = make_tank(admin_token=ADMIN_TOKEN)
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", tank.settings.database_url.get_secret_value())
    saver = tank.checkpointer()
    put(saver, "t", {"n": 1})
    with running(tank) as server:
        found = readers(tank, server)

        @given(CONTEXTS, TEXT, st.booleans())
        @settings(
            max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None,
        )  # fmt: skip
        def tell(context: dict[str, Any], text: str, flush: bool) -> None:
            tank.log_system_error("app", text, severity="critical", thread_id="t", context=context)
            tank.emit_log(text, thread_id="t", fields=context)
            tank.broadcast_run_event("step", thread_id="t", body=context)
            with suppress(EntryRejected):  # refused by name
                put(saver, "t", {"n": 1}, step=1, note=next(iter(context.values()), None))
            for name in (
                "errors",
                "facts",
                "logs",
                "events",
                "threads route",
                "errors route",
                "events route",
            ):
                found[name]()
            if flush:
                assert tank.flush().ok

        tell()
        read_all(found)
        assert tank.flush().ok
        read_all(found)


def test_an_integer_of_400_digits_is_shown_to_everybody(make_tank, monkeypatch):
    tank = make_tank(admin_token=ADMIN_TOKEN)
    monkeypatch.setenv("SURGETANK_HOME", str(tank.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", tank.settings.database_url.get_secret_value())
    put(tank.checkpointer(), "t", {"n": 1}, big=10**400)
    tank.log_system_error("app", "m", severity="critical", context={"n": 10**400})
    tank.emit_log("m", thread_id="t", n=10**400)
    tank.broadcast_run_event("step", thread_id="t", n=10**400)
    with running(tank) as server:
        for _ in ("hot", "cold"):
            read_all(readers(tank, server))
            assert tank.errors.find().errors[0].error_context == {"n": 10**400}
            assert tank.logs("t").lines[0].fields == {"n": 10**400}
            assert len(facts(tank).errors) == 1
            assert tank.flush().ok


# -- records that can't be read


def append(tank: Surgetank, stream: str, partition: str, key: bytes, value: bytes) -> None:
    tank.parts.buffer.append(stream, partition, (Record(key, value),))


def test_an_unreadable_error_is_shown_as_such_and_parked_and_its_neighbours_arrive(make_tank):
    tank = make_tank(admin_token=ADMIN_TOKEN)
    append(tank, groups.STREAM, "f" * 32, groups.KEY, b'["a form of the future", {"x": \xff')
    append(tank, groups.STREAM, "e" * 32, groups.KEY, b'["action","elope","me",1.0,"",null]')
    tank.log_system_error("app", "a neighbour", severity="critical")
    for _ in ("hot", "cold"):
        found = tank.errors.find().errors
        assert "app" in {g.error_type for g in found}
        shown = [g.error_context["begins"] for g in found if g.error_type == groups.UNREADABLE]
        assert any("a form of the future" in begins for begins in shown)
        assert any("elope" in begins for begins in shown)
        assert "app" in {g.error_type for g in facts(tank).errors}
        tank.flush()
    assert len(tank.parked()) == 2
    assert all("begin" in entry.failure.message for entry in tank.parked())
    assert tank.parts.buffer.last_seq(groups.STREAM) == 0


def test_an_unreadable_line_is_shown_in_its_place_and_parked(make_tank):
    tank = make_tank()
    tank.emit_log("before", thread_id="t")
    append(tank, logline.STREAM, "t", logline.KEY, b"\x00\x01 no line")
    tank.emit_log("after", thread_id="t")
    messages = [line.message for line in tank.logs("t").lines]
    assert messages[0] == "before"
    assert messages[2] == "after"
    assert "can't be read" in messages[1]
    assert "no line" in tank.logs("t").lines[1].fields["begins"]
    tank.flush("thread_logs")
    assert len(tank.parked()) == 1
    assert {line.message for line in tank.logs("t").lines} >= {"before", "after"}


def test_an_unreadable_event_job_reason_or_incident_is_shown_as_such(make_tank):
    tank = make_tank(admin_token=ADMIN_TOKEN)
    put(tank.checkpointer(), "t", {"n": 1})
    tank.broadcast_run_event("step", thread_id="t", n=1)
    tank.broadcast_run_event("step", thread_id="t", n=2)
    append(tank, logline.STREAM, "t", logline.KEY, b"no line")
    tank.flush("thread_logs")
    assert tank.flush().ok
    home = tank.settings.home
    with sqlite3.connect(home / "buffer-events.db") as events:
        events.execute("UPDATE events SET body = x'ff00' WHERE type = 'step' AND seq = 1")
        events.execute("UPDATE incidents SET severity = 'apocalyptic'")
    events.close()
    with sqlite3.connect(home / "buffer.db") as buffer:
        buffer.execute("UPDATE parked SET failure = 'not json'")
        buffer.execute("UPDATE jobs SET body = '{\"future\": 1}' WHERE stream = 'checkpoints'")
    buffer.close()
    with running(tank) as server:
        told = server.admin.get("/threads/t/events")
        assert told.status_code == 200, told.text
        steps = [e for e in told.json()["events"] if e["type"] == "step"]
        assert "unreadable" in steps[0]
        assert steps[1]["n"] == 2
        assert server.admin.get("/jobs").status_code == 200
        assert server.admin.get("/parked").status_code == 200
    assert tank.events.incidents()[0].severity == "critical"
    assert "can't be read" in tank.parked()[0].failure.message
    assert any("can't be read" in job.result.get("message", "") for job in tank.jobs())
    assert tank.status().parked == 1


def test_jobs_and_reasons_with_any_text_are_stored_and_read(tank):
    failure = Failure(FailureKind.REJECTED, "a \ud800 b \x00", "Odd", stack_trace="\udfff")
    job = FlushJob(
        uuid.uuid4().hex, "checkpoints", "manual", JobStatus.FAILED, 1.0, "n",
        result=JobResult.of({"message": "\ud800", "n": 10**400, "odd": object()}),
    )  # fmt: skip
    tank.parts.buffer.save_job(job)
    assert tank.jobs.get(job.id).result["n"] == 10**400
    put(tank.checkpointer(), "t", {"n": 1})
    from surgetank.buffer.coordination import Due

    leased = tank.parts.buffer.lease("checkpoints", Due(force=True), owner="me", ttl_s=5.0)
    tank.parts.buffer.postpone(leased[0].lease, attempts=1, next_attempt_at=0.0, failure=failure)
    assert json.dumps(tank.parts.buffer.states()[0].failure.message).isascii()
    tank.parts.buffer.states()[0].failure.message.encode()


def test_a_group_in_the_database_with_a_number_beyond_python_is_read(tank):
    tank.log_system_error("app", "m", context={"a": 1})
    assert tank.flush("system_errors").ok
    with tank.parts.database.connection() as connection:
        connection.execute("""UPDATE surgetank.system_errors SET error_context = '{"n": 1e5000}'""")
    (group,) = tank.errors.find().errors
    assert str(group.error_context["n"]).startswith("1000")


def test_a_report_is_packed_whatever_its_names_are():
    report = ErrorReport(
        "a\x00\ud800", "m\x00", thread_id="t", fingerprint="f", context={"\ud800": 1}
    )
    assert isinstance(groups.unpack(report.pack()), ErrorReport)
