"""Errors without a browser: what is listed, counted and drawn, and what is done about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.console import Person
from support.http import ADMIN_TOKEN, Server, running
from surgetank.console.app import Console
from surgetank.streams.errors.answers import ErrorFilter
from surgetank.streams.errors.groups import HEALED_BY

HOSTILE = "</title><script>document.title='owned'</script>{{7*7}}\" ' &amp;"


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN), mounts=[Console]) as started:
        yield started


@pytest.fixture
def admin(server: Server) -> Person:
    return Person.of(server, ADMIN_TOKEN)


def report(
    server: Server, kind: str, *, times: int = 1, severity: str = "error", thread: str = "t"
) -> str:
    """The id of a group that happened so often."""
    tank = server.tank
    return [
        tank.log_system_error(kind, f"{kind} broke", severity=severity, thread_id=thread)
        for _ in range(times)
    ][-1]


@pytest.mark.parametrize("saved", [True, False], ids=["in the database", "hot"])
def test_errors_are_counted_by_type_and_drawn_over_time(
    server: Server, admin: Person, saved: bool
) -> None:
    assert "No error has happened yet." in admin.get("/errors/statistics").text
    late = report(server, "late", times=3)
    report(server, "gone", severity="critical")
    if saved:
        server.tank.flush()
        report(server, "late")  # what is hot is counted with what is stored
    else:
        report(server, "late")
    assert "2 errors are open, of 2 that happened 5 times." in admin.get("/errors").text
    page = admin.get("/errors/statistics")
    assert re.search("Error late 1 1 4 Critical gone 1 1 1", page.text)
    assert ("Conversations with several open errors t 2" in _short(page.text)) == saved
    assert page.links("error_type=late")
    drawn = admin.client.get("/errors/series?hours=24").json()
    sums = {line["label"]: sum(line["values"]) for line in drawn["charts"]["occurrences"]}
    assert sums == {"info": 0, "warning": 0, "error": 4, "critical": 1}
    assert drawn["at"] == sorted(drawn["at"])
    assert len(admin.client.get("/errors/series?hours=720").json()["at"]) in (31, 32)
    (line,) = admin.client.get(f"/errors/{late}/series").json()["charts"]["occurrences"]
    assert sum(line["values"]) == 4
    assert sum(line["values"][-2:]) == 4
    assert f"/console/errors/{late}/series" in admin.get(f"/errors/{late}").html


def _short(text: str) -> str:
    return re.sub(r"Conversation Open errors Times Last ", "", text)


def test_what_healed_what_came_back_and_what_is_snoozed_is_said(
    server: Server, admin: Person
) -> None:
    tank = server.tank
    healed, back, quiet = (report(server, kind) for kind in ("healed", "back", "quiet"))
    tank.errors.act(healed, "resolve", HEALED_BY, notes="what waited is saved")
    tank.errors.act(back, "resolve", "ops")
    report(server, "back")
    page = admin.post("/errors/act", 200, action="snooze", until="7d", id=quiet, state="all")
    for kind, word in (("healed", "Healed"), ("back", "Came back"), ("quiet", "Snoozed")):
        assert re.search(f"{kind} {word} {kind} broke", page.text), page.text
    page = admin.get(f"/errors/{healed}")
    assert "Resolved by itself" in page.text
    assert "what waited is saved" in page.text
    assert "1 time, last" in admin.get(f"/errors/{back}").text


def test_resolved_errors_are_deleted_by_a_filter_and_open_ones_stay(
    server: Server, admin: Person
) -> None:
    tank = server.tank
    ids = {kind: report(server, kind) for kind in ("old_a", "old_b", "open", "other")}
    for kind in ("old_a", "old_b", "other"):
        tank.errors.act(ids[kind], "resolve", "ops")
    tank.flush()
    assert "Delete all that are resolved" not in admin.get("/errors").text
    page = admin.get("/errors", state="resolved", text="old")
    assert "Delete all that are resolved and match" in page.text
    page = admin.post("/errors/delete", 200, text="old", severity="", error_type="")
    assert "2 were deleted." in page.text
    assert _types(server) == {"open", "other"}
    assert tank.errors.delete_resolved(ErrorFilter(severity="critical"), "ops") == 0
    assert tank.errors.delete_resolved(ErrorFilter(), "ops", most=5) == 1
    assert _types(server) == {"open"}
    tank.flush()
    assert _types(server) == {"open"}


def _types(server: Server) -> set[str]:
    return {group.error_type for group in server.tank.errors.find().errors}


def test_what_is_hostile_is_text(server: Server, admin: Person) -> None:
    error = report(server, HOSTILE, thread=HOSTILE, times=2)
    report(server, "other", thread=HOSTILE)
    server.tank.flush()
    for page in (
        admin.get("/errors"), admin.get(f"/errors/{error}"), admin.get("/errors/statistics"),
        admin.get("/errors", state="all", error_type=HOSTILE, text="{{7*7}}"),
    ):  # fmt: skip
        assert "{{7*7}}" in page.text
        assert "'owned'</script>" not in page.html
