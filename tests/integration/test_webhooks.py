"""Webhooks of runs: written with the run's end, sent at least once, signed, tried again, and never where
they may not go."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from support.http import ADMIN_TOKEN, running
from support.receiver import Receiver, receiving
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import WebhookDelivered, WebhookNotFound, WebhookRefused
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import CancelAction, NewRun, Run
from surgetank.workflows.status import Status
from surgetank.workflows.webhooks.log import Webhook, WebhookStatus

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class State(TypedDict, total=False):
    x: int
    said: str


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def tank(make_tank: MakeTank) -> Surgetank:
    return make_tank(webhook_secret=SECRET, webhook_allow=["127.0.0.1"])


def ended_run(
    tank: Surgetank, url: Any, status: Status = Status.COMPLETED, thread: str = "t", **more: Any
) -> Run:
    """A run that a worker ended so."""
    queue = RunQueue(tank.database)
    new = NewRun(
        thread_id=thread, assistant_id="agent", kwargs={"webhook": url, "input": 1}, owner="ada"
    )
    queue.accept(new, actor="ada")
    (run,) = queue.claim("w", 1)
    queue.end(run, status, actor="w", **more)
    return run


def only(tank: Surgetank) -> Webhook:
    (delivery,) = tank.webhooks()
    return delivery


def make_due(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE surgetank.webhook_deliveries SET due_at = now()")


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.COMPLETED, "success"),
        (Status.AWAITING_CHECKPOINT, "success"),
        (Status.FAILED, "error"),
        (Status.CANCELLED, "interrupted"),
    ],
)
def test_each_end_of_a_run_is_told_and_signed(
    tank: Surgetank, receiver: Receiver, status: Status, shown: str
) -> None:
    error = {"error": "ValueError: no plan"} if status is Status.FAILED else {}
    run = ended_run(tank, receiver.url, status, **error)
    assert only(tank).status is WebhookStatus.PENDING
    assert tank.webhooks.deliver_due() == 1
    (got,) = receiver.received
    assert got.path == "/hooks/s3cr3t?key=s3cr3t"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    body = got.body
    assert (body["run_id"], body["thread_id"], body["status"]) == (str(run.run_id), "t", shown)
    assert body["kwargs"]["input"] == 1
    assert body["run_ended_at"] >= body["run_started_at"]
    assert body.get("error") == ({"error": "ValueError", "message": "no plan"} if error else None)
    assert body.get("awaiting_checkpoint", False) is (status is Status.AWAITING_CHECKPOINT)
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.raw
    expected = base64.b64encode(hmac.digest(b"k" * 32, content, hashlib.sha256)).decode()
    assert got.headers["webhook-signature"] == f"v1,{expected}"
    delivery = only(tank)
    assert delivery.status is WebhookStatus.DELIVERED
    assert delivery.run is None  # nothing of what it said is kept
    assert [attempt["status_code"] for attempt in delivery.tries] == [200]
    assert tank.webhooks.deliver_due() == 0


def test_a_run_that_is_given_back_or_names_no_webhook_tells_nobody(tank: Surgetank) -> None:
    ended_run(tank, None)
    ended_run(tank, "", thread="u")
    ended_run(tank, {"url": "https://x"}, thread="v")
    queue = RunQueue(tank.database)
    queue.accept(
        NewRun(thread_id="w", assistant_id="a", kwargs={"webhook": "https://x.test"}), actor="a"
    )
    (run,) = queue.claim("w", 1)
    queue.end(run, Status.PENDING, actor="w")
    assert list(tank.webhooks()) == []


def test_a_rolled_back_run_is_told_although_its_row_is_gone(
    tank: Surgetank, receiver: Receiver
) -> None:
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="a", kwargs={"webhook": receiver.url}), actor="ada"
    )
    tank.runs.cancel(run.run_id, actor="ada", action=CancelAction.ROLLBACK)
    assert tank.webhooks.deliver_due() == 1
    body = receiver.received[0].body
    assert (body["status"], body["cancel_reason"]) == ("interrupted", "rollback by ada")


def test_a_failure_is_tried_again_later_and_each_attempt_is_in_the_log(
    tank: Surgetank, receiver: Receiver, database_url: str
) -> None:
    receiver.answers = [(500, {}), (503, {"Retry-After": "7200"})]
    ended_run(tank, receiver.url)
    assert tank.webhooks.deliver_due() == 1
    assert tank.webhooks.deliver_due() == 0  # not due yet
    make_due(database_url)
    assert tank.webhooks.deliver_due() == 1
    delivery = only(tank)
    assert (delivery.due_at - delivery.created_at).total_seconds() > 7000
    make_due(database_url)
    assert tank.webhooks.deliver_due() == 1
    assert [attempt["status_code"] for attempt in only(tank).tries] == [500, 503, 200]
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    counts, _, _ = tank.run_meters.snapshot()
    assert (counts["webhooks", "retried"], counts["webhooks", "delivered"]) == (2, 1)


def test_what_fails_for_good_is_told_to_operators_and_can_be_sent_again(
    make_tank: MakeTank, receiver: Receiver, database_url: str
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"], webhook_attempts=2)
    receiver.answers = [(500, {})] * 3
    ended_run(tank, receiver.url)
    for _ in range(2):
        make_due(database_url)
        tank.webhooks.deliver_due()
    delivery = only(tank)
    assert (delivery.status, delivery.attempts) == (WebhookStatus.FAILED, 2)
    (error,) = tank.errors.find().errors
    assert error.error_type == "webhook_failed"
    assert "it answered 500" in error.error_message
    assert "s3cr3t" not in str(error)
    tank.webhooks.retry(delivery.delivery_id)
    tank.webhooks.deliver_due()  # the third 500: it has more attempts again
    assert only(tank).status is WebhookStatus.PENDING
    make_due(database_url)
    tank.webhooks.deliver_due()
    assert only(tank).status is WebhookStatus.DELIVERED
    with pytest.raises(WebhookDelivered):
        tank.webhooks.retry(delivery.delivery_id)
    with pytest.raises(WebhookNotFound):
        tank.webhooks.retry(delivery.run_id)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(tank: Surgetank, receiver: Receiver, status: int) -> None:
    with receiving() as inner:
        receiver.answers = [(status, {"Location": inner.url})]
        ended_run(tank, receiver.url)
        tank.webhooks.deliver_due()
        assert inner.received == []
    delivery = only(tank)
    assert delivery.status is WebhookStatus.PENDING
    assert "redirect" in delivery.tries[0]["error"]


def test_gone_is_the_end(tank: Surgetank, receiver: Receiver) -> None:
    receiver.answers = [(410, {})]
    ended_run(tank, receiver.url)
    tank.webhooks.deliver_due()
    assert only(tank).status is WebhookStatus.FAILED


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://127.1:{port}/",
        "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://0:{port}/", "ftp://x.test/",
        "http://ada:pw@127.0.0.1:{port}/", "http://[::1]:{port}/", "nonsense", "http://localhost.:{port}/",
    ],
)  # fmt: skip
def test_nothing_is_sent_where_it_may_not_go_however_it_came_into_the_table(
    make_tank: MakeTank, receiver: Receiver, url: str
) -> None:
    tank = make_tank()
    ended_run(tank, url.format(port=receiver.port))
    tank.webhooks.deliver_due()
    assert receiver.received == []
    assert only(tank).status is WebhookStatus.FAILED
    assert [error.error_type for error in tank.errors.find().errors] == ["webhook_failed"]


def test_a_bad_url_is_refused_when_the_run_is_accepted(make_tank: MakeTank) -> None:
    tank = make_tank()
    for url in ("http://127.0.0.1/", "ftp://x.test", "https://a:b@x.test", "http://localhost/", 7):
        with pytest.raises(WebhookRefused):
            tank.runs.accept(
                NewRun(thread_id="t", assistant_id="a", kwargs={"webhook": url}), actor="ada"
            )
    assert tank.runs.of_thread("t") == []


def test_a_receiver_that_never_ends_its_answer_is_cut_off(
    make_tank: MakeTank, receiver: Receiver
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"], webhook_timeout=0.3)
    receiver.drip.set()
    ended_run(tank, receiver.url)
    tank.webhooks.deliver_due()
    (attempt,) = only(tank).tries
    assert attempt["error"] == "it took too long"
    assert attempt["seconds"] < 5


def test_two_senders_send_each_webhook_once(make_tank: MakeTank, receiver: Receiver) -> None:
    tank, other = (make_tank(webhook_allow=["127.0.0.1"]) for _ in range(2))
    for number in range(20):
        ended_run(tank, receiver.url, thread=f"t{number}")

    def deliver(sender: Surgetank) -> None:
        while sender.webhooks.deliver_due() or tank.webhooks.waiting()[0]:
            pass

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(deliver, (tank, other)))
    assert sorted(got.body["thread_id"] for got in receiver.received) == sorted(
        f"t{number}" for number in range(20)
    )


def test_what_a_dead_sender_had_is_sent_by_the_next_and_a_deadly_one_ends(
    tank: Surgetank, receiver: Receiver, database_url: str
) -> None:
    ended_run(tank, receiver.url)
    log = tank.webhooks._deliveries
    (held,) = log.claim(10, most_of_host=10, lease_s=100)  # and it dies
    assert tank.webhooks.deliver_due() == 0
    make_due(database_url)
    assert tank.webhooks.deliver_due() == 1
    assert not log.record(held, WebhookStatus.FAILED, {"error": "too late"})
    assert only(tank).status is WebhookStatus.DELIVERED
    ended_run(tank, receiver.url, thread="u")
    for _ in range(10):
        make_due(database_url)
        log.claim(10, most_of_host=10, lease_s=100)
    make_due(database_url)
    tank.webhooks.deliver_due()
    assert tank.webhooks()[0].status is WebhookStatus.FAILED
    assert len(receiver.received) == 1


def test_a_slow_host_takes_only_some_of_the_senders(tank: Surgetank, receiver: Receiver) -> None:
    for number in range(10):
        ended_run(tank, receiver.url, thread=f"t{number}")
    ended_run(tank, "http://other.invalid/", thread="o")
    assert tank.webhooks.deliver_due() == 5  # four of the one host, and the other


def test_the_log_is_kept_for_a_while_and_erasing_a_user_removes_theirs(
    make_tank: MakeTank, receiver: Receiver, database_url: str
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"])
    ended_run(tank, receiver.url)
    ended_run(tank, receiver.url, thread="u")
    tank.webhooks.deliver_due()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.webhook_deliveries SET ended_at = now() - interval '8 days' WHERE "
            "thread_id = 't'"
        )
    service = tank.webhooks.service()
    service.start()
    wait_until(lambda: len(tank.webhooks()) == 1, "the old one is forgotten")
    assert service.stop(10)
    tank.erase_user("ada")
    assert list(tank.webhooks()) == []


def test_an_erased_user_s_webhooks_and_name_go_from_the_threads_of_others_too(
    tank: Surgetank, database_url: str
) -> None:
    kwargs = {"webhook": "https://hooks.test/"}
    for thread, owner in (("ownerless", None), ("of-bob", "bob")):
        new = NewRun(thread_id=thread, assistant_id="a", kwargs=kwargs, owner=owner)
        run = tank.runs.accept(new, actor="ziggy")
        tank.runs.cancel(run.run_id, actor="ziggy")
    run = tank.runs.accept(
        NewRun(thread_id="ownerless", assistant_id="a", kwargs=kwargs, owner="ziggy"), actor="ziggy"
    )
    tank.runs.cancel(run.run_id, actor="bob")
    tank.erase_user("ziggy")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT d::text FROM surgetank.webhook_deliveries d").fetchall()
    assert len(rows) == 2
    assert not any("ziggy" in text for (text,) in rows)


async def test_a_worker_s_runs_are_told_at_once_with_the_state_that_they_left(
    tank: Surgetank, receiver: Receiver
) -> None:
    builder: Any = StateGraph(State)
    builder.add_node("ask", lambda _: {"said": interrupt("really?")})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile(checkpointer=tank.checkpointer())
    service = tank.runs.service(FixedGraphs({"agent": graph}))
    service.start()
    try:
        run = tank.runs.accept(
            NewRun(
                thread_id="t",
                assistant_id="agent",
                kwargs={"input": {"x": 1}, "webhook": receiver.url},
            ),
            actor="ada",
        )
        await asyncio.to_thread(wait_until, lambda: len(receiver.received) == 1, "it is sent")
        body = receiver.received[0].body
        assert body["awaiting_checkpoint"]
        assert body["values"] == {"x": 1}
        tank.runs.accept(
            NewRun(
                thread_id="t", assistant_id="agent", workflow_id=run.workflow_id,
                kwargs={"command": {"resume": "yes"}, "webhook": receiver.url},
            ),
            actor="ada",
        )  # fmt: skip
        await asyncio.to_thread(wait_until, lambda: len(receiver.received) == 2, "it is sent")
        assert receiver.received[1].body["values"] == {"x": 1, "said": "yes"}
    finally:
        assert await asyncio.to_thread(service.stop, 20)


def test_the_log_over_http_shows_one_s_own_and_operators_all(
    make_tank: MakeTank, receiver: Receiver
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN, webhook_allow=["127.0.0.1"])
    run = ended_run(tank, receiver.url)
    with running(tank) as server:
        ada, bob, operator = (
            server.as_role("user", "ada"), server.as_role("user", "bob"), server.as_role("operator", "eve")
        )  # fmt: skip
        answer = ada.get("/webhooks/deliveries", params={"run_id": str(run.run_id)})
        (shown,) = answer.json()["deliveries"]
        assert shown["target"] == f"http://127.0.0.1:{receiver.port}"
        assert "s3cr3t" not in answer.text
        assert bob.get("/webhooks/deliveries").json()["deliveries"] == []
        assert len(operator.get("/webhooks/deliveries").json()["deliveries"]) == 1
        retry = f"/webhooks/deliveries/{shown['delivery_id']}/retry"
        assert bob.post(retry).status_code == 404
        assert ada.post(retry).json()["status"] == "pending"
        tank.webhooks.deliver_due()
        assert ada.post(retry).status_code == 409
        for number in range(4):
            ended_run(tank, receiver.url, thread=f"t{number}")
        seen, after = [], None
        while True:
            params = {"limit": "2"} | ({"after": after} if after else {})
            page = ada.get("/webhooks/deliveries", params=params).json()
            seen += [each["thread_id"] for each in page["deliveries"]]
            after = page["next"]
            if after is None:
                break
        assert seen == ["t3", "t2", "t1", "t0", "t"]


def test_a_database_that_is_away_stops_nothing_for_good(
    tank: Surgetank, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []
    service = tank.webhooks.service()
    service._tell = lambda error, _: told.append(error)
    failed = threading.Event()
    step = service._sender.step

    def once() -> int:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("odd")
        return step()

    monkeypatch.setattr(service._sender, "step", once)
    service.start()
    wait_until(failed.is_set, "a step fails")
    ended_run(tank, receiver.url)
    service.wake()
    wait_until(lambda: len(receiver.received) == 1, "it is sent")
    assert service.stop(10)
    assert [str(error) for error in told] == ["odd"]
