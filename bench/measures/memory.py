"""The most memory that a process takes to flush so many megabytes that wait.

The buffer is filled here and flushed by a process of its own, whose peak the kernel knows: the
interpreter and all libraries are in it. It is to stay the same however much waits.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.harness import BenchError, Recorder, Scene
from bench.peers import OURS
from surgetank import Surgetank

TITLE = "Memory of a flush"
_ROOT = Path(__file__).parents[2]
_VALUE = 512 * 1024
_VERSIONS = 8


def run(scene: Scene) -> Recorder:
    """Once: the kernel's figure hardly differs between runs."""
    recorder, home = Recorder("memory"), mkdtemp(dir=scene.home)
    with scene.server.database(migrated=True) as url:
        entries = _fill(home, url, scene.scale.memory_mb * 1024**2)
        command = [sys.executable, "-m", "bench.flush_once", home, url]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not told["ok"]:
        raise BenchError("the flush left something behind")
    label = f"{scene.scale.memory_mb} MB in {entries} entries"
    recorder.add(1, OURS, "before", told["before"] / 1e6, label="before the flush", unit="MB")
    recorder.add(
        1, OURS, "peak", told["peak"] / 1e6, label=f"peak while it flushes {label}", unit="MB"
    )
    recorder.add(1, OURS, "seconds", told["seconds"], label=f"time to flush {label}", unit="s")
    return recorder


def _fill(home: str, url: str, size: int) -> int:
    """Let `size` bytes wait: documents in a few versions, each with a new tenth. Returns how many
    entries."""
    source, entries = random.Random(1), 0
    with Surgetank(home, database_url=url, flush_in_process=False, flush_on_close=False) as tank:
        saver = tank.checkpointer()
        while tank.parts.buffer.depth().bytes < size:
            thread, document = chat.Thread(saver, str(uuid6())), _digits(source, _VALUE)
            for _ in range(_VERSIONS):
                document = document[_VALUE // 10 :] + _digits(source, _VALUE // 10)
                thread.put({"document": document}, writes=False)
                entries += 1
    return entries


def _digits(source: random.Random, size: int) -> str:
    """Text that is quickly made and compresses to half."""
    return source.randbytes(size // 2).hex()
