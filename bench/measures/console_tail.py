"""A log that floods into an open page of the console: the longest task of the page, which is how
long a click or a key has to wait. Once the lines come as they are written, once all that were
written while the page was not connected come at once, as fast as the server gives them.

There is no peer. Other processes write the lines, the server is a process of its own, the browser
draws in software. On a machine that has more to do than this a task lasts as long as others are let
in; what it does itself is its time on the processor.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.console import ConsoleServer, browser, console_server, is_here, longest_tasks
from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS
from surgetank import Surgetank

TITLE = "A log that floods into the console"
_PROCESSES = 2
_WRITERS = 4  # threads of each
_PATIENCE_S = 120.0


def emit(home: str, url: str, count: int, rate: float) -> None:
    """Write the lines from several threads, as fast as wanted; printed is how long it took."""
    import threading

    with Surgetank(home, database_url=url, flush_in_process=False, flush_on_close=False) as tank:

        def some(start: int) -> None:
            begun = time.perf_counter()
            for n in range(start, count, _WRITERS):
                tank.emit_log(f"line {n} of the flood, as long as lines are", thread_id="t")
                ahead = begun + n / rate - time.perf_counter()
                if ahead > 0.002:
                    time.sleep(ahead)

        begun = time.perf_counter()
        threads = [threading.Thread(target=some, args=(k,)) for k in range(_WRITERS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        print(time.perf_counter() - begun)


def run(scene: Scene) -> Recorder:
    """Some floods into one page."""
    recorder = Recorder("console_tail")
    if not is_here(scene):
        return recorder
    count, rate = scene.scale.log_lines, scene.scale.log_rate
    with console_server(scene) as server, browser() as chromium:
        _emit(server, 1, rate)
        page = chromium.new_context(viewport={"width": 1240, "height": 860}).new_page()
        server.log_in(page)
        for number, _ in scene.turns([OURS]):

            def add(key: str, value: float, label: str, unit: str = "ms", n: int = number) -> None:
                recorder.add(n, OURS, key, value, label=label, unit=unit)

            _open(server, page)
            page.wait_for_timeout(1000)
            cpu, clock, reached = _traced(
                chromium, page, partial(_written, server, page, count, rate)
            )
            add("longest", cpu, f"longest task, processor, {count:,} lines at {rate:,} a second")
            add("longest clock", clock, "the same by the clock")
            add("reached", reached, "lines a second that were written", "1/s")

            release = _open(server, page, is_held=True)
            there = _lines(page)
            _emit(server, count, 100 * rate)
            cpu, clock, came = _traced(
                chromium, page, partial(_released, page, release, there, count)
            )
            add("at once", cpu, f"longest task, processor, {count:,} lines at once")
            add("at once clock", clock, "the same by the clock")
            add("came", came, "lines a second that came at once", "1/s")
    return recorder


def _traced(chromium: Any, page: Any, action: Callable[[], float]) -> tuple[float, float, float]:
    """The longest task meanwhile, on the processor and by the clock; and what the action gives."""
    chromium.start_tracing(page=page, categories=["toplevel"])
    try:
        result = action()
    finally:
        trace = chromium.stop_tracing()
    return *longest_tasks(trace), result


def _written(server: ConsoleServer, page: Any, count: int, rate: int) -> float:
    """Lines a second that other processes wrote, once the page has them all."""
    there = _lines(page)
    took = _emit(server, count, rate)
    _wait_for(page, there + count)
    return count / took


def _released(page: Any, release: Callable[[], None], there: int, count: int) -> float:
    """Lines a second that came when the page was connected."""
    begun = time.perf_counter()
    release()
    _wait_for(page, there + count)
    return count / (time.perf_counter() - begun)


def _open(server: ConsoleServer, page: Any, *, is_held: bool = False) -> Callable[[], None]:
    """Open the page; one that is held is not connected before what is returned is called."""
    held: list[Any] = []
    ticket = "**/console/ticket"

    def hold(route: Any) -> None:
        held.append(route)

    if is_held:
        page.route(ticket, hold)
    page.goto(f"{server.url}/console/thread?id=t", wait_until="load")
    deadline = time.monotonic() + _PATIENCE_S
    while is_held and not held:
        if time.monotonic() > deadline:
            raise BenchError("the page asks for no connection")
        page.wait_for_timeout(20)

    def release() -> None:
        for each in held:
            each.continue_()
        page.unroute(ticket)

    return release


def _emit(server: ConsoleServer, count: int, rate: float) -> float:
    """How many seconds it took to write the lines."""
    each = max(1, count // _PROCESSES)
    code = (
        "from bench.measures.console_tail import emit; "
        f"emit({server.home!r}, {server.database_url!r}, {each}, {rate / _PROCESSES})"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(min(count, _PROCESSES))
    ]  # fmt: skip
    took = []
    for process in running:
        output, complaint = process.communicate(timeout=600)
        if process.returncode:
            raise BenchError(f"no lines were written: {complaint[-500:]}")
        took.append(float(output.split()[-1]))
    return max(took)


def _lines(page: Any) -> int:
    return int(page.locator("#log").get_attribute("data-lines") or 0)


def _wait_for(page: Any, lines: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (there := _lines(page)) < min(lines, 50_000):
        if time.monotonic() > deadline:
            raise BenchError(f"the page counts {there:,} of {lines:,} lines")
        page.wait_for_timeout(20)
