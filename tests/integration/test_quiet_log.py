"""An outage of 300 threads is a handful of lines in the program's log, and each thread still reads
of it in its own."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from support.savers import put_chain
from support.waiting import wait_until

THREADS = 300


def test_an_outage_of_300_threads_is_a_handful_of_lines(
    make_tank: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tank = make_tank(
        database_url="postgresql://nobody@127.0.0.1:1/none",
        connect_timeout=1.0,
        critical_after=0.5,
        retry_max=0.2,
    )
    saver = tank.checkpointer()
    for number in range(THREADS):
        put_chain(saver, f"t{number}", 1)
    assert not tank.flush().ok

    def all_critical() -> bool:
        tank.parts.reporting.sweep(tank.parts.flushers)
        found = [i for i in tank.events.incidents() if i.thread_id is not None]
        return len(found) == THREADS and all(i.severity == "critical" for i in found)

    wait_until(all_critical, "an incident of each thread")
    for number in (0, THREADS - 1):
        assert tank.logs(f"t{number}").lines
    tank.close()
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    loud = [record for record in lines if record.levelno >= logging.WARNING]
    assert any("more threads alike" in record.getMessage() for record in loud)
    assert 2 <= len(loud) <= 12, [record.getMessage()[:150] for record in loud]
    assert len(lines) <= 20, [record.getMessage()[:150] for record in lines]
