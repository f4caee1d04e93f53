"""Webhooks when it gets hard: senders that are killed, TLS to a pinned address, runs whose thread goes with
them, many receivers that hang."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph

from support.receiver import Receiver, receiving
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.workflows.execution import FixedGraphs
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status
from surgetank.workflows.webhooks.log import WebhookLog, WebhookStatus
from surgetank.workflows.webhooks.sender import SendingPolicy, WebhookSender
from surgetank.workflows.webhooks.targets import AllowedTargets

SENDER = """
import sys
from surgetank import Surgetank
tank = Surgetank(sys.argv[1], database_url=sys.argv[2], flush_in_process=False, webhook_allow=["127.0.0.1"])
tank.open()
print("sending", flush=True)
tank.webhooks.deliver_due()
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


def ended_run(tank: Surgetank, url: str, thread: str = "t") -> None:
    queue = RunQueue(tank.database)
    queue.accept(NewRun(thread_id=thread, assistant_id="a", kwargs={"webhook": url}), actor="ada")
    (run,) = queue.claim("w", 1)
    queue.end(run, Status.COMPLETED, actor="w")


def test_a_sender_that_is_killed_while_it_sends_loses_nothing(
    make_tank: MakeTank, receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"])
    ended_run(tank, receiver.url)
    receiver.open_.clear()
    sender = subprocess.Popen(
        [sys.executable, "-c", SENDER, str(tmp_path / "other"), database_url],
        stdout=subprocess.PIPE, env={**os.environ, "SURGETANK_DISK_RESERVE": "0"},
    )  # fmt: skip
    wait_until(lambda: len(receiver.received) == 1, "the other process sends")
    os.kill(sender.pid, signal.SIGKILL)
    sender.communicate()
    receiver.open_.set()
    (delivery,) = tank.webhooks()
    assert (delivery.status, delivery.attempts) == (WebhookStatus.PENDING, 1)
    with psycopg.connect(database_url, autocommit=True) as connection:  # its lease is over
        connection.execute("UPDATE surgetank.webhook_deliveries SET due_at = now()")
    assert tank.webhooks.deliver_due() == 1
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    (delivery,) = tank.webhooks()
    assert delivery.status is WebhookStatus.DELIVERED


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate for a host, signed by itself."""
    key, made = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(made),
            "-days", "2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, made


def test_tls_goes_to_the_address_that_was_checked_with_the_name_that_was_asked_for(
    make_tank: MakeTank, tmp_path: Path
) -> None:
    key, made = certificate(tmp_path, "hooks.test")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(made, key)
    names: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)
    tank = make_tank()
    with receiving(served) as receiver:

        def resolve(host: str, port: int, **_: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        def send(url: str, *, trusted: bool) -> WebhookStatus:
            sender = WebhookSender(
                WebhookLog(tank.database),
                rules=AllowedTargets(["hooks.test", "other.test"], resolve=resolve),
                policy=SendingPolicy(attempts=1),
            )
            if trusted:
                sender.__dict__["_tls"] = ssl.create_default_context(cafile=str(made))
            ended_run(tank, url)
            assert sender.step() == 1
            return tank.webhooks()[0].status

        port = receiver.port
        assert send(f"https://hooks.test:{port}/x", trusted=True) is WebhookStatus.DELIVERED
        assert receiver.received[0].headers["host"] == f"hooks.test:{port}"
        # Another name than the certificate's, and a certificate that nobody trusts.
        assert send(f"https://other.test:{port}/x", trusted=True) is WebhookStatus.FAILED
        assert send(f"https://hooks.test:{port}/x", trusted=False) is WebhookStatus.FAILED
        assert len(receiver.received) == 1
    assert names == ["hooks.test", "other.test", "hooks.test"]


class State(TypedDict, total=False):
    said: str


def test_a_run_whose_thread_goes_with_it_still_says_what_it_left(
    make_tank: MakeTank, receiver: Receiver
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"])
    builder: Any = StateGraph(State)
    builder.add_node("n", lambda _: {"said": "hello"})
    builder.add_edge(START, "n")
    builder.add_edge("n", END)
    saver = tank.checkpointer()
    graph = builder.compile(checkpointer=saver)
    service = tank.runs.service(
        FixedGraphs({"a": graph}), on_end=lambda run, _: saver.delete_thread(run.thread_id)
    )
    service.start()
    try:
        kwargs = {"input": {"said": ""}, "webhook": receiver.url, "on_completion": "delete"}
        tank.runs.accept(
            NewRun(thread_id="t", assistant_id="a", kwargs=kwargs, temporary=True), actor="ada"
        )
        wait_until(lambda: len(receiver.received) == 1, "it is sent")
        assert receiver.received[0].body["values"] == {"said": "hello"}
    finally:
        assert service.stop(20)


def test_receivers_that_hang_hold_up_others_for_one_timeout_only(
    make_tank: MakeTank, receiver: Receiver
) -> None:
    tank = make_tank(webhook_allow=["127.0.0.1"], webhook_timeout=0.5)
    with receiving() as hanging:
        hanging.open_.clear()
        for number in range(12):
            ended_run(tank, hanging.url, thread=f"h{number}")
        ended_run(tank, receiver.url)
        began = time.monotonic()
        service = tank.webhooks.service()
        service.start()
        wait_until(lambda: len(receiver.received) == 1, "it is sent")
        assert time.monotonic() - began < 5
        hanging.open_.set()
        assert service.stop(20)
