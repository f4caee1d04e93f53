"""What each role may read of an incident: a user the cause and a reference, an operator what the
database said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer
from support.savers import put
from support.tanks import MakeTank
from surgetank.events.types import EventType, Severity
from surgetank.exceptions import ConfigurationError
from surgetank.notify.news import News
from surgetank.server.access.disclosure import UNREADABLE

SECRET = "role app_rw at db-7.internal refuses the row (bob, 4111-1111)"
CRITICAL = "checkpoint_flush_critical_error"


def refuse_everything(url: str, sqlstate: str) -> None:
    """The database refuses every checkpoint, and says more than users should know."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{SECRET}'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON surgetank.checkpoints FOR EACH ROW EXECUTE "
            "FUNCTION public.refuse()"
        )


@pytest.fixture(params=["42501", "23514"], ids=["fatal", "parked"])
def troubled(
    make_tank: MakeTank, database_url: str, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A server with a thread of ada's that can't be saved."""
    tank = make_tank(admin_token=ADMIN_TOKEN, debug_originals=True)
    put(tank.checkpointer(), "own", {"x": "value-of-ada"}, user_id="ada", score=float("nan"))
    refuse_everything(database_url, request.param)
    tank.flush()
    with running(tank) as server:
        yield server


def hello(server: Server, path: str, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    with connect(server.url.replace("http", "ws") + path, additional_headers=headers) as ws:
        found: dict[str, Any] = json.loads(str(ws.recv(timeout=20)).split("\n", maxsplit=1)[0])
    return found


def everything_seen(server: Server, token: str) -> str:
    """All that a caller gets to read about the thread, by every way there is."""
    client = server.client(token)
    seen = [
        client.get(f"/threads/own/{what}?limit=100").text for what in ("events", "logs", "history")
    ]
    seen += [
        client.get("/threads").text,
        client.get("/threads/own/state").text,
        client.get("/health/ready").text,
    ]
    for path in ("/ws/threads/own?after=0", "/ws/events?after=0"):
        headers = {"Authorization": f"Bearer {token}"}
        with connect(server.url.replace("http", "ws") + path, additional_headers=headers) as ws:
            seen.append(str(ws.recv(timeout=20)))
            assert CRITICAL in seen[-1], "among the incidents of the first message"
            while server.tank.parked() and f'"type":"{CRITICAL}"' not in seen[-1].split("\n")[-1]:
                seen.append(str(ws.recv(timeout=20)))  # the event itself
    with client.stream("GET", "/sse/threads/own?after=0") as stream:
        text, until = "", CRITICAL if server.tank.parked() else "subscribed"
        for piece in stream.iter_text():
            text += piece
            if f"event: {until}" in text and text.endswith("\n\n"):
                break
    return "\n".join([*seen, text])


def test_a_user_reads_the_cause_and_a_reference_and_nothing_of_what_the_database_said(
    troubled: Server,
) -> None:
    for role in ("viewer", "reviewer"):
        seen = everything_seen(troubled, troubled.token(role, "ada"))
        assert CRITICAL in seen
        for told in (
            "app_rw",
            "db-7",
            "4111",
            "InsufficientPrivilege",
            "CheckViolation",
            "RaiseException",
        ):
            assert told not in seen


def test_the_reference_leads_an_administrator_to_the_system_error(troubled: Server) -> None:
    answer = troubled.as_role("viewer", "ada").get("/threads/own/events?limit=100").json()
    (critical,) = answer["incidents"]
    events = [event for event in answer["events"] if event["type"] == CRITICAL]
    assert [e["message"] for e in events] in ([], [critical["message"]]), "[]: it is of the sink"
    details = critical["error_details"]
    assert details["error"]
    assert details["reference"] in critical["message"], (
        "without a support_url the banner shows what to quote"
    )
    found = troubled.admin.get(f"/admin/system-errors/{details['reference']}").json()
    assert SECRET in found["error_message"]
    (incident,) = hello(troubled, "/ws/threads/own", troubled.token("viewer", "ada"))["incidents"]
    assert incident["error_details"] == {name: details[name] for name in ("error", "reference")}
    logs = troubled.as_role("viewer", "ada").get("/threads/own/logs").json()
    assert logs["incidents"] == answer["incidents"]
    if troubled.tank.parked():
        references = [line["fields"].get("reference") for line in logs["lines"]]
        assert details["reference"] in references


def test_operators_read_what_the_database_said(troubled: Server) -> None:
    token = troubled.token("operator", "olga")
    incidents = hello(troubled, "/ws/events", troubled.token("admin", "root"))["incidents"]
    assert any(SECRET in incident["error_details"]["error"] for incident in incidents)
    client = troubled.client(token)
    assert SECRET in client.get("/buffer").text + client.get("/parked").text


def test_the_buffers_picture_hides_from_operators_the_originals_that_jobs_hide(
    make_tank: MakeTank,
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    put(
        tank.checkpointer(),
        "own",
        {"x": 1},
        user_id="ada",
        score=float("inf"),
        note="a\u0000secret-of-ada",
    )
    job = tank.flush()
    assert any("secret-of-ada" in r["original"] for r in job.result["replacements"])
    with running(tank) as server:
        operator, admin = server.as_role("operator", "olga"), server.admin
        for path in ("/buffer", f"/jobs/{job.id}", "/jobs"):
            assert "secret-of-ada" not in operator.get(path).text
        assert "replacements" in operator.get("/buffer").text
        assert "secret-of-ada" in admin.get("/buffer").text


def test_errors_that_users_get_name_no_host_and_no_database(
    make_tank: MakeTank, database_url: str, postgres_server: PostgresServer
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    put(tank.checkpointer(), "own", {"x": 1}, user_id="ada")
    tank.emit_log("a line", thread_id="own")
    tank.flush()
    name = database_url.partition("?")[0].rpartition("/")[2]
    with running(tank) as server:
        viewer, operator = server.as_role("viewer", "ada"), server.as_role("operator", "ada")
        for client in (viewer, operator):
            assert client.get("/threads/own/logs").json()["problem"] is None
        close_database(postgres_server, name)
        tank.parts.database.reset()
        assert viewer.get("/threads/own/logs").json()["problem"] == UNREADABLE
        refused = viewer.get("/threads/own/history")  # the state itself is kept
        assert refused.status_code == 503
        assert name not in refused.text
        assert name in operator.get("/threads/own/logs").json()["problem"]


def close_database(server: PostgresServer, name: str) -> None:
    with server.admin() as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )


def test_whatever_is_told_of_a_thread_has_a_reference_and_none_of_its_details(
    make_tank: MakeTank,
) -> None:
    tank = make_tank()
    tank.parts.reporting.notifier.tell(
        News(
            "A part of it is lost.", Severity.CRITICAL, "own", EventType.FLUSH_CRITICAL, "buffer_damaged", SECRET,
            context={"stream": "checkpoints", "path": SECRET}, group=("checkpoints", "own"),
        )
    )  # fmt: skip
    (event,) = [e for e in tank.events.thread_events("own")[1] if e.type == CRITICAL]
    (line,) = tank.logs("own")
    assert SECRET not in f"{event.data} {line}"
    assert line.fields["reference"] == event.data["error_details"]["reference"]
    assert SECRET in tank.errors.get(event.data["error_details"]["reference"]).error_message


# -- where help is


@pytest.mark.parametrize("url", ["https://help.example/surgetank?x=1", "mailto:help@example.org"])
def test_the_support_url_stands_in_the_critical_event_in_incidents_and_in_the_status(
    make_tank: MakeTank, database_url: str, url: str
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN, support_url=url)
    put(tank.checkpointer(), "own", {"x": 1}, user_id="ada")
    refuse_everything(database_url, "42501")
    tank.flush()
    (event,) = [e for e in tank.events.tail(0)[1] if e.type == CRITICAL]
    assert event.data["error_details"]["support_url"] == url
    assert event.data["error_details"]["reference"] not in event.data["message"]
    status = tank.status().to_dict()
    assert status["support_url"] == url
    assert event.data["error_details"]["reference"] in [
        notice["reference"] for notice in status["notices"]
    ]
    with running(tank) as server:
        (incident,) = hello(server, "/ws/threads/own", server.token("viewer", "ada"))["incidents"]
        assert incident["error_details"]["support_url"] == url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "http://help.example", "data:text/html,x", "https://", "mailto:", "mailto://x@y", "help",
        'https://a/"onclick="x', "https://a/<script>", "https://a/ b", "https://a/\nb", "HTTPS:javascript:x",
    ],
)  # fmt: skip
def test_a_support_url_that_is_no_safe_link_is_refused(make_tank: MakeTank, url: str) -> None:
    with pytest.raises(ConfigurationError, match="support_url"):
        make_tank(support_url=url)
