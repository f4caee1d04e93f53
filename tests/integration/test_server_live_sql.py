"""Live queries of a real server: rows first, then changes in order, for their owner only, and after a break without
gap or double."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from surgetank.exceptions import NotFound
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.sql.parsing import parse

NOTES = "SUBSCRIBE TO app.notes"


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


@pytest.fixture
def notes(server) -> Table:
    return table_of(server.tank)


def table_of(tank: Any) -> Table:
    catalog = tank.parts.tables.open().catalog
    catalog.create_namespace("app", actor="me", if_not_exists=True)
    text = "CREATE TABLE IF NOT EXISTS app.notes (n BIGINT PRIMARY KEY, s TEXT)"
    action: Any = parse(text)[0].action
    made: Table = catalog.create(action, actor="me")
    return made


def insert(tank: Any, table: Table, n: int, user: str = "ada", s: str | None = None) -> int:
    hot = tank.parts.tables.open().hot
    first: int = hot.accept(table, [Change(user, Op.INSERT, (n, s))]).first
    return first


def follow(server: Server, token: str, sql: str = NOTES, **more: str) -> Any:
    return connect(
        f"{server.url.replace('http', 'ws')}/ws/sql?{urlencode({'sql': sql, **more})}",
        additional_headers={"Authorization": f"Bearer {token}"},
    )


def receive(ws: Any, count: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while len(events) < count:
        events += [json.loads(line) for line in ws.recv(timeout=20).split("\n")]
    assert len(events) == count
    return events


def test_rows_then_changes_and_after_a_break_without_gap_or_double(server, notes, make_tank):
    token, other = server.token("viewer", "ada"), make_tank()
    insert(server.tank, notes, 1)
    with follow(server, token) as ws:
        (rows,) = receive(ws, 1)
        assert [each["row"] for each in rows["rows"]] == [{"n": 1, "s": None}]
        insert(server.tank, notes, 2)
        insert(other, table_of(other), 3)
        insert(server.tank, notes, 4, user="bob")
        insert(server.tank, notes, 5)
        events = receive(ws, 3)
    assert [(e["type"], e["row"]["n"], e["user"]) for e in events] == [
        ("insert", n, "ada") for n in (2, 3, 5)
    ]
    assert server.tank.flush().ok
    insert(server.tank, notes, 6)
    with follow(server, token, after=events[0]["id"]) as ws:
        assert [e["row"]["n"] for e in receive(ws, 3)] == [3, 5, 6]


def test_server_sent_events_go_on_behind_the_last_one(server, notes):
    client = server.client(server.token("viewer", "ada"))
    after = insert(server.tank, notes, 1, s="x")
    insert(server.tank, notes, 2, s="x")
    insert(server.tank, notes, 3, s="y")
    headers = {"Last-Event-ID": str(after)}
    params = {"sql": f"{NOTES} WHERE s = 'x'"}
    with client.stream("GET", "/sql/live", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        insert(server.tank, notes, 4, s="x")
        found = [json.loads(line[6:]) for line in _some(lines, "data: ", 2)]
    assert [(e["type"], e["row"]["n"]) for e in found] == [("insert", 2), ("insert", 4)]


def _some(lines: Iterator[str], start: str, count: int) -> list[str]:
    found: list[str] = []
    for line in lines:
        if line.startswith(start):
            found.append(line)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize(
    ("sql", "status"),
    [("SUBSCRIBE TO app.other", 404), ("SELECT 1", 422), (f"{NOTES} WHERE n = (SELECT 1)", 422)],
)
def test_what_can_not_be_followed_is_a_problem(server, notes, sql, status):
    client = server.client(server.token("viewer", "ada"))
    assert client.get("/sql/live", params={"sql": sql}).status_code == status


async def test_an_engine_follows_with_or_without_a_loop(make_tank):
    tank = make_tank()
    notes = table_of(tank)
    with tank.live(NOTES, "ada") as query:
        insert(tank, notes, 1)
        found = iter(query)
        assert [next(found).type for _ in range(2)] == ["rows", "insert"]
        assert [each.caller for each in tank.live.listed()] == ["ada"]
    async for event in tank.live(NOTES):
        assert [each["user"] for each in event.body["rows"]] == ["ada"]
        break
    with pytest.raises(NotFound):
        tank.live("SUBSCRIBE TO app.other")


def test_live_queries_are_listed_each_caller_s_own_and_all_for_administrators(server, notes):
    listing = {"sql": "SELECT user_name, table_name, condition FROM system.live_queries ORDER BY 1"}
    clients = {name: server.as_role("viewer", name) for name in ("ada", "bob")}
    with (
        follow(server, server.token("viewer", "ada")) as ada,
        follow(server, server.token("viewer", "bob"), f"{NOTES} WHERE n > 1") as bob,
    ):
        receive(ada, 1)
        receive(bob, 1)
        found = {
            name: client.post("/sql", json=listing).json()["results"][0]["rows"]
            for name, client in (*clients.items(), ("admin", server.admin))
        }
    assert found["ada"] == [["ada", "app.notes", None]]
    assert found["bob"] == [["bob", "app.notes", "n > 1"]]
    assert found["admin"] == found["ada"] + found["bob"]
