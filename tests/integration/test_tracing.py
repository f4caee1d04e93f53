"""OpenTelemetry: one trace from a request over its run, nodes and puts to the webhook; nothing of what people
said in it; and no cost while it is off."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from fastapi import FastAPI
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from support.http import ADMIN_TOKEN, Server, running
from support.receiver import receiving
from support.savers import put_chain
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank, tracing
from surgetank.server.dependencies import CurrentCaller, Deps
from surgetank.streams.checkpoints.saver import SurgetankSaver
from surgetank.streams.checkpoints.traced import TracedSaver
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def text(self) -> str:
        return "".join(span.to_json() for span in self.all())


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    tracing.enable(made.provider)
    yield made
    tracing.disable()


@pytest.fixture
def tank(spans: Spans, make_tank: MakeTank) -> Surgetank:
    return make_tank(otel=True, admin_token=ADMIN_TOKEN, webhook_allow=["127.0.0.1"])


class State(TypedDict, total=False):
    said: str


def graph_of(tank: Surgetank, **nodes: Any) -> Any:
    builder: Any = StateGraph(State)
    names = list(nodes)
    for before, name in zip([START, *names], names, strict=False):
        builder.add_node(name, nodes[name])
        builder.add_edge(before, name)
    builder.add_edge(names[-1], END)
    return builder.compile(checkpointer=tank.checkpointer())


def work(tank: Surgetank, graph: Any, *runs: Run) -> list[Run]:
    """A worker ends the runs."""

    async def go() -> list[Run]:
        worker, stop = tank.runs.worker({"agent": graph}), asyncio.Event()
        task = asyncio.create_task(worker.work(stop))
        async with asyncio.timeout(30):
            while any(  # noqa: ASYNC110 - their end is in the database
                tank.runs.get(run.run_id).status in (Status.PENDING, Status.RUNNING) for run in runs
            ):
                await asyncio.sleep(0.01)
        stop.set()
        await task
        return [tank.runs.get(run.run_id) for run in runs]

    return asyncio.run(go())


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def span_id(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def with_runs(app: FastAPI) -> None:
    @app.post("/test/runs")
    def start(services: Deps, _: CurrentCaller, webhook: str) -> str:
        new = NewRun(
            thread_id="chat-7", assistant_id="agent",
            kwargs={"input": {"said": "s3cr3t"}, "webhook": webhook},
        )  # fmt: skip
        return str(services.tank.runs.accept(new, actor="ada").run_id)


@pytest.fixture
def server(tank: Surgetank) -> Iterator[Server]:
    with running(tank) as started:
        with_runs(started.app)
        yield started


def test_one_trace_goes_from_the_request_to_the_webhook(
    spans: Spans, tank: Surgetank, server: Server
) -> None:
    with receiving() as receiver:
        answer = server.admin.post(
            "/test/runs", params={"webhook": receiver.url}, headers={"traceparent": TRACEPARENT}
        )
        assert answer.status_code == 200
        request = wait_until(lambda: spans.named("POST /test/runs"), "the request's span")[0]
        assert (f"{request.context.trace_id:032x}", parent_id(request)) == (TRACE, PARENT)
        (run,) = tank.runs.of_thread("chat-7")
        (run,) = work(tank, graph_of(tank, first=lambda _: {"said": "a"}, last=lambda _: {}), run)
        assert run.status is Status.COMPLETED
        assert tank.webhooks.deliver_due() == 1
        body, headers = receiver.received[0].body, receiver.received[0].headers
    of_run, webhook = spans.one("run agent"), spans.one("webhook")
    assert parent_id(of_run) == span_id(request)
    assert headers["traceparent"] == f"00-{TRACE}-{span_id(webhook)}-01"
    assert tracing.KEY not in body["kwargs"]
    nodes = [spans.one("node first"), spans.one("node last")]
    assert [parent_id(node) for node in nodes] == [span_id(of_run)] * 2
    puts = spans.named("put")
    assert len(puts) >= 3
    assert {f"{span.context.trace_id:032x}" for span in [of_run, webhook, *nodes, *puts]} == {TRACE}
    for span in [of_run, webhook, *nodes, *puts]:
        assert span.attributes is not None
        assert span.attributes["surgetank.thread_id"] == "chat-7"
        assert span.attributes["surgetank.run_id"] == str(run.run_id)
    assert of_run.attributes is not None
    assert of_run.attributes["surgetank.status"] == "completed"
    assert "s3cr3t" not in spans.text()
    assert spans.all() == [span for span in spans.all() if span.end_time is not None]


def test_a_request_s_span_has_its_route_and_status_and_nothing_of_its_query(
    spans: Spans, tank: Surgetank, server: Server
) -> None:
    put_chain(tank.checkpointer(), "chat-7", 2)
    assert server.admin.get("/threads/chat-7/state?checkpoint_id=s3cr3t").status_code == 404
    assert server.client().get("/threads/chat-7/state").status_code == 401
    assert server.admin.get("/nowhere/s3cr3t").status_code == 404
    wait_until(lambda: len(spans.named("GET /threads/{thread_id:name}/state")) == 2, "two spans")
    found = [dict(s.attributes or {}) for s in spans.named("GET /threads/{thread_id:name}/state")]
    assert [each["surgetank.http.status_code"] for each in found] == [404, 401]
    assert found[0]["surgetank.thread_id"] == "chat-7"
    wait_until(lambda: spans.named("GET"), "what has no route")
    assert "s3cr3t" not in spans.text()


@pytest.mark.parametrize(
    "header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000]
)
def test_a_bad_traceparent_begins_a_trace_of_its_own(
    spans: Spans, server: Server, header: str
) -> None:
    assert server.admin.get("/me", headers={"traceparent": header}).status_code == 200
    span = wait_until(lambda: spans.named("GET /me"), "its span")[0]
    assert span.parent is None


def test_a_failed_run_and_its_node_are_marked_and_say_nothing_of_why(
    spans: Spans, tank: Surgetank
) -> None:
    def fail(_: State) -> State:
        raise ValueError("s3cr3t")

    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"said": ""}}), actor="a"
    )
    work(tank, graph_of(tank, fail=fail), run)
    node = spans.one("node fail")
    assert node.status.status_code is StatusCode.ERROR
    assert (node.attributes or {})["error.type"] == "ValueError"
    assert spans.one("run agent").status.status_code is StatusCode.ERROR
    assert "s3cr3t" not in spans.text()


def test_asking_people_is_no_failure(spans: Spans, tank: Surgetank) -> None:
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"said": ""}}), actor="a"
    )
    work(tank, graph_of(tank, ask=lambda _: {"said": interrupt("s3cr3t")}), run)
    node = spans.one("node ask")
    assert node.status.status_code is StatusCode.UNSET
    assert (node.attributes or {})["surgetank.interrupted"] is True
    of_run = spans.one("run agent")
    assert (of_run.attributes or {})["surgetank.status"] == "awaiting_checkpoint"
    assert of_run.status.status_code is StatusCode.UNSET


def test_nodes_of_subgraphs_are_inside_of_the_node_that_has_them(
    spans: Spans, tank: Surgetank
) -> None:
    inner: Any = StateGraph(State)
    inner.add_node("inside", lambda _: {"said": "x"})
    inner.add_edge(START, "inside")
    inner.add_edge("inside", END)
    run = tank.runs.accept(
        NewRun(thread_id="t", assistant_id="agent", kwargs={"input": {"said": ""}}), actor="a"
    )
    work(tank, graph_of(tank, outside=inner.compile()), run)
    assert parent_id(spans.one("node inside")) == span_id(spans.one("node outside"))


def test_a_stranger_s_context_in_a_run_does_no_harm(spans: Spans, tank: Surgetank) -> None:
    runs = [
        tank.runs.accept(
            NewRun(
                thread_id=f"t{n}", assistant_id="agent",
                kwargs={"input": {"said": ""}, tracing.KEY: context},
            ),
            actor="a",
        )
        for n, context in enumerate(["text", 7, {"traceparent": 7}, {"traceparent": "x" * 9999}, None])
    ]  # fmt: skip
    ended = work(tank, graph_of(tank, node=lambda _: {}), *runs)
    assert {run.status for run in ended} == {Status.COMPLETED}


def test_flush_jobs_are_spans(spans: Spans, tank: Surgetank) -> None:
    put_chain(tank.checkpointer(), "t", 2)
    job = tank.flush("checkpoints", "t")
    span = spans.one("flush checkpoints")
    attributes = dict(span.attributes or {})
    assert attributes["surgetank.job_id"] == job.id
    assert attributes["surgetank.thread_id"] == "t"
    assert attributes["surgetank.entries"] == job.result.entries_flushed
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time >= span.start_time


def test_without_the_setting_there_is_no_span_and_the_checkpointer_is_the_plain_one(
    make_tank: MakeTank,
) -> None:
    assert not tracing.enabled()
    tank = make_tank()
    saver = tank.checkpointer()
    assert type(saver) is SurgetankSaver
    assert "put" not in vars(TracedSaver.__bases__[0]) or type(saver).put is SurgetankSaver.put
    assert tracing.span("put", thread_id="t") is tracing.span("run")
    assert tracing.carrier() == {}
    once = timeit.timeit(lambda: tracing.span("put"), number=20_000) / 20_000
    assert once < 20e-6


def test_it_is_the_extra_that_is_named_when_it_is_missing() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from surgetank import MissingExtra, Surgetank, tracing\n"
        "import tempfile\n"
        "assert Surgetank(tempfile.mkdtemp()) is not None\n"
        "try: Surgetank(tempfile.mkdtemp(), otel=True)\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "surgetank[otel]" in done.stdout, done.stderr


def test_a_program_without_a_provider_exports_where_the_environment_says(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from surgetank import Surgetank, tracing\n"
        "Surgetank(sys.argv[1], otel=True)\n"
        "with tracing.span('something', thread_id='t'): pass\n"
    )
    with receiving() as collector:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "home")], env=environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (sent,) = collector.received
    assert sent.path == "/v1/traces"
    assert b"something" in sent.raw
    assert b"surgetank.thread_id" in sent.raw
