"""The HTTP server as a client meets it: real uvicorn, real PostgreSQL."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from support.buffers import FakeClock
from support.http import ADMIN_TOKEN, Server, running
from support.savers import ids, put, put_chain
from support.waiting import wait_until
from surgetank.database.queries import queries


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


def pages(client: httpx.Client, url: str, noun: str, **params: Any) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    while True:
        body = client.get(url, params=params).json()
        found += body[noun]
        if body["next"] is None:
            return found
        params = {**params, "after": body["next"]}


# -- threads


def test_the_state_of_a_thread_is_json_with_what_was_replaced(server):
    saver = server.tank.checkpointer()
    put(saver, "t", {"score": float("nan"), "text": "hello", "big": 2**80}, user_id="ada")
    ada = server.as_role("viewer", "ada")
    for flushed in (False, True):
        if flushed:
            assert server.tank.flush().ok
        body = ada.get("/threads/t/state").json()
        assert body["values"] == {"score": None, "text": "hello", "big": 2**80}
        assert body["metadata"]["user_id"] == "ada"
        assert body["replaced"][0]["path"] == "$.values.score"
        listed = ada.get("/threads").json()
        assert [(t["thread_id"], t["owner"], t["waiting"]) for t in listed["threads"]] == [
            ("t", "ada", not flushed)
        ]
        history = ada.get("/threads/t/history").json()
        assert [c["checkpoint"] for c in history] == [body["checkpoint"]]


def test_pending_writes_are_part_of_the_state(server):
    saver = server.tank.checkpointer()
    at = put(saver, "t", {"x": 1})
    saver.put_writes(at, [("x", {"ask": "approve?"})], "task-1")
    body = server.admin.get("/threads/t/state").json()
    assert body["pending_writes"] == [
        {"task_id": "task-1", "channel": "x", "value": {"ask": "approve?"}}
    ]


def test_large_values_are_cut_and_said_to_be(server):
    put(
        server.tank.checkpointer(), "t", {"items": ["x" * 90] * 100, "text": "y" * 5000, "small": 1}
    )
    body = server.admin.get("/threads/t/state", params={"value_bytes": 1000}).json()
    assert body["values"]["small"] == 1
    assert body["values"]["text"] == {"$omitted": "too large", "$bytes": 5002}
    assert body["values"]["items"]["$items"] == 100
    assert body["values"]["items"]["$tail"] == ["x" * 90] * 10
    assert {o["path"] for o in body["omitted"]} == {"$.values.items", "$.values.text"}


def test_values_that_can_t_be_read_here_are_marked(server):
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    put(server.tank.checkpointer(serde=serde), "t", {"x": "secret"}, user_id="ada")
    body = server.admin.get("/threads/t/state").json()
    assert body["values"]["x"] == {"$encrypted": "aes"}
    assert server.as_role("viewer", "ada").get("/threads/t/state").status_code == 404
    # without owner
    assert server.as_role("operator", "ada").get("/threads/t/state").status_code == 200


def test_messages_are_shown_as_the_dicts_of_their_fields(server):
    from langchain_core.messages import HumanMessage

    put(server.tank.checkpointer(), "t", {"messages": [HumanMessage("hello", id="1")]})
    (message,) = server.admin.get("/threads/t/state").json()["values"]["messages"]
    assert (message["content"], message["type"]) == ("hello", "human")


@pytest.mark.parametrize("flushed", [0, 4, 7])
def test_the_history_comes_in_pages_without_gap_or_double(server, flushed):
    saver = server.tank.checkpointer()
    configs: list[Any] = []
    for step in range(7):
        if step == flushed:
            server.tank.flush()
        configs.append(
            put(saver, "t", {"step": step}, parent=configs[-1] if configs else None, step=step)
        )
    if flushed == 7:
        server.tank.flush()
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while page := server.admin.get("/threads/t/history", params={"limit": 3, **more}).json():
        found += page
        more = {"before": page[-1]["checkpoint"]["checkpoint_id"]}
    assert [c["checkpoint"]["checkpoint_id"] for c in found] == ids(configs)[::-1]
    assert [c["values"] for c in found] == [{"step": step} for step in range(6, -1, -1)]
    assert found[0]["parent_checkpoint"] == found[1]["checkpoint"]
    for answer in (
        server.admin.get(
            "/threads/t/state", params={"checkpoint_id": found[3]["checkpoint"]["checkpoint_id"]}
        ),
        server.admin.get(f"/threads/t/state/{found[3]['checkpoint']['checkpoint_id']}"),
        server.admin.post(
            "/threads/t/state/checkpoint", json={"checkpoint": found[3]["checkpoint"]}
        ),
    ):
        assert answer.json()["values"] == {"step": 3}


def test_ids_may_hold_slashes_and_anything_else_that_can_be_encoded(server):
    for name in (
        "user/1",
        "a/state",
        "two\nlines",
        "ends so\n",
        "50 %? #\u00e9\U0001f600",
        "x" * 500,
    ):
        put(server.tank.checkpointer(), name, {"name": name}, user_id="ada")
        state = server.as_role("viewer", "ada").get(f"/threads/{quote(name, safe='')}/state")
        assert state.status_code == 200, state.text
        assert state.json()["values"] == {"name": name}


def test_subgraphs_have_a_namespace_of_their_own(server):
    saver = server.tank.checkpointer()
    put(saver, "t", {"x": "root"})
    put(saver, "t", {"x": "inner"}, ns="sub:1")
    assert server.admin.get("/threads/t/state", params={"ns": "sub:1"}).json()["values"] == {
        "x": "inner"
    }
    assert len(server.admin.get("/threads/t/history", params={"ns": "sub:1"}).json()) == 1
    assert server.admin.get("/threads/t/state", params={"ns": "none"}).status_code == 404
    assert server.admin.get("/threads/t/history", params={"ns": "none"}).json() == []


@pytest.mark.parametrize("owner", [None, "ada"])
def test_threads_are_listed_newest_first_hot_and_cold_as_one(server, owner):
    saver = server.tank.checkpointer()
    names = [f"thread-{n}" for n in range(23)]
    for number, name in enumerate(names):
        put(saver, name, {"x": number}, user_id="ada" if number % 2 else "bob")
        if number == 11:
            assert server.tank.flush().ok
    put(saver, "thread-3", {"x": "again"}, step=1)
    put(saver, "gone", {"x": 1}, user_id="ada")
    saver.delete_thread("gone")
    saver.delete_thread("thread-5")
    order = ["thread-3", *[n for n in reversed(names) if n not in ("thread-3", "thread-5")]]
    expected = [n for n in order if owner is None or int(n.split("-")[1]) % 2]
    for _ in range(2):
        for limit in (1, 4, 500):
            found = pages(
                server.admin,
                "/threads",
                "threads",
                limit=limit,
                **({"owner": owner} if owner else {}),
            )
            assert [t["thread_id"] for t in found] == expected
        assert server.tank.flush().ok


_MANY_THREADS = """
INSERT INTO surgetank.threads (thread_id, checkpoint_id) SELECT 't' || n, 'c' || n FROM generate_series(1, 20000) n;
INSERT INTO surgetank.checkpoint_namespaces (thread_id, checkpoint_ns)
SELECT 't' || n, '' FROM generate_series(1, 20000) n;
INSERT INTO surgetank.checkpoints (ns_pk, checkpoint_id, codec, body, metadata, scalars)
SELECT ns_pk, 'c' || n, 0, '', jsonb_build_object('user_id', 'user-' || ns_pk % 500), '{}'
FROM surgetank.checkpoint_namespaces, generate_series(1, 2) n;
"""


def test_lists_of_threads_use_their_indexes_and_no_scan(database_url):
    arguments = {
        "key": "user_id", "owner": "user-3", "hidden": [], "limit": 10, "last_newest": None, "last_thread": None,
        "text": None, "threads": None,
    }  # fmt: skip
    with psycopg.connect(database_url) as connection:
        connection.execute(_MANY_THREADS)
        connection.execute("ANALYZE")
        plans = {
            name: str(
                connection.execute(
                    f"EXPLAIN ANALYZE {queries('server/access/threads.sql')[name]}", arguments
                ).fetchall()
            )
            for name in ("threads_of_owner", "threads_page")
        }
    assert plans["threads_of_owner"].count("Index Scan using checkpoints_owner_idx") == 2
    assert "Index Scan Backward using threads_newest_idx" in plans["threads_page"]
    assert "Seq Scan on checkpoints " not in str(plans)


# -- jobs, parked entries, flush


def test_retrying_a_retention_job_is_a_conflict_and_no_outage(server):
    operator = server.as_role("operator", "ops")
    put_chain(server.tank.checkpointer(), "t", 3)
    operator.post("/flush")
    server.tank.retain(keep=1)
    job = server.tank.jobs(stream="retention")[0]
    answer = operator.post(f"/jobs/{job.id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_flush_jobs_are_listed_shown_and_retried(server):
    operator = server.as_role("operator", "ops")
    put_chain(server.tank.checkpointer(), "t", 3)
    assert operator.get("/buffer").json()["buffer"]["entries"] == 3
    job = operator.post("/flush").json()
    assert (job["status"], job["result"]["entries_flushed"]) == ("completed", 3)
    assert operator.get(f"/jobs/{job['id']}").json() == job
    retried = operator.post(f"/jobs/{job['id']}/retry").json()
    assert (retried["retry_of"], retried["trigger"]) == (job["id"], "retry")
    for _ in range(5):
        operator.post("/flush", json={"partition": "t"})
    found = pages(operator, "/jobs", "jobs", limit=2)
    assert len({j["id"] for j in found}) == len(found) == 7
    assert found[-1]["id"] == job["id"]
    assert "errors" not in found[0]["result"]
    assert pages(operator, "/jobs", "jobs", status="failed") == []
    assert operator.get("/jobs/nothing").json()["code"] == "not-found"
    assert operator.post("/flush", json={"stream": "nothing"}).json()["code"] == "unknown-stream"


def test_what_was_replaced_is_shown_to_operators_by_place_and_to_administrators_in_full(server):
    put(server.tank.checkpointer(), "t", {"note": "private\x00words"})
    job = server.as_role("operator", "ops").post("/flush")
    assert job.json()["result"]["replacements"][0]["path"].startswith("$.channel_values.note")
    assert "private" not in job.text
    assert "private" in server.admin.get(f"/jobs/{job.json()['id']}").text


def test_parked_entries_are_listed_shown_and_retried(server, database_url):
    operator = server.as_role("operator", "ops")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'step' <> "
            "'1')"
        )
    for name in ("a", "b", "c"):
        put_chain(server.tank.checkpointer(), name, 3)
    job = operator.post("/flush").json()
    assert job["result"]["entries_parked"] == 3
    assert operator.get("/health/ready").json()["components"]["flush"]["status"] == "degraded"
    found = pages(operator, "/parked", "parked", limit=2)
    assert {entry["partition"] for entry in found} == {"a", "b", "c"}
    assert found[0]["failure"]["stack_trace"] is None
    one = operator.get(f"/parked/{found[0]['id']}").json()
    assert one["failure"]["sqlstate"] == "23514"
    assert "Traceback" in one["failure"]["stack_trace"]
    assert one["records"]
    assert operator.post(f"/parked/{one['id']}/retry").json()["result"]["entries_parked"] == 1
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE surgetank.checkpoints DROP CONSTRAINT refuse")
    for entry in pages(operator, "/parked", "parked"):
        assert operator.post(f"/parked/{entry['id']}/retry").json()["warnings"] == []
    assert operator.get("/parked").json() == {"parked": [], "next": None}
    assert operator.get("/health/ready").json()["status"] == "ready"


# -- errors, limits, caching


def test_every_error_is_a_problem_with_a_way_out(server):
    admin = server.admin
    for answer, status, code in (
        (admin.get("/nothing"), 404, "not-found"),
        (admin.put("/flush"), 405, "method-not-allowed"),
        (admin.get("/threads?limit=0"), 422, "invalid-request"),
        (admin.get("/threads?limit=501"), 422, "invalid-request"),
        (admin.get("/threads?after=nonsense"), 400, "bad-cursor"),
        (
            admin.post("/flush", content=b"{", headers={"Content-Type": "application/json"}),
            422,
            "invalid-request",
        ),
        (admin.post("/flush", json={"secret": "hush"}), 422, "invalid-request"),
        (
            admin.post(
                "/flush", content=b"[" * 500_000, headers={"Content-Type": "application/json"}
            ),
            400,
            "bad-request",
        ),
        (admin.get("/threads/a%00b/state"), 422, "invalid-request"),
        (
            admin.post("/admin/tokens", json={"user": "a\u0000", "role": "viewer"}),
            422,
            "invalid-request",
        ),
        (
            admin.post("/admin/tokens", json={"user": "a", "role": "viewer", "expires_in": "x"}),
            422,
            "invalid-request",
        ),
        (admin.delete("/admin/tokens/nothing"), 404, "not-found"),
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert (body["code"], body["status"], body["type"]) == (
            code,
            status,
            f"urn:surgetank:problem:{code}",
        )
        assert body["detail"]
        assert body["remedy"]
        assert "hush" not in answer.text
    assert admin.put("/flush").headers["allow"] == "POST"


def test_a_bug_is_a_problem_with_a_reference_into_the_log(server, caplog):
    @server.app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the secret of the inside")

    answer = server.admin.get("/broken")
    assert answer.status_code == 500
    assert "secret of the inside" not in answer.text
    reference = answer.json()["reference"]
    told = next(r.getMessage() for r in caplog.records if reference in r.getMessage())
    assert "RuntimeError: the secret of the inside" in told
    assert server.admin.get("/health/live").status_code == 200


def test_bodies_are_limited_whether_announced_or_not(make_tank):
    with running(make_tank(admin_token=ADMIN_TOKEN, server_max_body=1000)) as server:
        assert server.admin.post("/flush", content=b"x" * 1001).json()["code"] == "too-large"

        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                yield b"x" * 100

        assert server.admin.post("/flush", content=chunks()).status_code == 413
        assert server.admin.post("/flush", content=b"").status_code == 200


def test_a_body_that_does_not_arrive_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr("surgetank.server.http.bodies._TIME_S", 0.2)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(b"POST /flush HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
        answer = slow.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too-slow" in answer or b"problem+json" in answer


def test_what_did_not_change_is_not_sent_again(server):
    put(server.tank.checkpointer(), "t", {"x": 1})
    admin = server.admin
    first = admin.get("/threads/t/state")
    again = admin.get(
        "/threads/t/state", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'}
    )
    assert (again.status_code, again.content, again.headers["etag"]) == (
        304,
        b"",
        first.headers["etag"],
    )
    put(server.tank.checkpointer(), "t", {"x": 2}, step=1)
    changed = admin.get("/threads/t/state", headers={"If-None-Match": first.headers["etag"]})
    assert changed.json()["values"] == {"x": 2}
    assert "no-cache" in changed.headers["cache-control"]


# -- Idempotency-Key


def flushes(server: Server) -> int:
    return len(server.tank.jobs())


def test_a_request_sent_again_with_its_key_is_carried_out_once(server):
    ops, other = server.as_role("operator", "ops"), server.as_role("operator", "ops")
    first = ops.post("/flush", headers={"Idempotency-Key": "k"})
    again = ops.post("/flush", headers={"Idempotency-Key": "k"})
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert flushes(server) == 1
    reused = ops.post("/flush", json={"partition": "t"}, headers={"Idempotency-Key": "k"})
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
    assert other.post("/flush", headers={"Idempotency-Key": "k"}).json() != first.json()
    assert flushes(server) == 2


def test_another_server_on_the_same_database_knows_the_key(make_tank, tmp_path):
    with running(make_tank(admin_token=ADMIN_TOKEN)) as one:
        first = one.admin.post("/flush", headers={"Idempotency-Key": "k"})
        with running(make_tank(admin_token=ADMIN_TOKEN, home=tmp_path / "other")) as two:
            assert two.admin.post("/flush", headers={"Idempotency-Key": "k"}).json() == first.json()
            assert flushes(two) == 0


def test_a_failed_request_gives_its_key_back(server):
    admin = server.admin
    refused = admin.post(
        "/admin/tokens", json={"user": "", "role": "viewer"}, headers={"Idempotency-Key": "k"}
    )
    assert refused.status_code == 422
    made = admin.post(
        "/admin/tokens", json={"user": "ada", "role": "viewer"}, headers={"Idempotency-Key": "k"}
    )
    assert made.status_code == 201


def test_the_answer_that_is_kept_for_a_new_token_does_not_hold_it(server):
    body = {"user": "ada", "role": "viewer"}
    made = server.admin.post("/admin/tokens", json=body, headers={"Idempotency-Key": "k"}).json()
    again = server.admin.post("/admin/tokens", json=body, headers={"Idempotency-Key": "k"})
    assert again.json() == {**made, "token": None}
    assert again.status_code == 201
    with server.tank.parts.database.connection() as connection:
        kept = connection.execute("SELECT body FROM surgetank.idempotency_keys").fetchall()
    assert made["token"].encode() not in kept[0][0]


def test_of_many_at_once_with_one_key_one_is_carried_out(server):
    admin = server.admin
    gate = threading.Barrier(8)

    def send(_number: int) -> httpx.Response:
        gate.wait()
        return admin.post("/flush", headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {a.status_code for a in answers} <= {200, 409}
    assert len({a.json()["id"] for a in answers if a.status_code == 200}) == 1
    assert flushes(server) == 1


def test_a_key_is_forgotten_after_a_day_and_a_claim_of_a_dead_server_sooner(server, database_url):
    admin, headers = server.admin, {"Idempotency-Key": "k"}
    first = admin.post("/flush", headers=headers).json()

    def age(seconds: int, more: str = "") -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                f"UPDATE surgetank.idempotency_keys SET claimed_at = now() - make_interval(secs => "
                f"%s){more}",
                (seconds,),
            )

    age(23 * 3600)
    assert admin.post("/flush", headers=headers).json() == first
    age(24 * 3600 + 1)
    second = admin.post("/flush", headers=headers).json()
    assert second["id"] != first["id"]
    age(60, ", status = NULL")
    assert admin.post("/flush", headers=headers).json()["code"] == "still-running"
    age(11 * 60)
    assert admin.post("/flush", headers=headers).json()["id"] not in (first["id"], second["id"])


@pytest.mark.parametrize("key", ["", "x" * 201, "\u00e9"])
def test_a_key_that_can_t_be_used_is_refused(server, key):
    answer = server.admin.post("/flush", headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.json()["code"] == "bad-idempotency-key"
    assert flushes(server) == 0


# -- while the database is down


def test_it_serves_what_is_hot_while_the_database_is_down(make_tank, private_postgres):
    clock = FakeClock()
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url, recent_max_bytes=0)
    put(tank.checkpointer(), "cold", {"x": 0})
    assert tank.flush().ok
    private_postgres.kill()
    with running(tank, clock=clock) as server:
        admin, headers = server.admin, {"Idempotency-Key": "k"}
        put(tank.checkpointer(), "hot", {"x": 1})
        ready = admin.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["components"]["database"]["status"] == "down"
        assert admin.get("/threads/hot/state").json()["values"] == {"x": 1}
        assert [t["thread_id"] for t in admin.get("/threads").json()["threads"]] == ["hot"]
        cold = admin.get("/threads/cold/state")
        assert (cold.status_code, cold.json()["code"]) == (503, "database-unavailable")
        assert cold.headers["retry-after"]
        job = admin.post("/flush", headers=headers)
        assert (job.status_code, job.json()["status"]) == (200, "failed")
        assert admin.post("/flush", headers=headers).json() == job.json()  # remembered in memory
        assert admin.post("/flush", json={"partition": "x"}, headers=headers).status_code == 422
        assert admin.get(f"/jobs/{job.json()['id']}").json()["result"]["errors"]
        assert admin.get("/admin/tokens").status_code == 503
        waiting = {
            s["stream"]: s["entries"] for s in admin.get("/buffer").json()["buffer"]["streams"]
        }
        assert waiting["checkpoints"] == 1
        private_postgres.start()
        wait_until(lambda: tank.flush().ok, "the flush to succeed")
        wait_until(lambda: admin.get("/health/ready").json()["status"] == "ready", "all to be well")
        assert admin.post("/flush", headers=headers).json() == job.json()
        # Requests ask a database that was away again after a second; until then the list says that
        # it is incomplete.
        wait_until(
            lambda: (
                [t["thread_id"] for t in admin.get("/threads").json()["threads"]] == ["hot", "cold"]
            ),
            "the list to be complete",
        )


def test_what_a_viewer_is_told_of_an_outage_names_no_address(make_tank, private_postgres):
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url, recent_max_bytes=0)
    with running(tank) as server:
        put(tank.checkpointer(), "t", {"x": 0}, user_id="ada")
        assert tank.flush().ok
        ada = server.as_role("viewer", "ada")
        assert ada.get("/threads/t/state").status_code == 200
        private_postgres.kill()
        answer = ada.get("/threads/t/state")
        assert answer.status_code == 503
        assert str(private_postgres.folder) not in answer.text


def test_a_request_waits_for_its_turn_when_the_pool_is_small(make_tank):
    with running(make_tank(admin_token=ADMIN_TOKEN, server_threads=1)) as server:
        put(server.tank.checkpointer(), "t", {"x": 1})
        admin = server.admin
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: admin.get("/threads/t/state").status_code, range(60)))
        assert answers == [200] * 60


def test_streams_are_told_when_the_server_stops(make_tank):
    with running(make_tank(admin_token=ADMIN_TOKEN)) as server:
        stopping = server.services.stopping
        assert not stopping.is_set()
    assert stopping.is_set()


def test_openapi_describes_every_route_with_errors_and_examples(server):
    document = server.client().get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert len(operation["description"]) > 15, path
            public = path.startswith("/health") or path in ("/ok", "/info")
            assert ("security" in operation) is not public, path
            if not public:
                assert {"401", "429", "503"} <= set(operation["responses"]), path
            if method == "post":
                assert any(p["name"] == "Idempotency-Key" for p in operation["parameters"])
