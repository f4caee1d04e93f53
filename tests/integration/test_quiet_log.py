"""An outage is one incident, however many threads wait: a handful of lines in the program's log, one
event, one system error, and a banner for each thread that asks."""

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

    waiting = tank.parts.buffer.depth().entries

    def is_critical() -> bool:
        tank.parts.reporting.sweep(tank.parts.flushers)
        return [i.severity for i in tank.incidents()] == ["critical"]

    wait_until(is_critical, "the incident to be critical")
    (incident,) = tank.incidents()
    assert (incident.thread_id, incident.affected) == (None, THREADS)
    for number in (0, THREADS - 1):
        (banner,) = tank.incidents(f"t{number}")
        assert (banner.thread_id, banner.severity) == (f"t{number}", "critical")
        assert "is saved by itself" in banner.message
    assert tank.incidents("of nobody") == []
    told = tank.events.tail(0)[1]
    assert [event.type for event in told] == [
        "checkpoint_flush_error", "checkpoint_flush_critical_error",
    ]  # fmt: skip
    added = tank.parts.buffer.depth().entries - waiting
    assert added <= THREADS // 100, "entries that telling added"
    tank.close()
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    loud = [record for record in lines if record.levelno >= logging.WARNING]
    assert len(loud) == 2, [record.getMessage()[:150] for record in loud]
    assert len(lines) <= 20, [record.getMessage()[:150] for record in lines]
