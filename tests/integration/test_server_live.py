"""Events, logs and errors over HTTP, WebSocket and SSE: in order, resumable, bounded, and seen by
their owner only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from support.following import receive, socket, sse
from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from support.waiting import wait_until
from surgetank import Surgetank


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


def test_a_follower_gets_what_happens_from_now_on_from_every_process(server, make_tank):
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    server.tank.broadcast_run_event("before", thread_id="t")
    other = make_tank()
    with socket(server, "/ws/threads/t", server.token("viewer", "ada")) as ws:
        (hello,) = receive(ws, 1)
        assert (hello["type"], hello["after"], hello["incidents"]) == ("subscribed", 1, [])
        server.tank.broadcast_run_event("here", thread_id="t")
        other.broadcast_run_event("there", thread_id="t")
        other.broadcast_run_event("elsewhere", thread_id="u")
        other.emit_log("a line", thread_id="t")
        events = receive(ws, 3)
    assert [(e["seq"], e["type"]) for e in events] == [(2, "here"), (3, "there"), (4, "log")]


def test_after_a_break_it_goes_on_without_gap_or_double(server):
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    token = server.token("viewer", "ada")
    total, stop = 3000, threading.Event()

    def write() -> None:
        for i in range(total):
            server.tank.broadcast_run_event("n", thread_id="t" if i % 2 else "u", i=i)

    writer = threading.Thread(target=write)
    writer.start()
    seen, seqs = list[int](), list[int]()
    try:
        while len(seen) < total // 2:
            with socket(server, f"/ws/threads/t?after={seqs[-1] if seqs else 0}", token) as ws:
                receive(ws, 1)
                wanted = min(len(seen) + 100, total // 2)
                while len(seen) < wanted:
                    for event in receive(ws, 1):
                        seen.append(event["i"])
                        seqs.append(event["seq"])
    finally:
        stop.set()
        writer.join()
    assert seqs == list(range(1, total // 2 + 1))
    assert seen == [i for i in range(total) if i % 2]


def test_all_events_of_the_threads_one_may_read_and_no_other(server):
    saver = server.tank.checkpointer()
    put(saver, "mine", {"x": 1}, user_id="ada")
    put(saver, "yours", {"x": 1}, user_id="bob")
    with (
        socket(server, "/ws/events", server.token("viewer", "ada")) as ada,
        socket(server, "/ws/events", ADMIN_TOKEN) as admin,
    ):
        receive(ada, 1)
        receive(admin, 1)
        for i in range(50):
            server.tank.broadcast_run_event("n", thread_id="yours" if i % 2 else "mine", i=i)
        assert [e["i"] for e in receive(ada, 25)] == list(range(0, 50, 2))
        everything = receive(admin, 50)
    assert [e["i"] for e in everything] == list(range(50))
    after = everything[10]["id"]
    with socket(server, f"/ws/events?after={after}", server.token("viewer", "bob")) as bob:
        assert [e["i"] for e in receive(bob, 1 + 20)[1:]] == list(range(11, 50, 2))


def test_sse_goes_on_after_last_event_id(server):
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    for i in range(5):
        server.tank.broadcast_run_event("n", thread_id="t", i=i)
    client = server.as_role("viewer", "ada")
    with client.stream("GET", "/sse/threads/t", headers={"Last-Event-ID": "2"}) as answer:
        lines = answer.iter_lines()
        assert sse(lines, 1)[0][1]["type"] == "subscribed"
        assert [(n, e["i"]) for n, e in sse(lines, 3)] == [(3, 2), (4, 3), (5, 4)]
        server.tank.broadcast_run_event("n", thread_id="t", i=5)
        assert [(n, e["i"]) for n, e in sse(lines, 1)] == [(6, 5)]
    with client.stream("GET", "/sse/events?after=4") as answer:
        assert [e["i"] for _, e in sse(answer.iter_lines(), 3)[1:]] == [4, 5]


def test_what_is_gone_is_told_as_a_gap(make_tank):
    tank = make_tank(admin_token=ADMIN_TOKEN, events_kept=10)
    with running(tank) as server:
        put(tank.checkpointer(), "t", {"x": 1}, user_id="ada")
        for i in range(30):
            tank.broadcast_run_event("n", thread_id="t", i=i)
        tank.events.maintain()
        for path, after in (("/ws/threads/t", 5), ("/ws/events", 5)):
            with socket(server, f"{path}?after={after}", ADMIN_TOKEN) as ws:
                _, gap, *events = receive(ws, 12)
            assert (gap["type"], gap["after"], gap["missed_to"]) == ("gap", 5, 20)
            assert [e["i"] for e in events] == list(range(20, 30))
        page = server.as_role("viewer", "ada").get("/threads/t/events?after=5&limit=3").json()
        assert (page["gap"]["missed_to"], [e["seq"] for e in page["events"]], page["next"]) == (
            20,
            [21, 22, 23],
            23,
        )
        # a number of another life of the log
        with socket(server, "/ws/threads/t?after=999", ADMIN_TOKEN) as ws:
            assert [e["type"] for e in receive(ws, 2)] == ["subscribed", "gap"]
            tank.broadcast_run_event("n", thread_id="t", i=30)
            assert [e["i"] for e in receive(ws, 1)] == [30]


def test_a_slow_follower_holds_nobody_up_and_misses_nothing(server):
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    token = server.token("viewer", "ada")
    total, text = 4000, "x" * 2000
    with (
        socket(server, "/ws/threads/t", token) as slow,
        socket(server, "/ws/threads/t", token) as quick,
    ):
        receive(slow, 1)
        receive(quick, 1)
        for i in range(total):
            server.tank.broadcast_run_event("n", thread_id="t", i=i, text=text)
        assert [e["i"] for e in receive(quick, total)] == list(range(total))
        assert [e["i"] for e in receive(slow, total)] == list(range(total))


def test_a_follower_of_an_outage_is_told_what_is_going_on_when_it_comes(
    make_tank, private_postgres
):
    tank = make_tank(
        admin_token=ADMIN_TOKEN, database_url=private_postgres.url, flush_in_process=True, flush_age=0.1,
        flush_tick=0.05,
    )  # fmt: skip
    with running(tank) as server:
        assert server.admin.get("/health/live").status_code == 200
        private_postgres.kill()
        put(tank.checkpointer(), "t", {"x": 1})
        wait_until(tank.events.incidents, "the incident")
        with socket(server, "/ws/threads/t", ADMIN_TOKEN) as ws:
            (hello,) = receive(ws, 1)
            assert [i["type"] for i in hello["incidents"]] == ["checkpoint_flush_error"]
            page = wait_until(
                lambda: (
                    p if (p := server.admin.get("/admin/system-errors").json())["count"] else None
                ),
                "the error",
            )
            assert page["status"] == "partial"
            assert "Traceback" in page["errors"][0]["stack_trace"]
            (banner,) = server.admin.get("/threads/t/logs").json()["incidents"]
            assert "Saving is delayed" in banner["message"]
            assert banner["thread_id"] == "t"
            private_postgres.start()
            events = list[dict[str, Any]]()
            while not any(e["type"] == "checkpoint_flush_recovered" for e in events):
                events += receive(ws, 1)


def test_banners_of_a_sink_s_trouble_reach_those_whose_threads_wait_and_no_others(
    make_tank, private_postgres
):
    tank = make_tank(
        admin_token=ADMIN_TOKEN, database_url=private_postgres.url, flush_in_process=True, flush_age=0.1,
        flush_tick=0.05,
    )  # fmt: skip
    put(tank.checkpointer(), "idle", {"x": 1}, user_id="ada")
    put(tank.checkpointer(), "busy", {"x": 1}, user_id="ada")
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "both to be saved")
    with running(tank) as server:
        token = server.token("viewer", "ada")
        assert server.client(token).get("/threads/busy/logs").json()["incidents"] == []
        with (
            socket(server, "/ws/threads/idle", token) as idle,
            socket(server, "/ws/threads/busy", token) as busy,
            socket(server, "/ws/events", token) as everything,
        ):
            for ws in (idle, busy, everything):
                assert receive(ws, 1)[0]["incidents"] == []
            private_postgres.stop()
            put(tank.checkpointer(), "busy", {"x": 2}, user_id="ada")
            (event,) = receive(busy, 1)
            assert (event["type"], event["thread_id"], event["derived"]) == (
                "checkpoint_flush_error", "busy", True,
            )  # fmt: skip
            assert "affected" not in event, "how many others wait is not theirs to know"
            (event,) = receive(everything, 1)
            assert (event["type"], event["thread_id"]) == ("checkpoint_flush_error", None)
            put(tank.checkpointer(), "idle", {"x": 2}, user_id="ada")
            (event,) = receive(idle, 1)
            assert (event["type"], event["thread_id"]) == ("checkpoint_flush_error", "idle")
            private_postgres.start()
            for ws in (idle, busy, everything):
                (event,) = receive(ws, 1)
                assert (event["type"], event["derived"]) == ("checkpoint_flush_recovered", True)
            assert server.client(token).get("/threads/idle/logs").json()["incidents"] == []


def test_the_server_stops_although_followers_are_there(make_tank):
    tank: Surgetank = make_tank(admin_token=ADMIN_TOKEN)
    with ExitStack() as open_until_the_end, running(tank) as server:
        put(tank.checkpointer(), "t", {"x": 1})
        receive(open_until_the_end.enter_context(socket(server, "/ws/events", ADMIN_TOKEN)), 1)
        stream = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        open_until_the_end.enter_context(stream)
        answer = open_until_the_end.enter_context(stream.stream("GET", "/sse/threads/t"))
        assert sse(answer.iter_lines(), 1)
        # `running` fails if the server does not end.


# -- errors


def test_an_administrator_finds_resolves_and_deletes_errors(server):
    admin = server.admin
    for n in range(3):
        server.tank.log_system_error(
            f"type_{n}", "words", thread_id="t", severity="critical" if n else "warning"
        )
    page = admin.get("/admin/system-errors", params={"limit": 2}).json()
    assert (page["status"], page["count"], [e["error_type"] for e in page["errors"]]) == (
        "ok",
        2,
        ["type_2", "type_1"],
    )
    rest = admin.get("/admin/system-errors", params={"limit": 2, "after": page["next"]}).json()
    assert ([e["error_type"] for e in rest["errors"]], rest["next"]) == (["type_0"], None)
    only = admin.get(
        "/admin/system-errors", params={"severity": "warning", "thread_id": "t"}
    ).json()
    assert [e["error_type"] for e in only["errors"]] == ["type_0"]
    url = f"/admin/system-errors/{page['errors'][0]['id']}"
    assert admin.delete(url).status_code == 409
    done = admin.post(f"{url}/resolve", json={"resolution_notes": "fixed"})
    assert (done.status_code, done.json()["resolved_by"], done.json()["resolution_notes"]) == (
        200,
        "admin",
        "fixed",
    )
    assert admin.post(f"{url}/resolve").status_code == 409
    assert admin.post(f"{url}/reopen").json()["previous_resolution"]["resolution_notes"] == "fixed"
    assert admin.post(f"{url}/snooze", json={"seconds": 60}).json()["snoozed_by"] == "admin"
    assert admin.get(url).json()["audit"][-1]["action"] == "snooze"
    assert admin.post(f"{url}/resolve").status_code == 200
    assert admin.delete(url).status_code == 204
    assert admin.get(url).status_code == 404
    assert server.tank.flush("system_errors").ok
    assert admin.get(url).status_code == 404
    stats = admin.get("/admin/system-errors/stats").json()
    assert (stats["total"], stats["unresolved"]) == (2, 2)
    trends = admin.get("/admin/system-errors/trends").json()["trends"]
    assert sum(b["occurrences"] for b in trends) == 2
    (thread,) = admin.get("/admin/system-errors/threads").json()["threads"]
    assert (thread["thread_id"], thread["errors"]) == ("t", 2)


def test_logs_are_paged_in_both_directions(server):
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    for i in range(10):
        server.tank.emit_log(str(i), thread_id="t", level="warning" if i % 2 else "info")
        if i == 5:
            assert server.tank.flush("thread_logs").ok
    ada = server.as_role("viewer", "ada")
    first = ada.get("/threads/t/logs?limit=4").json()
    assert [line["message"] for line in first["lines"]] == list("0123")
    rest = ada.get(f"/threads/t/logs?after={first['next']}").json()
    assert [line["message"] for line in rest["lines"]] == list("456789")
    before = ada.get(f"/threads/t/logs?before={rest['previous']}&limit=2").json()
    assert [line["message"] for line in before["lines"]] == list("23")
    assert [
        line["message"] for line in ada.get("/threads/t/logs?level=warning").json()["lines"]
    ] == list("13579")


def test_metrics_are_for_operators_and_count_followers(server):
    put(server.tank.checkpointer(), "t", {"x": 1})
    assert server.tank.flush().ok
    operator = server.as_role("operator", "ops")
    with socket(server, "/ws/events", ADMIN_TOKEN) as ws:
        receive(ws, 1)
        answer = operator.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'surgetank_event_subscribers{transport="websocket"} 1.0' in answer.text
        assert 'surgetank_flushed_entries_total{stream="checkpoints"} 1.0' in answer.text
    wait_until(
        lambda: (
            'surgetank_event_subscribers{transport="websocket"} 0.0'
            in operator.get("/metrics").text
        ),
        "the follower to be gone",
    )


def test_originals_are_for_administrators(make_tank):
    tank = make_tank(admin_token=ADMIN_TOKEN, debug_originals=True)
    with running(tank) as server:
        put(tank.checkpointer(), "t", {"measured": {"x": float("nan")}})
        assert tank.flush().result["values_replaced"]
        kept = server.admin.get("/admin/originals?thread_id=t").json()
        assert kept["debug_mode"] is True
        assert "nan" in {o["original"] for o in kept["originals"]}
