"""A log that floods into an open page of the console: the longest task of the page, which is how long a click or a
key has to wait, and what of the lines the page counted.

There is no peer. Another process writes the lines, the server is a process of its own, the browser draws in software.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench.console import ConsoleServer, browser, console_server, is_here
from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS
from surgetank import Surgetank

TITLE = "A log that floods into the console"
_WATCH = """window.longest = 0;
new PerformanceObserver((list) => { for (const each of list.getEntries()) window.longest = Math.max(window.longest, each.duration); })
  .observe({ type: "longtask", buffered: false });"""  # noqa: E501 - a script of the page
_WRITERS = 8
_PATIENCE_S = 120.0


def emit(home: str, url: str, first: int, count: int, rate: int) -> None:
    """Write the lines, as fast as wanted, from several threads."""
    import threading

    with Surgetank(home, database_url=url, flush_in_process=False, flush_on_close=False) as tank:

        def some(start: int) -> None:
            begun = time.perf_counter()
            for n in range(start, count, _WRITERS):
                tank.emit_log(f"line {first + n} of the flood, as long as lines are", thread_id="t")
                ahead = begun + n / rate - time.perf_counter()
                if ahead > 0.002:
                    time.sleep(ahead)

        begun = time.perf_counter()
        threads = [threading.Thread(target=some, args=(k,)) for k in range(_WRITERS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        print(count / (time.perf_counter() - begun))


def run(scene: Scene) -> Recorder:
    """Some floods into one page."""
    recorder = Recorder("console_tail")
    if not is_here(scene):
        return recorder
    with console_server(scene) as server, browser() as chromium:
        _emit(server, 0, 1, 1000)
        page = chromium.new_context(viewport={"width": 1240, "height": 860}).new_page()
        server.log_in(page)
        page.goto(f"{server.url}/console/thread?id=t", wait_until="load")
        there = 1
        count, rate = scene.scale.log_lines, scene.scale.log_rate
        for number, _ in scene.turns([OURS]):
            page.wait_for_timeout(1000)
            page.evaluate(_WATCH)
            reached = _emit(server, there, count, rate)
            ended = time.perf_counter()
            there += count
            _wait_for(page, there)
            behind = time.perf_counter() - ended
            longest = page.evaluate("window.longest")
            what = f"{count:,} lines at {rate:,} a second"
            recorder.add(number, OURS, "longest", longest, label=f"longest task, {what}")
            recorder.add(
                number, OURS, "behind", 1000 * behind, label=f"counted after the last, {what}"
            )
            recorder.add(
                number,
                OURS,
                "reached",
                reached,
                label="lines a second that were written",
                unit="1/s",
            )
    return recorder


def _emit(server: ConsoleServer, first: int, count: int, rate: int) -> float:
    code = (
        "from bench.measures.console_tail import emit; "
        f"emit({server.home!r}, {server.database_url!r}, {first}, {count}, {rate})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise BenchError(f"no lines were written: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


def _wait_for(page: Any, lines: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    wanted = min(lines, 50_000)
    while int(page.locator("#log").get_attribute("data-lines") or 0) < wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"the page counts less than {wanted:,} lines")
        page.wait_for_timeout(20)
