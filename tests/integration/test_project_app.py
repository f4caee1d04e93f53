"""`http.app` of a `langgraph.json`: the project's own application on our server, behind our layers."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.process import Process
from support.projects import MakeProject
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank.exceptions import ConfigurationError
from surgetank.server.app import create_app
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
import web

class State(TypedDict, total=False):
    opened: bool

def seen(state):
    return {"opened": web.opened}

graph = StateGraph(State).add_node("seen", seen).add_edge(START, "seen").compile()
"""
WEB = """
import asyncio, os, sys
from contextlib import asynccontextmanager
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware

opened = False

@asynccontextmanager
async def lifespan(app):
    global opened
    opened = True
    yield {"pool": ["open"]}
    opened = False
    if marks := os.environ.get("MARKS"):
        with open(marks, "a") as file:
            file.write("closed\\n")

app = FastAPI(lifespan=lifespan)

@app.get("/hello")
def hello(request: Request):
    return {"hello": request.user.identity, "role": request.user.role, "pool": request.state.pool,
            "at": str(request.url_for("hello")), "own": request.app is app}

@app.get("/ok")
@app.delete("/info")
@app.get("/threads/mine")
def never():
    return {"never": True}

@app.get("/page", response_class=HTMLResponse)
def page():
    return "<h1>hello</h1>"

@app.get("/strict")
def strict():
    return Response("x", headers={"Content-Security-Policy": "default-src 'self'"})

@app.post("/echo")
async def echo(request: Request):
    body = await request.body()
    return {"type": request.headers.get("content-type"), "bytes": len(body)}

@app.get("/crash")
def crash():
    raise ValueError("secret-of-the-project")

@app.get("/exit")
async def exit_():
    sys.exit(3)

@app.get("/teapot")
def teapot():
    raise HTTPException(418, "short and stout")

@app.get("/broken")
def broken():
    return JSONResponse({"own": "answer"}, 500)

@app.get("/stream")
def stream():
    async def parts():
        for n in range(3):
            yield f"data: {n}\\n\\n"
    return StreamingResponse(parts(), media_type="text/event-stream")

@app.websocket("/talk")
async def talk(socket: WebSocket):
    await socket.accept()
    await socket.send_text(socket.user.identity)
    await socket.close()

class Own(Exception):
    pass

@app.exception_handler(Exception)
async def own_words(request, error):
    return JSONResponse({"detail": "in the project's words"}, 500)

class Around(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        if request.url.path == "/threads/forbidden":
            return JSONResponse({"detail": "not here"}, 451)
        if request.url.path == "/info":
            raise ValueError("secret-of-the-project")
        request.state.tenant = "acme"
        answer = await call_next(request)
        answer.headers["X-Around"] = str(request.app is surrounded) + " " + " ".join(request.state.pool)
        return answer

surrounded = FastAPI(lifespan=lifespan)
surrounded.state.count = 0

class Counting:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            scope["app"].state.count += 1
        await self.app(scope, receive, send)

surrounded.add_middleware(Around)
surrounded.add_middleware(Counting)

@surrounded.get("/count")
def count(request: Request):
    return [request.app.state.count, request.state.tenant, request.user.identity]

@surrounded.get("/crash")
def crash_surrounded():
    raise ValueError("secret-of-the-project")

handled = FastAPI()
handled.add_exception_handler(Exception, own_words)

@handled.get("/crash")
def crash_handled():
    raise ValueError("secret-of-the-project")

app.exception_handlers.pop(Exception)

async def raw(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": repr(sorted(scope)).encode()})

@asynccontextmanager
async def failing(app):
    raise ConnectionError("no pool at " + os.environ["POOL"])
    yield

@asynccontextmanager
async def hanging(app):
    await asyncio.Event().wait()
    yield

@asynccontextmanager
async def exiting(app):
    sys.exit("good bye")
    yield

@asynccontextmanager
async def not_closing(app):
    yield
    raise OSError("the pool is stuck")

fails, hangs, exits, stuck = (Starlette(lifespan=one) for one in (failing, hanging, exiting, not_closing))

async def says_no(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "out of paper"})

def wsgi(environ, start_response):
    return []
"""
Serve = Callable[..., Any]


