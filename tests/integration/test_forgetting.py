"""A deleted thread takes along what was told of it: log, events, originals, references in
errors."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.http import ADMIN_TOKEN, running
from support.savers import put
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.events.types import Incident, Severity

SECRET = "what-ada-said"


def live(tank: Surgetank, thread: str = "t") -> str:
    """A thread with all that can be told of it; returns the id of an error."""
    put(tank.checkpointer(), thread, {"x": SECRET}, user_id="ada", note=f"a\u0000{SECRET}")
    tank.emit_log(SECRET, thread_id=thread, user_id="ada")
    tank.broadcast_run_event("said", thread_id=thread, text=SECRET)
    tank.events.raise_incident(
        Incident(f"thread:{thread}", "checkpoints", thread, Severity.WARNING, 1.0, "m", SECRET)
    )
    return tank.log_system_error("odd", "it broke", thread_id=thread, context={"said": SECRET})


def told(tank: Surgetank, error: str, thread: str = "t") -> dict[str, Any]:
    """All that can be found out about a thread."""
    detail = tank.errors.detail(error)
    return {
        "lines": [line.message for line in tank.logs(thread)],
        "events": [event.type for event in tank.events.thread_events(thread)[1]],
        "originals": tank.events.originals(thread_id=thread),
        "incidents": [i for i in tank.events.incidents() if i.thread_id == thread],
        "errors": [found.id for found in tank.errors.find(load_filter(thread)).errors],
        "error": (
            detail.group.thread_id,
            dict(detail.group.error_context),
            [t["thread_id"] for t in detail.threads],
        ),
    }


def load_filter(thread: str) -> Any:
    from surgetank.streams.errors.answers import ErrorFilter

    return ErrorFilter(thread_id=thread)


NOTHING: dict[str, Any] = {
    "lines": [],
    "events": [],
    "originals": [],
    "incidents": [],
    "errors": [],
    "error": (None, {}, []),
}


@pytest.mark.parametrize("flushed", [False, True], ids=["hot", "cold"])
@pytest.mark.parametrize("by", ["delete_thread", "prune", "idle"])
def test_nothing_that_was_told_of_a_deleted_thread_is_left(
    make_tank: MakeTank, flushed: bool, by: str
) -> None:
    tank = make_tank(debug_originals=True)
    error = live(tank)
    if flushed or by == "idle":
        assert tank.flush().ok
        assert tank.events.originals(thread_id="t")
    if by == "delete_thread":
        tank.checkpointer().delete_thread("t")
    elif by == "prune":
        tank.checkpointer().prune(["t"], strategy="delete")
    else:
        assert tank.parts.retention.delete_idle_threads(1e-9).deleted_threads == ("t",)
    at_once = told(tank, error)
    assert (
        at_once | {name: NOTHING[name] for name in ("error", "errors") if flushed or by == "idle"}
        == NOTHING
    )
    assert tank.flush().ok
    assert told(tank, error) == NOTHING, "and after the flush, errors in the database included"


def test_what_comes_after_the_deletion_stays_and_is_flushed_in_order(
    tank: Surgetank, database_url: str
) -> None:
    live(tank)
    tank.emit_log("older", thread_id="other")
    tank.checkpointer().delete_thread("t")
    tank.emit_log("the next one's", thread_id="t")
    error = tank.log_system_error("odd", "it broke", thread_id="t", context={"mine": 1})
    for _ in range(2):
        found = told(tank, error)
        assert found["lines"] == ["the next one's"]
        assert found["events"] == ["log"]
        assert found["errors"] == [error]
        assert found["error"] == ("t", {"mine": 1}, ["t"])
        assert [line.message for line in tank.logs("other")] == ["older"]
        assert tank.flush().ok
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT thread_id, message FROM surgetank.thread_logs ORDER BY 1"
        ).fetchall()
    assert rows == [("other", "older"), ("t", "the next one's")]


def test_a_parked_line_goes_with_its_thread(tank: Surgetank, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.thread_logs ADD CONSTRAINT no CHECK (message <> 'bad')"
        )
    tank.emit_log("good", thread_id="t")
    tank.emit_log("bad", thread_id="t")
    tank.flush()
    assert len(tank.parked()) == 1
    tank.checkpointer().delete_thread("t")
    assert tank.parked() == []
    assert list(tank.logs("t")) == []


def test_the_next_owner_of_an_id_is_its_only_reader_also_right_after_the_flush(
    make_tank: MakeTank,
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with running(tank) as server:
        ada, bob = server.as_role("user", "ada"), server.as_role("user", "bob")
        live(tank)
        assert ada.get("/threads/t/state").status_code == 200  # remembered from now on
        tank.checkpointer().delete_thread("t")
        tank.flush()
        put(tank.checkpointer(), "t", {"x": "bob's"}, user_id="bob")
        for _ in range(2):
            for what in ("state", "history", "logs", "events"):
                assert ada.get(f"/threads/t/{what}").status_code == 404, what
                answer = bob.get(f"/threads/t/{what}")
                assert answer.status_code == 200
                assert SECRET not in answer.text
            tank.flush()
