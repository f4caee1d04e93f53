"""The console's audit and settings without a browser: what is shown, to whom, and that no secret is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.console import Person
from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer
from support.recycling import Databases
from support.waiting import wait_until
from support.webhook import Webhook, running_webhook
from surgetank import Surgetank
from surgetank.console.app import Console

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\" '"
SECRET = "a-very-secret-word"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Webhook]:
    with running_webhook() as started:
        yield started


@pytest.fixture(scope="module")
def server(
    databases: Databases, postgres_server: PostgresServer, tmp_path_factory: Any, receiver: Webhook
) -> Iterator[Server]:
    name = databases.take()
    tank = Surgetank(
        home=tmp_path_factory.mktemp("settings"), database_url=postgres_server.url_of(name), flush_in_process=False,
        flush_on_close=False, admin_token=ADMIN_TOKEN, webhook_secret=SECRET, logs_keep=86400.0,
        alert_urls=[receiver.url], support_url="https://help.example.com/",
    )  # fmt: skip
    with tank, running(tank, mounts=[Console]) as started:
        tank.audit.note("exported", HOSTILE, thread_id=HOSTILE, detail={"why": HOSTILE})
        tank.audit.note("exported", "ada", detail={"rows": [1, 2]})
        tank.audit.note("imported", "ada")
        yield started
    databases.give_back(name)


@pytest.fixture
def admin(server: Server) -> Person:
    return Person.of(server, ADMIN_TOKEN)


def test_the_audit_is_filtered_by_who_what_and_when(server: Server, admin: Person) -> None:
    page = admin.get("/audit")
    assert not [tag for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]
    assert f"why: {HOSTILE}" in page.text
    assert "ada exported" not in admin.get("/audit", actor=HOSTILE).text
    of_ada = admin.get("/audit", actor="ada").text
    assert 'ada exported {"rows": [1, 2]}' in of_ada
    assert "ada imported" in of_ada
    assert "why:" not in of_ada
    assert "why:" not in admin.get("/audit", action="imported").text
    assert (
        "ada"
        not in admin.get("/audit", thread=HOSTILE, action="exported").text.partition("From where")[
            2
        ]
    )
    assert "Nothing is recorded" in admin.get("/audit", until="2020-01-01T00:00").text
    assert "ada imported" in admin.get("/audit", since="2020-01-01", until="2999-01-01T00:00").text
    admin.get("/audit", 422, since="yesterday")
    lines = admin.client.get("/audit/export")
    assert lines.headers["content-disposition"].startswith("attachment")
    assert len(lines.text.splitlines()) >= 3
    operator = Person.of(server, server.token("operator", "op"))
    assert "All of it" not in operator.get("/audit").text
    operator.get("/audit/export", 403)


def test_a_token_is_shown_once_works_and_is_revoked(server: Server, admin: Person) -> None:
    made = admin.post(
        "/settings/tokens", 200, user="eve", role="viewer", expires="30d", label=HOSTILE
    )
    (secret,) = re.findall(r"stk_[\w-]{43}", made.text)
    assert "Good eve viewer" in made.text
    assert not [tag for tag, attrs in made.tags if tag == "img" and attrs.get("src") == "x"]
    assert secret not in admin.get("/settings/tokens").text
    eve = Person.of(server, secret)
    eve.get("/settings/tokens", 403)
    actions = [str(a["action"]) for tag, a in made.tags if tag == "form"]
    action = next(each for each in actions if "revoke" in each)  # the newest comes first
    admin.post(action.removeprefix("/console"), 200)
    assert eve.client.get("/threads").status_code == 303
    listed = admin.get("/settings/tokens").text
    assert "Revoked eve" in listed
    assert "by admin" in listed
    for user in ("", "a\nb", "x" * 201):
        refused = admin.post("/settings/tokens", 422, user=user, role="admin", label="kept")
        assert any(a.get("role") == "alert" for _, a in refused.tags)
        assert any(a.get("value") == "kept" for _, a in refused.tags)
    admin.post("/settings/tokens/nothing/revoke", 404)


def test_alert_channels_are_tested_and_their_addresses_hidden(
    server: Server, admin: Person, receiver: Webhook
) -> None:
    assert "Not used yet" in admin.get("/settings/alerts").text
    page = admin.post("/settings/alerts/test", 200)
    assert "the test arrived" in page.text
    assert "Delivers" in page.text
    assert "Delivered" in page.text
    assert f":{receiver.url.partition('127.0.0.1:')[2]}" not in page.text
    assert receiver.received


def test_settings_are_shown_with_their_origin_and_without_secrets(
    server: Server, admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGETANK_JOBS_KEPT", "1000")
    page = admin.get("/settings/effective")
    changed, rest = page.text.split("Those that have their default")
    assert "*** argument" in changed
    assert "https://help.example.com/ argument" in changed
    assert "SURGETANK_JOBS_KEPT" in changed
    assert "flush_age" in rest
    assert SECRET not in page.text
    assert ADMIN_TOKEN not in page.text
    operator = Person.of(server, server.token("operator", "op"))
    operator.get("/settings/effective", 403)
    assert not operator.get("/settings").links("/settings/tokens")


def test_health_storage_and_workers_are_told(server: Server, admin: Person) -> None:
    page = admin.get("/settings")
    assert "Fine Database PostgreSQL" in page.text
    assert "Problem" not in page.text
    assert "surgetank 0." in page.text
    stored = admin.get("/settings/storage").text
    assert "all are kept (no limit is set)" in stored
    assert "Log lines for 1 day Errors for 90 days" in stored
    role = server.tank.workers.role("serve", lambda: {"followers": 3})
    role.start()
    try:
        wait_until(server.tank.workers, "the row of this process", 30)
        workers = admin.get("/settings/workers/now").text
        assert "Alive" in workers
        assert "serves" in workers
    finally:
        role.stop()


def test_a_missing_database_is_a_problem_with_a_remedy(
    private_postgres: PostgresServer, make_tank: Any
) -> None:
    tank = make_tank(
        admin_token=ADMIN_TOKEN, database_url=private_postgres.url, connect_timeout=1.0
    )
    with running(tank, mounts=[Console]) as server:
        admin = Person.of(server, ADMIN_TOKEN)
        private_postgres.kill()
        page = admin.get("/settings").text
        assert "Problem Database" in page, page
        assert "What to do:" in page
        assert "only the buffer is shown" in admin.get("/settings/storage").text
        assert "can't be asked just now" in admin.get("/settings/workers").text
        assert "may be incomplete" in admin.get("/settings/alerts").text
        admin.get("/audit", 503)
        admin.get("/settings/tokens", 503)
        admin.get("/settings/effective")
