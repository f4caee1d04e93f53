"""The end of `surgetank demo` in a terminal: the console over what the story left, with an agent that goes on, a
question that waits for the one who sees it, and the incident that is over. Until Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from surgetank.app.surgetank import Surgetank
from surgetank.cli.demo_graph import scripted_agent
from surgetank.cli.output import out
from surgetank.cli.projects import open_graphs
from surgetank.exceptions import ConfigurationError, SurgetankError
from surgetank.workflows.graphs.config import assistant_id, load
from surgetank.workflows.runs import NewRun

_PORT = 8321
_LINES = (
    ("The thermometer in Oslo shows 21.5 degrees.", "info"),
    ("order=4821 status=delivered carrier=post", "debug"),
    ("The payment service answered late (2.8 s).", "warning"),
    ("The plan has four steps, this is the third.", "info"),
)


def stays(*, json: bool, leave: bool) -> bool:
    """Whether the demo stays up after its story: a person sits before it who can end it."""
    return not json and not leave and sys.stdin.isatty() and sys.stdout.isatty()


def say_how() -> None:
    """What a pipe is told in the stead of the console."""
    out.print("   In a terminal the demo stays up now, with the web console of all this.")


def show_console(
    tank: Surgetank, folder: Path, *, ready: Callable[[Any, str], None] = lambda *_: None
) -> None:
    """Serve the console of an open engine on this machine until Ctrl-C. `folder` has the demo's
    langgraph.json; `ready` is called with the server and its address."""
    try:
        from surgetank.console.app import Console  # noqa: PLC0415 - needs the extra
        from surgetank.server import serve as serving  # noqa: PLC0415
        from surgetank.server.app import create_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        out.print("   Its web console needs the extra `server`: pip install 'surgetank[server]'")
        return
    graphs = open_graphs(tank, load(folder / "demo-langgraph.json"))
    worker = tank.runs.service(graphs)
    app = create_app(tank, graphs=graphs, no_auth=True, worker=worker, mounts=[Console])
    try:
        bound = serving.bind("127.0.0.1", _PORT)
    except ConfigurationError:  # another server's
        bound = serving.bind("127.0.0.1", 0)
    with bound, _living(tank):
        serving.start_listening(bound)
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/console"

        def started() -> None:
            out.print(
                "   A question waits for you in the inbox, an agent goes on, the outage is among the flush jobs."
            )
            out.print(f"   The console: {url}   (Ctrl-C ends the demo)", style="bold")
            ready(server, url)

        server = serving.make_server(app, tank.settings, started=started)
        server.run(sockets=[bound])


@contextmanager
def _living(tank: Surgetank) -> Iterator[None]:
    """A question, and a conversation that goes on meanwhile."""
    tank.runs.accept(
        NewRun(
            thread_id="demo-question",
            assistant_id=str(assistant_id("mail")),
            graph_id="mail",
            kwargs={"input": {"to": "ada@example.com"}},
        ),
        actor="demo",
    )
    stop = threading.Event()
    thread = threading.Thread(target=_talk, args=(tank, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _talk(tank: Surgetank, stop: threading.Event) -> None:
    graph = scripted_agent(tank.checkpointer())
    config: Any = {"configurable": {"thread_id": "demo-live", "user_id": "local"}}
    for number in count():
        try:
            text, level = _LINES[number % len(_LINES)]
            tank.emit_log(text, thread_id="demo-live", level=level, logger="agent")
            if number % 5 == 0:
                graph.invoke({"messages": [("user", "How warm is it in Oslo?")]}, config)
        except SurgetankError:  # the engine says it to people, which is what the demo is for
            pass
        if stop.wait(1.0):
            return
