"""What an outage costs to tell: many threads wait for a database that is away, and are flushed in
vain. Entries that telling adds to the buffer, and how long it holds the flushing thread up.

There is no peer: other savers have nobody to tell. An outage is one incident, whatever waits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS, open_tank
from surgetank import Surgetank
from surgetank.flush.events import FlushEvent
from surgetank.notify.notifier import Notifier

TITLE = "What telling of an outage costs"
_NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # no server listens there
_FLUSHES = 3


def run(scene: Scene) -> Recorder:
    """Some flushes of all threads, with the telling that the background does between them."""
    recorder, threads = Recorder("telling"), scene.scale.entries
    for number, _ in scene.turns([OURS]):
        with (
            _timed() as spent,
            open_tank(scene, _NOWHERE, flush_in_process=False, connect_timeout=1.0) as tank,
        ):
            _fill(tank, threads)
            before, held = tank.parts.buffer.depth().entries, list[float]()
            for _ in range(_FLUSHES):
                spent.clear()
                tank.flush("checkpoints")
                held.append(sum(spent))
                tank.parts.reporting.tell_all(tank.parts.flushers)
            added = tank.parts.buffer.depth().entries - before
            (incident,) = tank.incidents()
            if incident.affected != threads:
                raise BenchError(f"{incident.affected} threads are told of, {threads} wait")
        waiting = f"{threads:,} threads wait"
        recorder.add(
            number, OURS, "added", 100 * added / before, label=f"entries added, {waiting}", unit="%"
        )
        recorder.add(
            number, OURS, "held", 1000 * max(held), label=f"a flush held up at most, {waiting}"
        )
    return recorder


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds that the notifier took of the flushing thread, for each event."""
    spent: list[float] = []
    on_flush = Notifier.on_flush

    def timed(self: Notifier, event: FlushEvent) -> None:
        begun = time.perf_counter()
        on_flush(self, event)
        spent.append(time.perf_counter() - begun)

    with patch.object(Notifier, "on_flush", timed):
        yield spent


def _fill(tank: Surgetank, threads: int) -> None:
    source, saver = random.Random(1), tank.checkpointer()
    for _ in range(threads):
        chat.Thread(saver, str(uuid6())).put({"note": chat.text(source)}, writes=False)