@pytest.fixture
def config(project: MakeProject) -> Callable[..., Path]:
    def make(name: str = "app", **http: Any) -> Path:
        said = {"app": f"./web.py:{name}", **http}
        files = {"web.py": WEB, "agent.py": GRAPH}
        env = {"POOL": "pool.internal.example"}
        return project(files, {"agent": "./agent.py:graph"}, http=said, env=env)

    return make


@pytest.fixture
def serve(make_tank: MakeTank, config: Callable[..., Path]) -> Serve:
    @contextmanager
    def start(
        name: str = "app",
        *,
        settings: dict[str, Any] | None = None,
        no_auth: bool = False,
        **http: Any,
    ) -> Iterator[Server]:
        tank = make_tank(admin_token=ADMIN_TOKEN, **(settings or {}))
        graphs = GraphSet(load(config(name, **http)), checkpointer=tank.checkpointer())
        with running(tank, graphs=graphs, no_auth=no_auth) as server:
            yield server

    return start


def test_its_routes_are_served_to_who_has_a_token_as_if_it_were_alone(serve: Serve) -> None:
    with serve() as server:
        said = server.as_role("user", "ada").get("/hello").json()
        assert said == {
            "hello": "ada", "role": "user", "pool": ["open"], "at": f"{server.url}/hello", "own": True,
        }  # fmt: skip
        assert server.client(**{"x-api-key": ADMIN_TOKEN}).get("/hello").json()["hello"] == "admin"
        for stranger in (server.client(), server.client("wrong")):
            refused = stranger.get("/hello")
            assert refused.status_code == 401
            assert refused.json()["code"] == "not-authenticated"
        text = server.admin.get("/stream")
        assert text.text.count("data: ") == 3


def test_ours_win_on_conflict_whatever_the_method(serve: Serve, caplog: Any) -> None:
    with serve() as server:
        (warning,) = (r for r in caplog.records if "project_app_routes_hidden" in r.getMessage())
        assert "['/threads/mine', '/info', '/ok']" in warning.getMessage()
        assert server.admin.get("/ok").json() == {"ok": True}
        assert server.admin.delete("/info").status_code == 405
        assert server.admin.get("/threads/mine").json()["code"] == "not-found"
        assert "/hello" not in server.admin.get("/openapi.json").json()["paths"]


async def test_clients_of_langgraph_find_both(serve: Serve) -> None:
    with serve() as server:
        async with get_client(url=server.url, api_key=server.token("user", "ada")) as client:
            thread = await client.threads.create()
            assert (await client.threads.get(thread["thread_id"]))["status"] == "idle"
            hello: Any = await client.http.get("/hello")
            assert hello["hello"] == "ada"


def test_it_is_open_to_everybody_only_when_the_file_says_so(serve: Serve) -> None:
    with serve(enable_custom_route_auth=False) as server:
        assert server.client().get("/page").text == "<h1>hello</h1>"
        assert server.client().get("/threads").status_code == 401
        # a refused token is no hindrance where none is asked for
        assert server.client("wrong").get("/page").status_code == 200


@pytest.mark.parametrize("path", ["/crash", "/exit"])
def test_what_it_raises_is_a_problem_with_a_reference_and_without_its_words(
    serve: Serve, path: str, caplog: Any
) -> None:
    with serve() as server:
        answer = server.admin.get(path)
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert body["code"] == "internal-error"
        assert f"reference='{body['reference']}'" in caplog.text
        assert "secret-of-the-project" not in answer.text
        assert server.admin.get("/hello").status_code == 200


def test_what_it_answers_itself_stays_its_own(serve: Serve) -> None:
    with serve() as server:
        assert server.admin.get("/teapot").status_code == 418
        assert server.admin.get("/teapot").json() == {"detail": "short and stout"}
        assert server.admin.get("/broken").json() == {"own": "answer"}
        assert server.admin.get("/nothing").json() == {"detail": "Not Found"}


def test_its_own_handler_of_exceptions_is_heard(serve: Serve) -> None:
    with serve("handled") as server:
        answer = server.admin.get("/crash")
        assert (answer.status_code, answer.json()) == (500, {"detail": "in the project's words"})


