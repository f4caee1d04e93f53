"""Many threads with one entry each, beside one thread with as many entries: what a partition costs
the flush."""

from __future__ import annotations

import random

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.flushing import reservoir
from bench.harness import Recorder, Scene
from surgetank import SurgetankSaver

TITLE = "Many threads or one"
MANY = "as many threads"
ONE = "one thread"


def run(scene: Scene) -> Recorder:
    """Both in turn."""
    recorder, entries = Recorder("partitions"), scene.scale.entries
    for number, who in scene.turns([MANY, ONE]):
        with reservoir(scene) as store:
            saver = store.tank.checkpointer()
            _fill(saver, threads=entries if who == MANY else 1, steps=1 if who == MANY else entries)
            rate = entries / store.flush()
        recorder.add(
            number, who, "entries", rate, label=f"{entries:,} entries in", unit="entries/s"
        )
    return recorder


def _fill(saver: SurgetankSaver, threads: int, steps: int) -> None:
    """Checkpoints with a state that doesn't grow: only the number of partitions differs."""
    source = random.Random(1)
    for _ in range(threads):
        thread = chat.Thread(saver, str(uuid6()))
        for step in range(steps):
            thread.put({"note": chat.text(source), "step": step}, writes=False)
