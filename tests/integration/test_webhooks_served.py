"""Webhooks, metrics and traces of runs that LangGraph's own client starts on a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.http import ADMIN_TOKEN, Server, running
from support.projects import HEAD, MakeProject
from support.receiver import Receiver, receiving
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import tracing
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    tracing.enable(provider)
    yield made
    tracing.disable()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def served(
    make_tank: MakeTank, project: MakeProject, exporter: InMemorySpanExporter
) -> Iterator[Server]:
    """A server with a graph and who works on it, traced."""
    tank = make_tank(admin_token=ADMIN_TOKEN, webhook_allow=["127.0.0.1"], otel=True)
    found = load(project({"a.py": HEAD + 'g = builder_of("a")'}, {"agent": "./a.py:g"}))
    graphs = GraphSet(found, checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    with running(tank, graphs=graphs) as started:
        worker.start()
        yield started
        assert worker.stop(20)


@pytest.fixture
async def client(served: Server) -> AsyncIterator[LangGraphClient]:
    headers = {
        "Authorization": f"Bearer {ADMIN_TOKEN}",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    async with get_client(url=served.url, api_key=None, headers=headers) as made:
        yield made


async def test_a_client_s_run_is_told_counted_and_traced(
    served: Server, client: LangGraphClient, receiver: Receiver, exporter: InMemorySpanExporter
) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"], "agent", input={"text": "hi"}, webhook=receiver.url
    )
    assert tracing.KEY not in str(run)
    await asyncio.to_thread(wait_until, lambda: len(receiver.received) == 1, "it is sent")
    told = receiver.received[0].body
    assert (told["run_id"], told["status"]) == (run["run_id"], "success")
    assert told["values"] == {"text": "hi!"}
    again = await client.runs.get(thread["thread_id"], run["run_id"])
    shown = {name: told[name] for name in again if name != "error"}  # an object in webhooks
    assert shown == {name: value for name, value in again.items() if name != "error"}
    metrics = await asyncio.to_thread(served.admin.get, "/metrics")
    assert 'surgetank_runs_ended_total{status="completed"} 1.0' in metrics.text
    await asyncio.to_thread(
        wait_until,
        lambda: len(served.tank.webhooks()) == 1 and _names(exporter) >= EXPECTED,
        "spans",
    )
    ours = [span for span in exporter.get_finished_spans() if span.name in EXPECTED]
    request = next(
        span for span in exporter.get_finished_spans() if span.name.startswith("POST /threads/{")
    )
    assert (request.attributes or {})["surgetank.run_id"] == run["run_id"]
    assert {f"{span.context.trace_id:032x}" for span in ours} == {TRACE}


EXPECTED = {"run agent", "node a", "put", "webhook"}


def _names(exporter: InMemorySpanExporter) -> set[str]:
    return {span.name for span in exporter.get_finished_spans()}


async def test_a_stateless_run_says_what_it_left_although_its_thread_is_gone(
    client: LangGraphClient, receiver: Receiver
) -> None:
    await client.runs.wait(None, "agent", input={"text": "hi"}, webhook=receiver.url)
    await asyncio.to_thread(wait_until, lambda: len(receiver.received) == 1, "it is sent")
    assert receiver.received[0].body["values"] == {"text": "hi!"}


async def test_a_url_that_may_not_be_used_is_refused_at_once(
    served: Server, client: LangGraphClient
) -> None:
    thread = await client.threads.create()
    for url in ("http://10.0.0.1/", "ftp://x.test/", "https://ada:s3cr3t@x.test/", "nonsense"):
        answer = await asyncio.to_thread(
            served.admin.post,
            f"/threads/{thread['thread_id']}/runs",
            json={"assistant_id": "agent", "input": {}, "webhook": url},
        )
        assert answer.status_code == 422
        assert "s3cr3t" not in answer.text