def test_its_middleware_surrounds_our_routes_too_and_each_request_once(serve: Serve) -> None:
    with serve("surrounded") as server:
        ada = server.as_role("user", "ada")
        assert ada.get("/count").json() == [1, "acme", "ada"]
        made = ada.post("/threads", json={})
        assert made.status_code == 200
        assert made.headers["X-Around"] == "True open"
        assert ada.get("/count").json() == [3, "acme", "ada"]
        assert ada.get("/threads/forbidden").status_code == 451
        # it is before the token, and within our layers
        assert server.client().get("/threads").headers["X-Around"] == "True open"
        assert server.client().get("/threads/forbidden").status_code == 451
        assert ada.get("/threads?token=abc").json()["code"] == "secret-in-url"
        for path in ("/info", "/crash"):
            broken = ada.get(path)
            assert broken.json()["code"] == "internal-error"
            assert broken.json()["reference"]
            assert "secret-of-the-project" not in broken.text


async def test_streams_come_through_its_middleware_as_they_happen(
    make_tank: MakeTank, config: Callable[..., Path]
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    graphs = GraphSet(load(config("surrounded")), checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    worker.start()
    with running(tank, graphs=graphs) as server:
        async with get_client(url=server.url, api_key=server.token("user", "ada")) as client:
            thread = await client.threads.create()
            events = [
                event.event
                async for event in client.runs.stream(thread["thread_id"], "agent", input={})
            ]
    assert worker.stop(20.0)
    assert events[0] == "metadata"
    assert events[-1] == "end"


def test_requests_go_through_our_layers(serve: Serve) -> None:
    with serve(settings={"server_max_body": 4096}) as server:
        admin = server.admin
        assert admin.post("/echo", content=b"x" * 5000).status_code == 413
        assert admin.get("/hello?token=abc").json()["code"] == "secret-in-url"
        answer = admin.get("/page")
        assert answer.headers["x-content-type-options"] == "nosniff"
        # pages have styles and scripts; only frames of others stay out
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        strict = admin.get("/strict").headers["content-security-policy"]
        assert strict == "default-src 'self'"
        # what we take for JSON on our own routes arrives there as it was sent
        sent = admin.post("/echo", content=b"abc", headers={"Content-Type": "text/plain"})
        assert sent.json() == {"type": "text/plain", "bytes": 3}
        key = {"Idempotency-Key": "k-1"}
        first = admin.post("/echo", content=b"abc", headers=key)
        again = admin.post("/echo", content=b"abc", headers=key)
        assert again.json() == first.json()
        assert again.headers["idempotency-replayed"] == "true"


def test_pages_of_other_origins_change_nothing_without_tokens(serve: Serve) -> None:
    with serve(no_auth=True) as server:
        assert server.client().get("/hello").json()["hello"] == "local"
        foreign = server.client(Origin="http://localhost:9")
        assert foreign.post("/echo", content=b"a").json()["code"] == "foreign-origin"


def test_web_sockets_are_opened_with_a_token_or_a_ticket(serve: Serve) -> None:
    with serve() as server:
        url = server.url.replace("http", "ws") + "/talk"
        headers = {"Authorization": f"Bearer {server.token('user', 'ada')}"}
        with connect(url, additional_headers=headers) as socket:
            assert socket.recv() == "ada"
        ticket = server.as_role("user", "bob").post("/ws/ticket").json()["ticket"]
        with connect(f"{url}?ticket={ticket}") as socket:
            assert socket.recv() == "bob"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code in (401, 403)


def test_an_application_without_a_lifespan_sees_nothing_of_ours(serve: Serve) -> None:
    with serve("raw") as server:
        seen = server.admin.get("/anything").text
        assert "surgetank" not in seen
        for ours in ("'app'", "'router'", "fastapi"):
            assert ours not in seen


def test_runs_begin_after_its_start_and_it_ends_after_them(
    make_tank: MakeTank, config: Callable[..., Path]
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    graphs = GraphSet(load(config()), checkpointer=tank.checkpointer())
    worker = tank.runs.service(graphs)
    app = create_app(tank, graphs=graphs, worker=worker)
    assert not worker.running
    with TestClient(app, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) as client:
        assert worker.running
        run = client.post("/runs/wait", json={"assistant_id": "agent", "input": {}})
        assert run.json() == {"opened": True}
    assert not worker.running
    assert sys.modules["web"].opened is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "has no 'nothing'"),
        ("opened", "is bool, which is no ASGI application"),
        ("FastAPI", "is the class FastAPI, which is no ASGI application"),
        ("wsgi", "is function, which is no ASGI application"),
    ],
)
def test_what_is_no_application_refuses_the_start(
    make_tank: MakeTank, config: Callable[..., Path], name: str, said: str
) -> None:
    tank = make_tank()
    with pytest.raises(ConfigurationError) as refused:
        create_app(tank, graphs=GraphSet(load(config(name))))
    assert "'http.app'" in refused.value.what
    assert said in refused.value.what
    assert refused.value.remedy


