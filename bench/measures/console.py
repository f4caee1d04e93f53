"""Pages of the console: how soon one is usable (its content is there and its scripts have run), what
an open one costs the server in memory, and how soon after the event a banner is seen.

There is no peer. Server and browser share the machine, the browser draws in software.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bench import chat
from bench.console import ConsoleServer, browser, console_server, is_here
from bench.harness import BenchError, Recorder, Scene
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
_BANNERS = {"warning": "checkpoint_flush_error", "critical": "checkpoint_flush_critical_error"}
_SEEN = """window.seen = {};
new MutationObserver(() => {
  for (const kind of ["warning", "critical"])
    if (document.querySelector(`#banners details.${kind}`)) window.seen[kind] ??= Date.now();
}).observe(document.getElementById("banners"), { childList: true });"""
_PATIENCE_S = 120.0


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
    for number, _ in scene.turns([OURS]):
        for kind, late in _banners(scene).items():
            label = f"from the event to the {'red' if kind == 'critical' else 'yellow'} banner"
            recorder.add(number, OURS, kind, late, label=label)
    return recorder


def _banners(scene: Scene) -> dict[str, float]:
    """How many milliseconds after an event was recorded its banner is in a page."""
    settings = {"SURGETANK_FLUSH_AGE": "0.1", "SURGETANK_CRITICAL_AFTER": "1"}
    with console_server(scene, **settings) as server, browser() as chromium:
        _fill(server)
        page = chromium.new_context(viewport={"width": 1240, "height": 860}).new_page()
        server.log_in(page)
        with page.expect_websocket():
            page.goto(f"{server.url}/console/thread?id=t3", wait_until="load")
        page.evaluate(_SEEN)
        with Surgetank(
            server.home, database_url=server.database_url, flush_in_process=False,
            flush_on_close=False,
        ) as tank:  # fmt: skip
            saver = tank.checkpointer()
            begin = tank.events.last_id()
            _take_away(scene, server)
            chat.Thread(saver, "t3").put({"note": "one more"}, writes=False)
            seen = _seen(page)
            _, events = tank.events.tail(begin)
    recorded = {event.type: 1000 * event.at for event in reversed(events)}
    return {kind: seen[kind] - recorded[event] for kind, event in _BANNERS.items()}


def _take_away(scene: Scene, server: ConsoleServer) -> None:
    """Nobody comes into the database any more."""
    name = conninfo_to_dict(server.database_url)["dbname"]
    with scene.server.admin() as admin:
        admin.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(str(name)))
        )
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )


def _seen(page: Any) -> dict[str, float]:
    deadline = time.monotonic() + _PATIENCE_S
    while len(seen := page.evaluate("window.seen")) < len(_BANNERS):
        if time.monotonic() > deadline:
            raise BenchError(f"the page shows no banners but {sorted(seen)}")
        page.wait_for_timeout(50)
    found: dict[str, float] = seen
    return found


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
        saver = tank.checkpointer()
        for n in range(_THREADS):
            chat.Thread(saver, f"t{n}").put({"note": f"note {n}"}, writes=False)
        for n in range(_LINES):
            tank.emit_log(f"line {n}", thread_id="t3")
