"""Pages of the console: how soon one is usable (its content is there and its scripts have run), and what an
open one costs the server in memory.

There is no peer. Server and browser share the machine, the browser draws in software.
"""

from __future__ import annotations

from typing import Any

from bench.console import ConsoleServer, browser, console_server, is_here
from bench.harness import Recorder, Scene
from bench.peers import OURS
from surgetank import Surgetank

TITLE = "Pages of the console"
PAGES = (
    "/overview",
    "/threads",
    "/thread?id=t3",
    "/inbox",
    "/jobs",
    "/parked",
    "/errors",
    "/tables",
    "/audit",
)
_USABLE = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"  # deferred scripts have run
_THREADS, _LINES = 60, 300


def run(scene: Scene) -> Recorder:
    """Each page in each round; then many at once."""
    recorder = Recorder("console")
    if not is_here(scene):
        return recorder
    with console_server(scene) as server, browser() as chromium:
        _fill(server)
        context = chromium.new_context(viewport={"width": 1240, "height": 860})
        page = context.new_page()
        server.log_in(page)
        for number, _ in scene.turns([OURS]):
            took = []
            for path in PAGES:
                page.goto(f"{server.url}/console{path}", wait_until="load")
                took.append(page.evaluate(_USABLE))
            recorder.add(number, OURS, "usable", max(took), label="the slowest page is usable")
        page.close()
        recorder.add(
            1,
            OURS,
            "memory",
            _memory(scene, server, context),
            label="server, each open page",
            unit="MB",
        )
    return recorder


def _memory(scene: Scene, server: ConsoleServer, context: Any) -> float:
    """Megabytes that each further page costs, after some are open."""
    pages = [_open(server, context) for _ in range(4)]
    pages[0].wait_for_timeout(8000)
    before = server.process.memory_info().rss
    pages += [_open(server, context) for _ in range(scene.scale.consoles)]
    pages[0].wait_for_timeout(8000)
    after = server.process.memory_info().rss
    for page in pages:
        page.close()
    return float(max(0, after - before)) / 1e6 / scene.scale.consoles


def _open(server: ConsoleServer, context: Any) -> Any:
    page = context.new_page()
    page.goto(f"{server.url}/console/thread?id=t3", wait_until="load")
    return page


def _fill(server: ConsoleServer) -> None:
    with Surgetank(
        server.home, database_url=server.database_url, flush_in_process=False, flush_on_close=False
    ) as tank:
        from bench import chat

        saver = tank.checkpointer()
        for n in range(_THREADS):
            chat.Thread(saver, f"t{n}").put({"note": f"note {n}"}, writes=False)
        for n in range(_LINES):
            tank.emit_log(f"line {n}", thread_id="t3")