def test_code_that_fails_to_import_is_named_with_its_line(
    make_tank: MakeTank, project: MakeProject
) -> None:
    path = project(
        {"web.py": "import json\n\n1 / 0\n"}, {"a": "./a.py:g"}, http={"app": "web.py:app"}
    )
    with pytest.raises(ConfigurationError) as refused:
        create_app(make_tank(), graphs=GraphSet(load(path)))
    assert "'http.app' can't be loaded: ZeroDivisionError" in refused.value.what
    assert "web.py:3" in refused.value.what


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "ConnectionError: no pool at ***. At web.py:"),
        ("exits", "can't be started"),
        ("says_no", "can't be started: RuntimeError: out of paper"),
    ],
)
def test_a_start_that_fails_is_the_server_s(
    make_tank: MakeTank, config: Callable[..., Path], name: str, said: str
) -> None:
    app = create_app(make_tank(), graphs=GraphSet(load(config(name))))
    with pytest.raises(ConfigurationError) as refused, TestClient(app):
        pass
    assert said in refused.value.what
    assert "pool.internal.example" not in refused.value.what


async def test_one_that_is_never_ready_is_given_up(
    make_tank: MakeTank, config: Callable[..., Path]
) -> None:
    app = create_app(make_tank(), graphs=GraphSet(load(config("hangs"))))
    mounted: Any = app.router.default
    with pytest.raises(ConfigurationError, match=r"not ready after 0\.1 s"):
        async with mounted.running(start_s=0.1, stop_s=1.0):
            pytest.fail("it runs")


def test_one_that_can_t_close_does_not_hold_up_the_end(
    make_tank: MakeTank, config: Callable[..., Path], caplog: Any
) -> None:
    app = create_app(make_tank(), graphs=GraphSet(load(config("stuck"))))
    with TestClient(app):
        pass
    assert "the pool is stuck" in caplog.text


class TestAsAProcess:
    @pytest.fixture
    def start(
        self, tmp_path: Path, database_url: str, config: Callable[..., Path]
    ) -> Iterator[Callable[..., Process]]:
        started: list[Process] = []

        def make(name: str) -> Process:
            environment = {
                **os.environ, "SURGETANK_HOME": str(tmp_path / "home"),
                "SURGETANK_DATABASE_URL": database_url, "MARKS": str(tmp_path / "marks"),
            }  # fmt: skip
            started.append(Process(environment, "--no-auth", "--config", str(config(name))))
            return started[-1]

        yield make
        for one in started:
            one.process.kill()
            one.process.wait()
            one._reader.join(10)
            assert one.process.stdout is not None
            one.process.stdout.close()

    def test_it_is_stopped_by_sigterm_after_the_runs(
        self, start: Callable[..., Process], tmp_path: Path
    ) -> None:
        process = start("app")
        url = process.url()
        run = httpx.post(
            f"{url}/runs/wait", json={"assistant_id": "agent", "input": {}}, timeout=60
        )
        assert run.json() == {"opened": True}
        assert "project_app_routes_hidden" in process.text
        assert process.end(signal.SIGTERM) == 0
        assert (tmp_path / "marks").read_text() == "closed\n"
        assert "Traceback" not in process.text

    def test_told_to_stop_before_it_is_ready_it_ends(self, start: Callable[..., Process]) -> None:
        process = start("hangs")
        wait_until(lambda: "project_app_starting" in process.text, "the application to start")
        assert process.end(signal.SIGTERM) == 0
        assert "Traceback" not in process.text

    @pytest.mark.parametrize("name", ["fails", "exits"])
    def test_a_start_that_fails_ends_it_with_a_clear_error(
        self, start: Callable[..., Process], name: str
    ) -> None:
        process = start(name)
        assert process.process.wait(60) == 2
        process._reader.join(10)
        assert "'http.app' can't be started" in process.text
        assert "Traceback" not in process.text
        assert not re.search(r"surgetank serve: http://", process.text)
        assert "pool.internal.example" not in process.text
