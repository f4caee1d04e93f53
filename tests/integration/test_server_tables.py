"""Tables over HTTP: which there are, and rows as JSON, lines of JSON and Arrow, by whom they are and by whom not."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer

NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
TABLES = """
    CREATE NAMESPACE IF NOT EXISTS app;
    CREATE TABLE IF NOT EXISTS app.notes (id BIGINT PRIMARY KEY, text TEXT NOT NULL DEFAULT 'none', at TIMESTAMPTZ);
    CREATE SHARED TABLE IF NOT EXISTS app.open (id BIGINT) WITH (ACCESS_LEVEL='write');
    CREATE SHARED TABLE IF NOT EXISTS app.rates (name TEXT) WITH (ACCESS_LEVEL='read');
    CREATE SHARED TABLE IF NOT EXISTS app.secret (name TEXT)
"""
NOTES = "/tables/app/notes/rows"


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN, server_max_body=4096)
    tank.sql(TABLES)
    with running(tank) as started:
        yield started


def send(
    client: httpx.Client, data: Any, form: str | None = None, to: str = NOTES, **more: Any
) -> httpx.Response:
    headers = more.pop("headers", {}) | ({"Content-Type": form} if form else {})
    if isinstance(data, pa.Table):
        data, headers["Content-Type"] = stream(data), ARROW
    if isinstance(data, bytes):
        return client.post(to, content=data, headers=headers, params=more)
    return client.post(to, json=data, headers=headers, params=more)


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def stored(server: Server, user: str, what: str = "id, text") -> list[tuple[Any, ...]]:
    found = server.tank.sql(f"SELECT {what} FROM app.notes ORDER BY 1", user=user)[0].rows
    assert found is not None
    return [tuple(row.values()) for row in found.to_pylist()]


def test_rows_of_all_forms_are_the_callers_own(server: Server) -> None:
    ada, bob = server.as_role("user", "ada"), server.as_role("admin", "bob")
    assert send(ada, [{"id": 1}, {"id": 2, "text": "tea", "at": "2026-11-28T09:00:00Z"}]).json() == {
        "rows": 2, "updated": 0, "ignored": 0, "repeated": False, "bad_rows": 0, "bad": [],
    }  # fmt: skip
    assert send(ada, b'{"id": 3}\n\n{"id": 4}\n', f"{NDJSON}; charset=utf-8").json()["rows"] == 2
    assert send(ada, pa.table({"id": [5], "text": ["jam"]})).json()["rows"] == 1
    assert send(ada, pa.table({"id": pa.array([], pa.int64())})).json()["rows"] == 0
    assert send(bob, [{"id": 1, "text": "bob's"}]).json()["rows"] == 1
    assert stored(server, "ada") == [
        (1, "none"), (2, "tea"), (3, "none"), (4, "none"), (5, "jam"),
    ]  # fmt: skip
    assert stored(server, "bob") == [(1, "bob's")]
    for foreign in ([{"id": 9, "_user": "ada"}], pa.table({"id": [9], "_user": ["ada"]})):
        refused = send(bob, foreign)
        assert refused.status_code == 422, foreign
        assert refused.json()["column"] == "_user"
    assert len(stored(server, "ada")) == 5


def test_a_bad_row_refuses_all_or_is_left_out_and_named(server: Server) -> None:
    ada = server.as_role("user", "ada")
    sent = [{"id": 1}, {"id": "x"}, {"id": 3, "text": None}, {"id": 4, "colour": 1}, 5, {"id": 1}]
    lines = b"\n".join(json.dumps(row).encode() for row in sent) + b"\nnonsense"
    for data, form in ((sent, None), (lines, NDJSON)):
        refused = send(ada, data, form)
        assert refused.status_code == 422
        body = refused.json()
        assert (body["code"], body["index"], body["column"]) == ("refused", 1, "id")
        assert "integer" in body["reason"]
    assert stored(server, "ada") == []
    done = send(ada, lines, NDJSON, on_bad="skip").json()
    assert (done["rows"], done["bad_rows"]) == (1, 6)
    assert [(each["index"], each["column"]) for each in done["bad"]] == [
        (1, "id"), (2, "text"), (3, "colour"), (4, None), (5, "id"), (6, None),
    ]  # fmt: skip
    assert stored(server, "ada") == [(1, "none")]
    table = pa.table({"id": [2, None, 1, 3]})
    assert send(ada, table).json()["index"] == 1
    done = send(ada, table, on_bad="skip").json()
    assert (done["rows"], [each["index"] for each in done["bad"]]) == (2, [1, 2])
    many = pa.table({"id": [*range(10, 2500), 3, 10]})  # it becomes a segment
    assert send(ada, many).json()["code"] == "conflict"
    done = send(ada, many, on_bad="skip").json()
    assert (done["rows"], [each["index"] for each in done["bad"]]) == (2490, [2490, 2491])
    assert stored(server, "ada", "count(*)") == [(2493,)]


def test_a_key_that_is_there_is_refused_left_alone_or_updated(server: Server) -> None:
    ada = server.as_role("user", "ada")
    assert send(ada, [{"id": 1, "text": "old"}]).json()["rows"] == 1
    new = [{"id": 1, "text": "new"}, {"id": 2}]
    refused = send(ada, new).json()
    assert (refused["code"], refused["index"], refused["column"]) == ("conflict", 0, "id")
    assert send(ada, new, on_conflict="nothing").json()["ignored"] == 1
    done = send(ada, new, on_conflict="update", update=["text"]).json()
    assert (done["updated"], done["rows"]) == (2, 0)
    assert stored(server, "ada") == [(1, "new"), (2, "none")]
    assert send(ada, new, on_conflict="update", update=["colour"]).status_code == 422
    assert (
        send(ada, [{"id": 7}], to="/tables/app/open/rows", on_conflict="update").status_code == 422
    )


def test_a_batch_that_is_sent_again_is_stored_once_also_while_the_database_is_away(
    make_tank: Any, private_postgres: PostgresServer
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url)
    tank.sql(TABLES)
    with running(tank) as server:
        ada, bob, key = (
            server.as_role("user", "ada"),
            server.as_role("user", "bob"),
            {"Idempotency-Key": "k-1"},
        )
        assert send(ada, [{"id": 1}], headers=key).json()["repeated"] is False
        assert bob.get("/me").status_code == 200
        private_postgres.kill()
        again = send(ada, [{"id": 1}], headers=key)
        assert (again.json()["repeated"], again.headers["idempotency-replayed"]) == (True, "true")
        assert send(ada, [{"id": 2}], headers=key).json()["code"] == "conflict"
        assert send(bob, [{"id": 2}], headers=key).json()["rows"] == 1  # another user's key
        bad = send(ada, [{"id": 3}], headers={"Idempotency-Key": "k 1"})
        assert bad.json()["code"] == "bad-idempotency-key"
        assert stored(server, "ada") == [(1, "none")]


def test_sql_and_rows_go_on_without_the_database_and_the_flush_waits_and_is_told(
    make_tank: Any, private_postgres: PostgresServer
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url)
    tank.sql(TABLES)
    with running(tank) as server:
        ada = server.as_role("user", "ada")
        assert send(ada, [{"id": 1, "text": "cold"}]).json()["rows"] == 1
        assert tank.tables.flush().ok
        asked = {"sql": "SELECT id, text FROM app.notes ORDER BY id"}
        assert ada.post("/sql", json=asked).json()["results"][0]["stale"] is False
        private_postgres.kill()
        assert send(ada, [{"id": 2, "text": "hot"}]).json()["rows"] == 1
        changed = "UPDATE app.notes SET text = 'changed' WHERE id = 1; INSERT INTO app.notes (id) VALUES (3)"
        assert ada.post("/sql", json={"sql": changed}).status_code == 200
        refused = send(ada, [{"id": 1}])  # its key is in a file
        assert refused.json()["code"] == "conflict"
        (seen,) = ada.post("/sql", json=asked).json()["results"]
        rows = [[1, "changed"], [2, "hot"], [3, "none"]]
        assert (seen["stale"], [list(row) for row in seen["rows"]]) == (True, rows)
        job = tank.tables.flush()
        assert (job.ok, job.status.value) == (False, "failed")
        assert "can't be reached" in (job.result.message or "")
        assert [each.partition for each in tank.status().failing] == ["app.notes/ada"]
        defined = server.admin.post("/sql", json={"sql": "CREATE TABLE t (a INT)"})
        assert defined.status_code == 503
        private_postgres.start()
        tank.parts.tables.open().flusher.breaker.probe_now()
        tank.parts.tables.open().hot.retry_now()
        assert tank.tables.flush().ok
        (seen,) = ada.post("/sql", json=asked).json()["results"]
        assert (seen["stale"], [list(row) for row in seen["rows"]]) == (False, rows)


def test_bodies_have_limits_and_large_ones_are_for_callers_who_are_known(server: Server) -> None:
    ada, line = server.as_role("user", "ada"), b'{"id": %d, "text": "' + b"x" * 1000 + b'"}\n'
    lines = b"".join(line % n for n in range(5))
    assert send(ada, lines, NDJSON).json()["rows"] == 5
    as_json = send(ada, b"[" + b",".join(lines.splitlines()) + b"]", "application/json")
    assert (as_json.status_code, as_json.json()["code"]) == (413, "too-large")
    assert "SURGETANK_SERVER_MAX_BODY" in as_json.json()["remedy"]
    chunks = iter([b" " * 2**20] * 17)
    too_large = ada.post(NOTES, content=chunks, headers={"Content-Type": NDJSON})
    assert too_large.status_code == 413
    assert "SURGETANK_TABLES_MAX_BODY" in too_large.json()["remedy"]
    for client in (server.client(), server.client("stk_" + "x" * 43)):
        assert send(client, lines, NDJSON).status_code == 401
    elsewhere = ada.post("/sql", content=lines, headers={"Content-Type": NDJSON})
    assert elsewhere.status_code == 413
    assert send(ada, b"id\n1\n", "text/csv").json()["code"] == "unsupported-media-type"


def test_only_administrators_insert_for_somebody_else_and_the_audit_has_it(server: Server) -> None:
    for role in ("user", "operator"):
        refused = send(server.as_role(role, "eve"), [{"id": 1}], as_user="ada")
        assert (refused.status_code, refused.json()["code"]) == (403, "role-needed")
    admin = server.as_role("admin", "root")
    assert send(admin, [{"id": 1}], as_user="ada").json()["rows"] == 1
    assert stored(server, "ada") == [(1, "none")]
    assert stored(server, "root") == []
    assert send(admin, [{"name": "x"}], to="/tables/app/secret/rows").json()["rows"] == 1
    as_ada = send(admin, [{"name": "x"}], to="/tables/app/secret/rows", as_user="ada")
    assert as_ada.status_code == 404  # with the rights of that user
    audit = admin.get("/audit?actor=root").json()["audit"]
    assert [each["action"] for each in audit].count("acted_as_user") == 2


def test_tables_are_listed_and_described_to_those_who_may_read_them(server: Server) -> None:
    ada, operator = server.as_role("user", "ada"), server.as_role("operator", "olga")
    send(ada, [{"id": 1}, {"id": 2}])
    names = [each["name"] for each in ada.get("/tables").json()["tables"]]
    assert names == ["notes", "open", "rates"]
    page = operator.get("/tables?limit=3").json()
    rest = operator.get("/tables", params={"limit": 3, "after": page["next"]}).json()
    assert [each["name"] for each in (*page["tables"], *rest["tables"])] == [*names, "secret"]
    assert rest["next"] is None
    shown = ada.get("/tables/APP/Notes").json()
    assert (shown["kind"], shown["primary_key"], shown["figures"]) == ("USER", ["id"], None)
    assert shown["columns"][1] == {
        "name": "text", "type": "TEXT", "nullable": False, "default": "'none'",
    }  # fmt: skip
    assert operator.get("/tables/app/notes").json()["figures"]["waiting_changes"] == 2
    server.tank.tables.flush("app.notes")
    figures = operator.get("/tables/app/notes").json()["figures"]
    assert (figures["waiting_changes"], figures["cold_rows"], figures["cold_files"]) == (0, 2, 1)
    missing, secret = ada.get("/tables/app/nothing"), ada.get("/tables/app/secret")
    assert (missing.status_code, secret.status_code) == (404, 404)
    assert missing.json()["detail"].replace("nothing", "secret") == secret.json()["detail"]
